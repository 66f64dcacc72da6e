"""AlexNet's counts and sizes as assertions, and its placement on several devices."""
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lib import mesh as meshes
from lib import train
from lib.data.statistics import Statistics
from lib.experiment import Comparison, UsageError, change
from reproductions.alexnet import paper
from reproductions.alexnet.experiments import EXPERIMENTS, PAPER
from reproductions.alexnet.model import AlexNet, Model, build


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(experiment):
    return jax.eval_shape(build(experiment).init, jax.random.key(0))


def test_parameters_of_every_layer_and_in_total():
    found = {layer: count(params) for layer, params in shapes(PAPER).items()}
    assert found == paper.PARAMETERS
    assert sum(found.values()) == 60_965_224


@pytest.mark.parametrize('name, total', (paper.VARIANT_TOTALS | paper.CIFAR_TOTALS | {'no_lrn': paper.TOTAL}).items())
def test_parameters_of_variants(name, total):
    assert count(shapes(EXPERIMENTS[name])) == total


def test_feature_map_sizes_are_the_papers(monkeypatch):
    seen = {}
    for layer in ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8'):
        kind = type(getattr(nnx.eval_shape(lambda: AlexNet(Model(), 224, nnx.Rngs(params=0))), layer))
        monkeypatch.setattr(kind, '__call__', _recording(kind.__call__, seen))
    network = nnx.eval_shape(lambda: AlexNet(Model(), 224, nnx.Rngs(params=0)))
    graph, state = nnx.split(network)
    jax.eval_shape(lambda s, x: nnx.merge(graph, s)(x), state, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
    assert list(seen.values()) == [
        ((1, 224, 224, 3), (1, 55, 55, 96)), ((1, 27, 27, 96), (1, 27, 27, 256)), ((1, 13, 13, 256), (1, 13, 13, 384)),
        ((1, 13, 13, 384), (1, 13, 13, 384)), ((1, 13, 13, 384), (1, 13, 13, 256)), ((1, 6, 6, 256), (1, 4096)),
        ((1, 4096), (1, 4096)), ((1, 4096), (1, 1000))]


def _recording(call, seen):
    def recorded(self, x):
        y = call(self, x)
        seen[id(self)] = (x.shape, y.shape)
        return y
    return recorded if not hasattr(call, 'recorder') else call


def test_first_windows_begin_at_the_first_pixel_and_the_last_overhang():
    """224 pixels as in cuda-convnet: not 227, nor a border of 2 on each side."""
    conv1 = AlexNet(Model(widths=(2, 2, 2, 2, 2), fc_width=1, classes=1), 224, nnx.Rngs(params=0)).conv1

    def read_by(place):
        gradient = jax.grad(lambda x: conv1(x)[0, place, place, 0])(jnp.ones((1, 224, 224, 3)))
        rows = np.flatnonzero(np.abs(gradient).sum((0, 2, 3)))
        return rows.min(), rows.max()

    assert read_by(0) == (0, 10) and read_by(54) == (216, 223)


def test_published_initialisation():
    params = build(small(PAPER, init='normal')).init(jax.random.key(0))
    ones = {'conv2', 'conv4', 'conv5', 'fc6', 'fc7'}
    for layer, values in params.items():
        assert np.all(values['bias'] == (1 if layer in ones else 0)), layer
        assert abs(float(values['kernel'].std()) / 0.01 - 1) < 0.1, layer


def small(experiment, init='scaled'):
    """The same experiment with few maps, small images, and initial weights that let a signal through so few maps."""
    if isinstance(experiment, Comparison):
        experiment = experiment.base
    if isinstance(experiment.model, Model):
        model = dataclasses.replace(experiment.model, widths=(8, 16, 12, 12, 8), fc_width=32, classes=10,
                                    init=init)
        experiment = change(dataclasses.replace(experiment, model=model), 'data.image_size', 64)
    return experiment


@pytest.mark.parametrize('name', [name for name in EXPERIMENTS if name != 'paper'])
def test_every_experiment_differs_from_its_published_recipe(name):
    """In its function, its gradient or its data: an ablation that changes nothing is a mistake."""
    experiment, published = small(EXPERIMENTS[name]), small(PAPER)
    size = experiment.data.image_size
    x = 50 * jax.random.normal(jax.random.key(1), (4, size, size, 3))
    labels = jnp.arange(4)

    def first_loss(experiment):
        task = build(experiment)
        loss, gradient = jax.value_and_grad(lambda p: task.loss(p, x, labels, jax.random.key(2))[0])(
            task.init(jax.random.key(0)))
        assert all(np.isfinite(leaf).all() and np.any(leaf != 0) for leaf in jax.tree.leaves(gradient)), name
        return float(loss)

    loss = first_loss(experiment)
    if type(experiment.model) is Model and experiment.model != published.model:
        assert loss != first_loss(published)
    else:
        assert np.isfinite(loss) and experiment != published


def test_dropout_only_in_training_and_its_rate_is_the_models():
    task = build(small(EXPERIMENTS['quickstart']))
    params, x = task.init(jax.random.key(0)), jnp.ones((2, 64, 64, 3))
    first, second = (task.loss(params, x, jnp.zeros(2, int), jax.random.key(k))[0] for k in (0, 1))
    assert first != second
    np.testing.assert_array_equal(task.predict(params, x), task.predict(params, x))
    np.testing.assert_allclose(task.predict(params, x).sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize('shape', ['data:2', 'data:1,model:2', 'data:2,model:2', 'data:4,model:2'])
def test_placement_changes_nothing(shape):
    """Loss and gradients in float64, where ties in ReLU and pooling do not flip."""
    with jax.enable_x64(True):
        experiment = small(PAPER)
        task = build(experiment)
        params = jax.tree.map(lambda a: a.astype(jnp.float64), task.init(jax.random.key(0)))
        x = 50 * jax.random.normal(jax.random.key(1), (8, 64, 64, 3), jnp.float64)
        labels, key = jnp.arange(8), jax.random.key(2)
        gradient = jax.value_and_grad(lambda p, x, y: task.loss(p, x, y, key)[0])
        loss, alone = jax.jit(gradient)(params, x, labels)
        mesh = meshes.make(shape)
        with jax.set_mesh(mesh):
            placed = jax.device_put(params, meshes.placement(params, mesh))
            batch = jax.device_put((x, labels), meshes.images(mesh))
            together_loss, together = jax.jit(gradient)(placed, *batch)
        np.testing.assert_allclose(together_loss, loss, rtol=1e-12)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-12), alone, together)
        if mesh.shape['model'] == 2:
            assert together['conv2']['kernel'].sharding.shard_shape((5, 5, 4, 16)) == (5, 5, 4, 8)


def collectives(shape: str) -> list[tuple[str, str]]:
    """(operation, shape of the result) of every collective in the compiled training step on batches of 8."""
    experiment, mesh = dataclasses.replace(small(PAPER), batch_size=8), meshes.make(shape)
    task = build(experiment)
    with jax.set_mesh(mesh):
        state = jax.eval_shape(lambda: train.init(task, experiment, mesh))
        placed = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), state,
                              meshes.placement(state, mesh))
        facts = Statistics(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((72, 72, 3), (3,), (3, 3))))
        batch = [jax.ShapeDtypeStruct(shape, kind, sharding=meshes.images(mesh))
                 for shape, kind in (((8, 72, 72, 3), jnp.uint8), ((8,), jnp.int32))]
        step = train.make_step(task, experiment).lower(placed, *batch, facts, np.uint32(0), np.float32(0.1)).compile()
    found = re.findall(r'= (\S+|\(.*?\)) (all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)\(',
                       step.as_text())
    return [(operation, re.sub(r'\{[\d,]*\}', '', result)) for result, operation in found]


def test_two_devices_exchange_activations_where_figure_2_does():
    """Into conv3, fc6, fc7 and fc8; their gradients come back summed; the rest is softmax and counting."""
    found = collectives('data:1,model:2')
    into = ['f32[8,3,3,16]', 'f32[8,1,1,8]', 'f32[8,32]', 'f32[8,32]']      # conv3, fc6, fc7, fc8
    gathered = [shape for operation, shape in found if operation == 'all-gather' and 'f32[8,2]' != shape != 's32[8,2]']
    assert sorted(gathered) == sorted(into)
    summed = ' '.join(shape for operation, shape in found if operation == 'all-reduce')
    assert summed.count('f32[8,3,3,16]') == 1 and summed.count('f32[8,32]') == 2 and summed.count('f32[8,8]') == 1
    assert {operation for operation, _ in found} == {'all-gather', 'all-reduce'}


def test_data_parallel_training_exchanges_gradients_only():
    found = collectives('data:2')
    assert [operation for operation, _ in found] == ['all-reduce'] * 2      # the number of errors; gradients and loss
    assert not any(re.search(r'\[[48],\d+(,\d+,\d+)?\]', shape) for _, shape in found), found


def test_mesh_that_does_not_divide_the_groups_is_refused():
    task, mesh = build(small(PAPER)), meshes.make('model:4')
    with jax.set_mesh(mesh), pytest.raises(UsageError, match='does not divide the 2 groups'):
        jax.eval_shape(task.predict, shapes(small(PAPER)), jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.float32))


@pytest.mark.parametrize('text', ['model', 'data:0', 'data:1;model:2', 'rows:2', 'data:-1'])
def test_malformed_mesh_is_refused(text):
    with pytest.raises(UsageError, match='data:N,model:M'):
        meshes.parse(text)


def test_mesh_with_too_few_devices_is_refused():
    with pytest.raises(UsageError, match='needs 512 devices'):
        meshes.make('data:256,model:2')
