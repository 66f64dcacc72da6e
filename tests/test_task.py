"""What a task makes of a network that has auxiliary classifiers."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from lib import train
from lib.experiment import Optimizer
from lib.layers import Linear
from lib.task import classifier


class Three(nnx.Module):
    """Three linear classifiers, the last two of which are there in training only."""

    def __init__(self, rngs):
        self.own, self.second, self.third = (Linear(12, 3, rngs=rngs) for _ in range(3))

    def __call__(self, x, key=None, tap=lambda name, x: x):
        own = tap('own', self.own(x))
        return own if key is None else (own, self.second(x), self.third(x))


def test_losses_of_auxiliary_classifiers_train_with_their_weight_and_are_not_reported():
    task = classifier(Three, auxiliary=0.3)
    params = task.init(jax.random.key(0))
    images, labels = jax.random.normal(jax.random.key(1), (4, 2, 2, 3)), jnp.array([0, 1, 2, 0])
    own, second, third = (float(optax.softmax_cross_entropy_with_integer_labels(
        images.reshape(4, 12) @ params[name]['kernel'], labels).mean()) for name in ('own', 'second', 'third'))
    loss, (logits, _) = task.loss(params, images, labels, jax.random.key(2))
    np.testing.assert_allclose(loss, own + 0.3 * (second + third), rtol=1e-6)
    np.testing.assert_allclose(logits, images.reshape(4, 12) @ params['own']['kernel'], rtol=1e-5, atol=1e-7)
    state = {'params': params, 'velocity': jax.tree.map(jnp.zeros_like, params)}
    after, reported, _ = train._whole_batch(task, Optimizer(0.1), state, images, labels, jax.random.key(2), 0.1)
    np.testing.assert_allclose(reported, own, rtol=1e-6)
    assert all(np.any(after['params'][name]['kernel'] != params[name]['kernel']) for name in params)


def test_a_network_without_them_reports_its_loss():
    assert classifier(Three).own_loss is None and classifier(Three, auxiliary=0.3).own_loss is not None
