"""Stochastic gradient descent exactly as the papers write it, and the rules for its learning rate."""
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from lib.experiment import Experiment, Optimizer

STRETCHED = ('cosine', 'square_root')       # schedules that reach over all epochs, however many there are


def sgd(optimizer: Optimizer, learning_rate: float | jax.Array,
        curvature: dict | None = None) -> optax.GradientTransformation:
    """The update of AlexNet section 5: v <- momentum v - decay rate w - rate gradient; w <- w + v.

    The learning rate is inside the velocity, as in cuda-convnet and Caffe. `optax.sgd` and torch keep raw gradients
    there, which is another rule as soon as the rate changes. Only kernels are decayed, biases if `bias_weight_decay`
    says so: the paper does not say; as in cuda-convnet. With `curvature`, a tree like the parameters, each of them has
    the rate / (damping + curvature): LeCun et al. 1998, appendix C.
    """
    own_decay, own_rate = dict(optimizer.layer_weight_decay), dict(optimizer.layer_learning_rate)

    def step(path, gradient, weight, *second):
        layer, kind = path[0].key, path[-1].key
        rate, decay = learning_rate * own_rate.get(layer, 1.0), own_decay.get(layer, optimizer.weight_decay)
        if second:
            rate = rate / (optimizer.damping + second[0])
        if kind == 'bias':
            rate = rate * optimizer.bias_learning_rate
        if kind != 'kernel' and not (kind == 'bias' and optimizer.bias_weight_decay):
            decay = 0.0
        return -rate * (gradient + decay * weight)

    more = () if curvature is None else (curvature,)
    scale = optax.stateless(lambda gradients, params: jax.tree_util.tree_map_with_path(step, gradients, params, *more))
    return optax.chain(scale, optax.trace(optimizer.momentum))


def update(optimizer: Optimizer, learning_rate: float | jax.Array, gradients: dict, velocity: dict,
           params: dict, curvature: dict | None = None) -> tuple[dict, dict]:
    """Parameters and velocity after a step of `sgd`. All trees have the names and shapes of `params`, which may be some
    of the layers only; the first velocity is zero."""
    rule = sgd(optimizer, learning_rate, curvature)
    updates, (_, trace) = rule.update(gradients, (optax.EmptyState(), optax.TraceState(velocity)), params)
    params = optax.apply_updates(params, updates)
    if optimizer.max_filter_rms is not None:
        params = limit_filters(params, optimizer.max_filter_rms)
    return params, trace.trace


def limit_filters(params: dict, most: float) -> dict:
    """Scales each filter of a convolution, [height, width, inputs] for one output, whose root mean square is above
    `most` down to it (Zeiler and Fergus 2013, section 3)."""
    def limit(path, weight):
        if path[-1].key != 'kernel' or weight.ndim != 4:
            return weight
        rms = jnp.sqrt(jnp.mean(weight**2, axis=(0, 1, 2)))
        return weight * jnp.minimum(1.0, most / jnp.maximum(rms, most))

    return jax.tree_util.tree_map_with_path(limit, params)


def moving_average(decay: float, step: jax.Array, average: dict, params: dict) -> dict:
    """The average after step number `step`, counted from 0. Early ones forget faster, min(decay, (1 + t) / (10 + t)) as
    in TensorFlow, so that the initial parameters do not linger."""
    kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: new + kept * (old - new), average, params)


def learning_rate(experiment: Experiment, examples: int, step: int, errors: Sequence[float]) -> float:
    """The learning rate of a step, from the step and the errors of the evaluations so far: all that resuming needs."""
    optimizer = experiment.optimizer
    if optimizer.schedule == 'plateau':
        drops = plateaus(errors, optimizer.patience, optimizer.drops)
    elif optimizer.schedule == 'steps':
        drops = sum(step >= experiment.steps_at(epoch, examples) for epoch in optimizer.drop_epochs)
    elif optimizer.schedule == 'listed':
        begun = [factor for epoch, factor in optimizer.rates if step >= experiment.steps_at(epoch, examples)]
        return optimizer.learning_rate * begun[-1]
    elif optimizer.schedule in STRETCHED:
        gone = step / experiment.steps_at(experiment.epochs, examples)
        left = (1 + math.cos(math.pi * gone)) / 2 if optimizer.schedule == 'cosine' else math.sqrt(1 - gone)
        return optimizer.learning_rate * left
    else:
        drops = 0
    return optimizer.learning_rate / optimizer.drop_factor**drops


def plateaus(errors: Sequence[float], patience: int, most: int) -> int:
    """How often, at most `most` times, `patience` evaluations in a row brought no new lowest error. The paper dropped
    by hand "when the validation error rate stopped improving"; counting is our reading of it."""
    lowest, waited, drops = float('inf'), 0, 0
    for error in errors:
        waited = 0 if error < lowest else waited + 1
        lowest = min(lowest, error)
        if waited == patience and drops < most:
            drops, waited = drops + 1, 0
    return drops
