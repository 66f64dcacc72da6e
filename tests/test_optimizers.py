"""The update rule by hand, across a drop of the learning rate, and the rules for the rate."""
import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lib import optimizers
from lib.experiment import Data, Experiment, Optimizer


def test_update_is_the_papers_across_a_drop_of_the_rate():
    """v <- 0.9 v - 0.0005 rate w - rate g; w <- w + v (AlexNet section 5)."""
    recipe = Optimizer(learning_rate=0.1, momentum=0.9, weight_decay=0.0005)
    params = {'conv1': {'kernel': jnp.array([1.0, -2.0]), 'bias': jnp.array([0.5])}}
    velocity = optimizers.sgd(recipe, 0.1).init(params)
    w, v, b, vb = np.array([1.0, -2.0]), np.zeros(2), np.array([0.5]), np.zeros(1)
    other, other_velocity = params, optax.sgd(0.1, 0.9).init(params)
    for step, rate in enumerate([0.1, 0.1, 0.01, 0.01]):
        g, gb = np.array([0.3, step]), np.array([1.0])
        gradients = {'conv1': {'kernel': jnp.array(g), 'bias': jnp.array(gb)}}
        updates, velocity = optimizers.sgd(recipe, rate).update(gradients, velocity, params)
        params = optax.apply_updates(params, updates)
        v, vb = 0.9 * v - 0.0005 * rate * w - rate * g, 0.9 * vb - rate * gb    # biases do not decay
        w, b = w + v, b + vb
        updates, other_velocity = optax.sgd(rate, 0.9).update(gradients, other_velocity, other)
        other = optax.apply_updates(other, updates)
    np.testing.assert_allclose(params['conv1']['kernel'], w, rtol=1e-6)
    np.testing.assert_allclose(params['conv1']['bias'], b, rtol=1e-6)
    assert not np.allclose(params['conv1']['bias'], other['conv1']['bias'], rtol=1e-2)  # optax.sgd: another rule


def test_layers_and_biases_may_have_their_own_decay_and_rate():
    recipe = Optimizer(learning_rate=1.0, momentum=0.0, weight_decay=0.1, layer_weight_decay=(('fc10', 0.5),),
                       bias_learning_rate=2.0, bias_weight_decay=True)
    params = {name: {'kernel': jnp.ones(1), 'bias': jnp.ones(1)} for name in ('conv1', 'fc10')}
    zeros = {name: {'kernel': jnp.zeros(1), 'bias': jnp.zeros(1)} for name in params}
    sgd = optimizers.sgd(recipe, 1.0)
    updates, _ = sgd.update(zeros, sgd.init(params), params)
    found = {(layer, kind): float(value[0]) for layer, kinds in updates.items() for kind, value in kinds.items()}
    assert found == pytest.approx({('conv1', 'kernel'): -0.1, ('conv1', 'bias'): -0.2,
                                   ('fc10', 'kernel'): -0.5, ('fc10', 'bias'): -1.0})


def experiment(**optimizer):
    return Experiment(summary='', source='', published='', model=None, data=Data(source='digits', image_size=8),
                      optimizer=Optimizer(learning_rate=0.01, **optimizer), batch_size=10, epochs=9)


@pytest.mark.parametrize('errors, drops', [
    ([9, 8, 7, 6], 0), ([9, 8, 8, 8], 1), ([9, 8, 8.1, 7.9, 8, 8], 1), ([5] * 5, 2), ([5] * 30, 3), ([], 0)])
def test_plateau_counts_evaluations_without_a_new_lowest_error(errors, drops):
    recipe = experiment(schedule='plateau', patience=2, drops=3)
    assert optimizers.learning_rate(recipe, 100, 0, errors) == pytest.approx(0.01 / 10**drops)


def test_steps_drop_at_the_end_of_their_epochs():
    recipe = experiment(schedule='steps', drop_epochs=(2, 4))
    rates = [optimizers.learning_rate(recipe, 95, step, []) for step in (0, 18, 19, 37, 38, 90)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])   # 19 steps of 10 cover 2 x 95 images


def test_constant_rate_ignores_errors():
    recipe = dataclasses.replace(experiment(), epochs=100)
    assert optimizers.learning_rate(recipe, 95, 500, [1.0] * 50) == 0.01
