"""Fully connected layers that step more often than the convolutions (Krizhevsky 2014), on one device and on several."""
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lib import mesh as meshes
from lib import optimizers, train
from lib.experiment import UsageError, change
from reproductions.alexnet.experiments import EXPERIMENTS
from reproductions.alexnet.model import FULLY_CONNECTED, build


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def small(fc_batch: int | None = 2, **changes):
    """The recipe for batches of 8, without dropout, at a size at which float64 is quick."""
    experiment = EXPERIMENTS['one_weird_trick_512_128']
    model = dataclasses.replace(experiment.model, widths=(8, 8, 8, 8, 8), fc_width=16, classes=8, dropout=0.0,
                                init='scaled', last_bias_init=-2.0)
    optimizer = dataclasses.replace(experiment.optimizer, fc_batch=fc_batch)
    experiment = dataclasses.replace(experiment, model=model, optimizer=optimizer, batch_size=8)
    for path, value in changes.items():
        experiment = change(experiment, path.replace('__', '.'), value)
    return change(experiment, 'data.image_size', 48)


def beginning(experiment):
    task = build(experiment)
    params = jax.tree.map(lambda a: a.astype(jnp.float64), task.init(jax.random.key(0)))
    state = {'params': params, 'velocity': jax.tree.map(jnp.zeros_like, params)}
    images = 50 * jax.random.normal(jax.random.key(1), (8, 48, 48, 3), jnp.float64)
    return task, state, images, jnp.arange(8)


def step(experiment, task, advance=train._variable_batch):
    return jax.jit(lambda state, images, labels: advance(task, experiment.optimizer, state, images, labels,
                                                         jax.random.key(2), jnp.float64(0.01)))


def assert_same(tree, other, rtol=1e-10):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-13), tree, other)


def test_one_piece_is_an_ordinary_step():
    experiment = small(fc_batch=8, optimizer__fc_learning_rate=1.0)
    task, *given = beginning(experiment)
    found, loss, logits = step(experiment, task)(*given)
    expected, expected_loss, expected_logits = step(experiment, task, train._whole_batch)(*given)
    assert_same((found, loss, logits), (expected, expected_loss, expected_logits))


def test_fully_connected_layers_step_on_every_piece_with_their_own_rate():
    """They move as in four ordinary steps on two images each, in which the convolutions stand still."""
    experiment = small(optimizer__fc_learning_rate=0.5)
    task, state, images, labels = beginning(experiment)
    found, loss, _ = step(experiment, task)(state, images, labels)
    params, velocity, losses = state['params'], state['velocity'], []
    gradient = jax.value_and_grad(task.loss, has_aux=True)
    for at in range(0, 8, 2):
        (piece, _), gradients = gradient(params, images[at:at + 2], labels[at:at + 2], None)
        losses.append(piece)
        moved, speed = optimizers.update(experiment.optimizer, 0.005, gradients, velocity, params)
        params |= {name: moved[name] for name in FULLY_CONNECTED}
        velocity |= {name: speed[name] for name in FULLY_CONNECTED}
    for name in FULLY_CONNECTED:
        assert_same(found['params'][name], params[name])
        assert_same(found['velocity'][name], velocity[name])
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-12)


def test_convolutions_step_once_with_the_mean_gradient():
    """While the fully connected layers stand still, theirs is the gradient of the whole batch."""
    experiment = small(optimizer__fc_learning_rate=0.0)
    task, state, images, labels = beginning(experiment)
    found, *_ = step(experiment, task)(state, images, labels)
    expected, *_ = step(experiment, task, train._whole_batch)(state, images, labels)
    for name in set(state['params']) - set(FULLY_CONNECTED):
        assert_same(found['params'][name], expected['params'][name])
        assert np.any(found['params'][name]['kernel'] != state['params'][name]['kernel'])


@pytest.mark.parametrize('shape', ['data:1', 'data:2', 'data:4', 'data:2,model:2'])
def test_placement_changes_nothing(shape):
    experiment, mesh = small(model__dropout=0.5), meshes.make(shape)
    task, state, images, labels = beginning(experiment)
    advance = step(experiment, task)
    expected = advance(*advance(state, images, labels)[:1], images, labels)
    with jax.set_mesh(mesh):
        placed = jax.device_put(state, train.placement(task, experiment, state, mesh))
        batch = jax.device_put((images, labels), meshes.images(mesh))
        assert placed['params']['fc7']['kernel'].sharding.shard_shape((16, 16)) == (16, 16 // mesh.size)
        found = advance(*advance(placed, *batch)[:1], *batch)
    assert_same(found, expected)


def test_devices_exchange_features_and_the_gradients_of_convolutions_only():
    experiment, mesh = small(), meshes.make('data:4')
    task, state, images, labels = beginning(experiment)
    with jax.set_mesh(mesh):
        placed = jax.device_put(state, train.placement(task, experiment, state, mesh))
        batch = jax.device_put((images, labels), meshes.images(mesh))
        text = step(experiment, task).lower(placed, *batch).compile().as_text()
    operations = 'all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute'
    exchanged = ' '.join(re.findall(rf'= (\S+|\(.*?\)) (?:{operations})\(', text))
    shapes = [tuple(map(int, sizes.split(','))) for sizes in re.findall(r'f64\[([\d,]+)\]', exchanged)]
    kernels = {values['kernel'].shape for name, values in state['params'].items() if name in FULLY_CONNECTED}
    assert not {shape for whole in kernels for shape in (whole, (whole[0], whole[1] // 4))} & set(shapes), shapes
    assert any(np.prod(shape) == 8 * 8 for shape in shapes), 'the maps of all eight images come together'


def test_networks_without_a_fully_connected_end_are_refused():
    experiment = change(EXPERIMENTS['batch_norm'], 'optimizer.fc_batch', 64)
    with pytest.raises(UsageError, match='fc_batch=64 is for networks that end in fully connected layers'):
        train.make_step(build(experiment), experiment)
    with pytest.raises(UsageError, match='must divide batch_size=128'):
        change(EXPERIMENTS['paper'], 'optimizer.fc_batch', 100)
