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
from lib.experiment import Comparison, UsageError, change, diff
from lib.optimizers import learning_rate
from lib.task import count
from reproductions.alexnet import paper
from reproductions.alexnet.experiments import EXPERIMENTS, PAPER
from reproductions.alexnet.model import AlexNet, Model, build
from tests import networks


def shapes(experiment):
    return networks.shapes(build, experiment)


def test_parameters_of_every_layer_and_in_total():
    found = {layer: count({layer: params}) for layer, params in shapes(PAPER).items()}
    assert found == paper.PARAMETERS
    assert sum(found.values()) == 60_965_224


@pytest.mark.parametrize('name, total', (paper.VARIANT_TOTALS | paper.CIFAR_TOTALS | {'no_lrn': paper.TOTAL}).items())
def test_parameters_of_variants(name, total):
    assert count(shapes(EXPERIMENTS[name])) == total


def test_feature_map_sizes_are_the_papers():
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    found = jax.eval_shape(build(PAPER).activations, shapes(PAPER), image)
    assert {name: maps.shape[1:] for name, maps in found.items() if not name.startswith('norm')} == paper.SIZES
    assert ' '.join(found) == 'conv1 norm1 pool1 conv2 norm2 pool2 conv3 conv4 conv5 pool5 fc6 fc7 fc8'


@pytest.mark.parametrize('name, facts', [
    ('paper', {'lrn_k': 2.0, 'lrn_alpha': 1e-4, 'lrn_own_group': True, 'lrn_after': ('unit', 'unit'),
               'bias_init': 1.0}),
    ('caffe', {'lrn_k': 1.0, 'lrn_alpha': 1e-4 / 5, 'lrn_own_group': False, 'lrn_after': ('unit', 'unit'),
               'bias_init': 0.1}),
    ('caffenet', {'lrn_k': 1.0, 'lrn_alpha': 1e-4 / 5, 'lrn_own_group': False, 'lrn_after': ('pool', 'pool'),
                  'bias_init': 1.0}),
    ('torchvision', {'norm': 'none', 'padding': 2, 'rounding': 'floor', 'groups': 1}),
    ('cuda_convnet2', {'lrn_k': 2.0, 'lrn_alpha': 1e-4 / 5, 'lrn_after': ('conv', 'unit'), 'groups': 1}),
    ('one_weird_trick_128', {'lrn_k': 2.0, 'lrn_alpha': 1e-4 / 5, 'lrn_after': ('conv', 'unit'), 'loss': 'logistic',
                             'last_bias_init': -7.0})])
def test_constants_of_other_peoples_recipes(name, facts):
    """Caffe and both cuda-convnets divide alpha by the window of 5."""
    for field, value in facts.items():
        expected = pytest.approx(value) if type(value) is float else value
        assert getattr(EXPERIMENTS[name].model, field) == expected, field


@pytest.mark.parametrize('row', paper.WEIRD_TRICK)
def test_rates_of_one_weird_trick_grow_with_the_batch_and_fall_to_a_250th(row):
    experiment = EXPERIMENTS[row.experiment]
    assert (experiment.batch_size, experiment.optimizer.fc_batch) == (row.batch, row.fc_batch)
    first, *_, last = (learning_rate(experiment, 1_281_167, step, ()) for step in
                       (0, experiment.steps_at(90, 1_281_167)))
    assert first == pytest.approx(0.01 * row.batch / 128) and last == pytest.approx(first / 250)
    assert first * experiment.optimizer.fc_learning_rate == pytest.approx(0.01 * row.fc_batch / 128)


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
    """The same experiment with few maps, small images and batches, and initial weights that let a signal through so
    few maps."""
    if isinstance(experiment.model, Model):
        narrow = {96: 8, 48: 4, 64: 6, 24: 4, 128: 8, 256: 16, 192: 12, 384: 12}
        widths = tuple(narrow[width] for width in experiment.model.widths)
        model = dataclasses.replace(experiment.model, widths=widths, fc_width=32, classes=10, init=init,
                                    conv6=8 if experiment.model.conv6 else 0)
        experiment = dataclasses.replace(experiment, model=model)
        experiment = change(experiment, 'data.image_size', max(64, experiment.data.image_size - 160))
    if fc_batch := experiment.optimizer.fc_batch:
        experiment = change(experiment, 'optimizer.fc_batch', 8 * fc_batch // experiment.batch_size)
    return dataclasses.replace(experiment, batch_size=8)


def two_steps(experiment):
    return networks.two_steps(build, experiment, 32 if experiment.data.image_size < 48 else 72)


@pytest.fixture(scope='module')
def paper_steps():
    return two_steps(small(PAPER))


COMPARISONS = [name for name, experiment in EXPERIMENTS.items() if isinstance(experiment, Comparison)]


@pytest.mark.parametrize('name', [name for name in EXPERIMENTS if name not in ('paper', *COMPARISONS)])
def test_every_experiment_trains_and_differs_from_the_paper(name, paper_steps):
    """An ablation that changes nothing is a mistake, and so is one in which a parameter never moves."""
    experiment = EXPERIMENTS[name]
    published = EXPERIMENTS[experiment.published]
    assert experiment is published or diff(experiment, published)
    if name in SAME_RECIPE:
        assert two_steps(small(experiment)) == paper_steps
    else:
        assert two_steps(small(experiment)) != paper_steps


SAME_RECIPE = {'ilsvrc2010'}    # other data, and nothing else


@pytest.mark.parametrize('name', COMPARISONS)
def test_every_arm_trains_and_differs_from_the_others(name):
    networks.every_arm_differs(EXPERIMENTS[name], lambda experiment: two_steps(small(experiment)))


def test_dropout_only_in_training_and_its_rate_is_the_models():
    task = build(small(EXPERIMENTS['quickstart']))
    params, x = task.init(jax.random.key(0)), jnp.ones((2, 64, 64, 3))
    first, second = (task.loss(params, x, jnp.zeros(2, int), jax.random.key(k))[0] for k in (0, 1))
    assert first != second
    np.testing.assert_array_equal(task.predict(params, x), task.predict(params, x))
    np.testing.assert_allclose(task.predict(params, x).sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize('shape', ['data:1', 'data:2', 'data:1,model:2', 'data:2,model:2', 'data:4,model:2'])
def test_placement_changes_nothing(shape):
    experiment = small(PAPER)
    gradient = networks.loss_and_gradient_on(shape, build(experiment), experiment)
    if shape.endswith('model:2'):
        assert gradient['conv2']['kernel'].sharding.shard_shape((5, 5, 4, 16)) == (5, 5, 4, 8)


def compiled_step(shape: str, experiment=None, stored: int = 72):
    """The training step for a mesh, compiled from shapes alone; by default small, on batches of 8."""
    experiment, mesh = experiment or dataclasses.replace(small(PAPER), batch_size=8), meshes.make(shape)
    task, n = build(experiment), experiment.batch_size
    with jax.set_mesh(mesh):
        state = jax.eval_shape(lambda: train.init(task, experiment, mesh))
        placed = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), state,
                              meshes.placement(state, mesh))
        facts = Statistics(*(jax.ShapeDtypeStruct(shape, jnp.float32)
                             for shape in ((stored, stored, 3), (3,), (3, 3))))
        batch = [jax.ShapeDtypeStruct(shape, kind, sharding=meshes.images(mesh))
                 for shape, kind in (((n, stored, stored, 3), jnp.uint8), ((n,), jnp.int32))]
        return train.make_step(task, experiment).lower(placed, *batch, facts, np.uint32(0), np.float32(0.1)).compile()


def collectives(compiled) -> list[tuple[str, str]]:
    """(operation, shape of the result) of every collective in a compiled step that has more than one device."""
    found = re.findall(r'= (\S+|\(.*?\)) (all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)\((.*)',
                       compiled.as_text())
    return [(operation, re.sub(r'\{[\d,]*\}', '', result)) for result, operation, rest in found
            if not _alone(rest)]


def _alone(attributes: str) -> bool:
    """Whether each device is a group of its own, in the old notation {{0},{1}} or in that of mesh axes."""
    axes = re.search(r'replica_groups=mesh\[(.*?)\] \{(.*?)\}', attributes)
    if axes is None:
        return 'replica_groups={{0},' in attributes
    size = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
    return all(size[name] == '1' for name in re.findall(r'\w+', axes[2]))


def sizes(result: str) -> list[tuple[int, ...]]:
    """The shapes of the float32 arrays in the result of a collective, without axes of length one."""
    return [tuple(int(n) for n in axes.split(',') if n not in ('', '1'))
            for axes in re.findall(r'f32\[([\d,]*)\]', result)]


def test_two_devices_exchange_activations_where_figure_2_does():
    """Four all-gathers, into conv3, fc6, fc7 and fc8, and four all-reduces of the gradients that come back, of the same
    shapes; the rest is softmax and counting, of one or two numbers an image."""
    found = collectives(compiled_step('data:1,model:2'))
    exchanged = [(8, 3, 3, 16), (8, 16), (8, 32), (8, 32)]
    gathered = [size for kind, result in found for size in sizes(result) if kind == 'all-gather' and size != (8, 2)]
    summed = [size for kind, result in found for size in sizes(result) if kind == 'all-reduce' and len(size) > 1]
    assert sorted(gathered) == sorted(summed) == sorted(exchanged)
    assert {kind for kind, _ in found} == {'all-gather', 'all-reduce'}
    rest = [size for _, result in found for size in sizes(result) if size not in exchanged]
    assert all(np.prod(size) <= 16 for size in rest), rest


def test_data_parallel_training_exchanges_gradients_only():
    found = collectives(compiled_step('data:2'))
    assert [operation for operation, _ in found] == ['all-reduce'] * 2      # the number of errors; gradients and loss
    assert not any(size[:1] in ((4,), (8,)) and len(size) in (2, 3, 4) for _, result in found
                   for size in sizes(result)), found


def test_parameters_and_velocity_take_half_the_memory_on_each_of_two_devices():
    """The state is donated, so its bytes on a device are those that input and output share."""
    alone, halves, copies = (compiled_step(shape).memory_analysis().alias_size_in_bytes
                             for shape in ('data:1', 'data:1,model:2', 'data:2'))
    assert alone == 2 * 4 * count(shapes(small(PAPER)))
    assert halves * 2 == alone == copies


@pytest.mark.slow
def test_two_devices_exchange_59_mib_a_step_of_the_published_network():
    """At batch 128: 29.6 MiB of activations into conv3, fc6, fc7 and fc8, and as much of gradients back."""
    compiled = compiled_step('data:1,model:2', PAPER, stored=256)
    exchanged = {(128, 13, 13, 256), (128, 6, 6, 256), (128, 9216), (128, 4096)}
    size = {'all-gather': 0, 'all-reduce': 0}
    for kind, result in collectives(compiled):
        size[kind] += sum(4 * int(np.prod(size)) for size in sizes(result) if size in exchanged)
    assert size == {'all-gather': 31_064_064, 'all-reduce': 31_064_064}
    assert 2 * compiled.memory_analysis().alias_size_in_bytes == 2 * 4 * paper.TOTAL


def test_mesh_that_does_not_divide_the_groups_is_refused():
    task, mesh = build(small(PAPER)), meshes.make('model:4')
    with jax.set_mesh(mesh), pytest.raises(UsageError, match='does not divide the 2 groups'):
        jax.eval_shape(task.predict, shapes(small(PAPER)), jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.float32))


@pytest.mark.parametrize('text', ['model', 'data:0', 'data:1;model:2', 'rows:2', 'data:-1', 'data:2,data:4'])
def test_malformed_mesh_is_refused(text):
    with pytest.raises(UsageError, match='data:N,model:M'):
        meshes.parse(text)


def test_mesh_with_too_few_devices_is_refused():
    with pytest.raises(UsageError, match='needs 512 devices'):
        meshes.make('data:256,model:2')


def test_devices_of_several_hosts_are_refused(monkeypatch):
    monkeypatch.setattr(jax, 'process_count', lambda: 4)
    with pytest.raises(UsageError, match='one of 4 that share devices'):
        meshes.make('data:1')
