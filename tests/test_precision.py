"""bfloat16 beside float32, batches in parts, and layers that are computed twice: what they change and what they do not.
"""
import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
import test_alexnet
import test_googlenet
import test_nin
import test_vgg
import test_zfnet

from launch import workdir
from launch.papers import PAPERS
from lib import geometry, train, trained
from lib import mesh as meshes
from lib.data.statistics import Statistics
from lib.experiment import UsageError, change_all, diff, override
from lib.layers import at_least_float32, average_pool, local_response_norm, same_map_response_norm

# Of each paper an experiment made small, and the pixels a side of its stored images.
SMALL = {
    'alexnet': (test_alexnet.small(PAPERS['alexnet'].experiments['paper']), 72),
    'alexnet batch_norm': (test_alexnet.small(PAPERS['alexnet'].experiments['batch_norm']), 72),
    'alexnet 11pct': (test_alexnet.small(PAPERS['alexnet'].experiments['cifar_11pct']), 32),
    'zfnet': (test_zfnet.small(PAPERS['zfnet'].experiments['paper']), 72),
    'nin': (test_nin.small(PAPERS['nin'].experiments['paper']), 16),
    'vgg': (test_vgg.small(PAPERS['vgg'].experiments['paper']), 40),
    'googlenet': (test_googlenet.small(PAPERS['googlenet'].experiments['paper']), 44),
    'lenet5': (dataclasses.replace(PAPERS['lenet5'].experiments['paper'], batch_size=8), 32),
}
ALEXNET, STORED = SMALL['alexnet']


def paper(name: str):
    return PAPERS[name.split()[0]]


def bfloat16(experiment, **changes):
    return change_all(experiment, {'precision': 'bfloat16'} | {k.replace('__', '.'): v for k, v in changes.items()})


@pytest.mark.parametrize('name', SMALL)
def test_every_network_trains_almost_as_in_float32(name):
    experiment, stored = SMALL[name]
    count, losses, *_ = networks.two_steps(paper(name).build, bfloat16(experiment), stored)
    expected_count, expected, *_ = networks.two_steps(paper(name).build, experiment, stored)
    assert count == expected_count
    np.testing.assert_allclose(losses, expected, rtol=0.05)
    assert losses != expected


@pytest.mark.parametrize('name', SMALL)
def test_products_are_of_bfloat16_and_sums_are_not(name):
    """In the program of a gradient, before a compiler has seen it."""
    experiment, _ = SMALL[name]
    task, side = paper(name).build(bfloat16(experiment)), experiment.data.image_size
    params = jax.eval_shape(task.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((8, side, side, 3), jnp.float32)
    gradient = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    text = gradient.lower(params, images, jnp.arange(8), jax.random.key(1)).as_text()
    products = re.findall(r'stablehlo\.(?:convolution|dot_general).*-> tensor<[\dx]*(\w+)>', text)
    assert len(products) > 10 and set(products) == {'bf16'}
    sums = re.findall(r'stablehlo\.reduce\(.*applies stablehlo\.add .*\(tensor<(.*?)>, .*-> tensor<(.*?)>', text)
    sums = [one for one, other in sums if re.sub('x1(?=x)', '', one) != other]      # of more than one number
    assert len(sums) > 5 and not [one for one in sums if 'bf16' in one]
    assert not re.findall(r'stablehlo\.(?:exponential|log|power|rsqrt)\b.*bf16', text)
    (loss, (_, moved)), gradients = jax.eval_shape(gradient, params, images, jnp.arange(8), jax.random.key(1))
    assert {leaf.dtype for leaf in jax.tree.leaves((loss, moved, gradients))} == {jnp.dtype('float32')}


@pytest.mark.parametrize('layer', [
    lambda x: local_response_norm(x, n=5, k=0.0, alpha=1.0, beta=1.0), lambda x: average_pool(x, 3, 2),
    lambda x: same_map_response_norm(x, n=5, k=0.0, alpha=1.0, beta=1.0)])
def test_sums_of_normalisation_and_pooling_are_rounded_once(layer):
    x = 1 + jax.random.uniform(jax.random.key(0), (2, 8, 8, 16)).astype(jnp.bfloat16)
    found = layer(x)
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found, layer(at_least_float32(x)).astype(x.dtype))


def test_probabilities_of_a_dense_evaluation_are_float32():
    task = PAPERS['vgg'].build(bfloat16(SMALL['vgg'][0]))
    params, x = jax.jit(task.init)(jax.random.key(0)), 50 * jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    found, expected = jax.jit(task.dense)(params, x), jax.jit(task.predict)(params, x)
    assert found.dtype == expected.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=0.02)


def test_geometry_is_that_of_the_network():
    side = ALEXNET.data.image_size
    assert geometry.measure(PAPERS['alexnet'].build(bfloat16(ALEXNET)), side) == \
        geometry.measure(PAPERS['alexnet'].build(ALEXNET), side)


def on(shape: str, experiment):
    """Loss, number of wrong answers and the parameters after two steps of AlexNet on a mesh, and the compiled step."""
    task, mesh = PAPERS['alexnet'].build(experiment), meshes.make(shape)
    images = np.random.default_rng(0).integers(0, 255, (8, STORED, STORED, 3), np.uint8)
    facts = Statistics(np.full(images.shape[1:], 128, np.float32), np.array([900, 90, 9], np.float32),
                       np.eye(3, dtype=np.float32))
    with jax.set_mesh(mesh):
        state, step = train.init(task, experiment, mesh), train.make_step(task, experiment)
        batch = jax.device_put((images, np.arange(8)), meshes.images(mesh))
        facts = jax.device_put(facts, meshes.everywhere(mesh))
        compiled = step.lower(state, *batch, facts, np.uint32(0), np.float32(1e-3)).compile()
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) if mesh.size == 1 else None
        for number in range(2):
            state, loss, wrong = compiled(state, *batch, facts, np.uint32(number), np.float32(1e-3))
    return float(loss), int(wrong), jax.device_get(state), compiled, held


@pytest.mark.parametrize('changes', [
    {'optimizer__accumulation_steps': 2, 'rematerialize': True}, {'optimizer__fc_batch': 4, 'rematerialize': True},
    {'model__norm': 'batch', 'optimizer__averaging': 0.9}])
def test_bfloat16_on_four_devices_is_that_on_one(changes):
    experiment = bfloat16(ALEXNET, **changes)
    loss, _, state, *_ = on('data:2,model:2', experiment)
    expected, _, expected_state, *_ = on('data:1', experiment)
    np.testing.assert_allclose(loss, expected, rtol=0.05)      # batch normalisation of eight images magnifies rounding
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {np.dtype('float32')}
    moved, expected_moved = (tree['velocity']['fc8']['kernel'].ravel() for tree in (state, expected_state))
    assert moved @ expected_moved > 0.9 * np.linalg.norm(moved) * np.linalg.norm(expected_moved)


def test_the_state_is_updated_in_place():
    """Its old and its new arrays share their memory."""
    experiment = dataclasses.replace(ALEXNET, optimizer=dataclasses.replace(ALEXNET.optimizer, averaging=0.9))
    *_, compiled, held = on('data:1', experiment)
    assert compiled.memory_analysis().alias_size_in_bytes == held


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def whole_step(experiment, shape='data:1'):
    """State, loss and logits after a step in float64 from random crops, without dropout, and the compiled step."""
    task, mesh = PAPERS['alexnet'].build(experiment), meshes.make(shape)
    params = jax.tree.map(lambda a: a.astype(jnp.float64), task.init(jax.random.key(0)))
    state = {'params': params, 'velocity': jax.tree.map(jnp.zeros_like, params)}
    images = 50 * jax.random.normal(jax.random.key(1), (8, 64, 64, 3), jnp.float64)
    step = jax.jit(lambda state, images, labels: train._whole_batch(
        task, experiment.optimizer, state, images, labels, jax.random.key(2), jnp.float64(0.01)))
    with jax.set_mesh(mesh):
        state = jax.device_put(state, meshes.placement(state, mesh))
        batch = jax.device_put((images, jnp.arange(8)), meshes.images(mesh))
        compiled = step.lower(state, *batch).compile()
        return compiled(state, *batch), compiled.as_text()


def assert_same(tree, other, rtol=1e-11):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-13), tree, other)


def without_dropout(**changes):
    return change_all(ALEXNET, {'model.dropout': 0.0} | {k.replace('__', '.'): v for k, v in changes.items()})


@pytest.mark.parametrize('steps, shape', [(2, 'data:1'), (8, 'data:1'), (2, 'data:2'), (4, 'data:2'),
                                          (2, 'data:2,model:2')])
def test_a_batch_in_parts_gives_the_step_of_the_whole(float64, steps, shape):
    expected, _ = whole_step(without_dropout())
    found, text = whole_step(without_dropout(optimizer__accumulation_steps=steps), shape)
    assert_same(found, expected)
    if shape == 'data:2':       # each device works on its own images
        assert set(re.findall(r'all-gather|all-to-all|collective-permute|all-reduce', text)) == {'all-reduce'}


def test_crops_and_wrong_answers_of_a_batch_in_parts_are_those_of_the_whole():
    found, expected = (on('data:1', without_dropout(optimizer__accumulation_steps=steps))[:3] for steps in (4, 1))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert found[1] == expected[1]


def test_averages_of_batch_normalisation_move_once_a_step(float64):
    (found, _, _), _ = whole_step(without_dropout(model__norm='batch', optimizer__accumulation_steps=4))
    (expected, _, _), _ = whole_step(without_dropout(model__norm='batch'))
    assert_same(found['params']['conv1_norm']['mean'], expected['params']['conv1_norm']['mean'])


def test_layers_computed_twice_give_the_same_and_leave_less_behind(float64):
    plain, twice = without_dropout(), without_dropout(rematerialize=True)
    assert_same(whole_step(twice)[0], whole_step(plain)[0])

    def left(experiment):
        """Bytes that the forward pass leaves for the backward one, besides parameters and images."""
        task = PAPERS['alexnet'].build(experiment)
        params = jax.eval_shape(task.init, jax.random.key(0))
        images = jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.float32)
        back = jax.eval_shape(lambda params, images: jax.vjp(
            lambda params: task.loss(params, images, jnp.arange(8), jax.random.key(0)), params, has_aux=False)[1],
            params, images)
        shapes = {leaf.shape for leaf in jax.tree.leaves((params, images))}
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(back) if leaf.shape not in shapes)

    assert left(twice) < 0.5 * left(plain)


def test_what_does_not_fit_together_is_refused(tmp_path):
    with pytest.raises(UsageError, match='accumulation_steps=3 must divide batch_size=8'):
        override(ALEXNET, ['optimizer.accumulation_steps=3'])
    with pytest.raises(UsageError, match='set it to 1, or those to none'):
        override(ALEXNET, ['optimizer.accumulation_steps=2', 'optimizer.fc_batch=4'])
    with pytest.raises(UsageError, match='one of float32, bfloat16'):
        override(ALEXNET, ['precision=float16'])


def test_a_run_is_not_continued_in_another_precision(tmp_path):
    def identity(experiment):
        return trained.identity(PAPERS['alexnet'], 'paper', [], experiment, None)

    workdir.check(tmp_path, identity(ALEXNET))
    (tmp_path / 'experiment.json').write_text(json.dumps(identity(ALEXNET)))
    workdir.check(tmp_path, identity(ALEXNET))
    with pytest.raises(UsageError, match='another experiment, with precision=float32 .now bfloat16.'):
        workdir.check(tmp_path, identity(bfloat16(ALEXNET)))
    assert diff(bfloat16(ALEXNET), ALEXNET) == {'precision': ('float32', 'bfloat16')}
