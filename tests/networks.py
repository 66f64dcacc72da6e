"""What is asked of every paper's networks: that they train, and that placement changes nothing."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from lib import mesh as meshes
from lib import train
from lib.data.statistics import Statistics
from lib.optimizers import learning_rate
from lib.task import count


def shapes(build, experiment):
    return jax.eval_shape(build(experiment).init, jax.random.key(0))


def two_steps(build, experiment, stored: int, still: tuple[str, ...] = ()):
    """What distinguishes an experiment, made small: its parameters, the losses of its first two steps on random images
    of `stored` pixels a side, its learning rates, and the sum of its weights' sizes after the steps. Every parameter
    moves, save those of layers named `still`. The network needs as many classes as the batch has images."""
    task, n = build(experiment), experiment.batch_size
    images = np.random.default_rng(0).integers(0, 255, (n, stored, stored, 3), np.uint8)
    side = stored * stored * 3
    statistics = Statistics(np.full(images.shape[1:], 128, np.float32), np.array([900, 90, 9], np.float32),
                            np.eye(3, dtype=np.float32),
                            np.eye(side, dtype=np.float32) if experiment.data.whiten else np.zeros((0, 0), np.float32))
    state, losses = train.init(task, experiment, meshes.make('data:1')), []
    before, step = jax.device_get(state['params']), train.make_step(task, experiment)
    labels = np.arange(n)
    if experiment.optimizer.curvature is not None:
        estimate = train.make_curvature(task, experiment)
        state['curvature'] = estimate(state['params'], images, statistics, np.uint32(0))
        assert all(np.all(leaf >= 0) for leaf in jax.tree.leaves(state['curvature']))
    for number in range(2):
        rate = 0.1 * experiment.optimizer.learning_rate
        state, loss, _ = step(state, images, labels, statistics, np.uint32(number), np.float32(rate))
        losses.append(float(loss))
    for layer, values in state['params'].items():
        for kind, value in values.items():
            assert np.isfinite(value).all(), (layer, kind)
            assert np.any(value != before[layer][kind]) == (layer not in still), (layer, kind)
    assert np.isfinite(losses).all()
    size = sum(float(np.abs(np.float64(leaf)).sum()) for leaf in jax.tree.leaves(state['params']))   # decay moves it
    return count(before), losses, [learning_rate(experiment, 1000, step, ()) for step in (0, 2000, 6000, 9000)], size


def every_arm_differs(comparison, outcome):
    """Asserts that no two arms of a comparison have the same `outcome`, a function of an experiment."""
    found = {label: outcome(comparison.experiment(arm)) for label, arm in comparison.labelled.items()}
    assert len(found) > 1
    assert [pair for pair in itertools.combinations(found, 2) if found[pair[0]] == found[pair[1]]] == []


def loss_and_gradient_on(shape: str, task, experiment, scale: float = 50.0):
    """Asserts that loss and gradient are the same on a mesh as on one device, in float64, where ties in ReLU and
    pooling do not flip. Returns the gradient on the mesh."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: a.astype(jnp.float64), task.init(jax.random.key(0)))
        side = experiment.data.image_size
        x = scale * jax.random.normal(jax.random.key(1), (8, side, side, 3), jnp.float64)
        labels, key = jnp.arange(8), jax.random.key(2)
        gradient = jax.value_and_grad(lambda p, x, y: task.loss(p, x, y, key)[0])
        loss, alone = jax.jit(gradient)(params, x, labels)
        mesh = meshes.make(shape)
        with jax.set_mesh(mesh):
            placed = jax.device_put(params, meshes.placement(params, mesh))
            batch = jax.device_put((x, labels), meshes.images(mesh))
            together_loss, together = jax.jit(gradient)(placed, *batch)
        np.testing.assert_allclose(together_loss, loss, rtol=1e-12)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12 * np.abs(a).max()), alone,
                     together)
        return together
