"""Stochastic gradient descent exactly as the papers write it, and the rules for its learning rate."""
import math
from collections.abc import Sequence

import jax
import optax

from lib.experiment import Experiment, Optimizer


def sgd(optimizer: Optimizer, learning_rate: float | jax.Array) -> optax.GradientTransformation:
    """The update of AlexNet section 5: v <- momentum v - decay rate w - rate gradient; w <- w + v.

    The learning rate is inside the velocity, as in cuda-convnet and Caffe. `optax.sgd` and torch keep raw gradients
    there, which is another rule as soon as the rate changes. Only kernels are decayed, biases if `bias_weight_decay`
    says so: the paper does not say; as in cuda-convnet.
    """
    own_decay = dict(optimizer.layer_weight_decay)

    def step(path, gradient, weight):
        layer, kind = path[0].key, path[-1].key
        rate, decay = learning_rate, own_decay.get(layer, optimizer.weight_decay)
        if kind == 'bias':
            rate = rate * optimizer.bias_learning_rate
        if kind != 'kernel' and not (kind == 'bias' and optimizer.bias_weight_decay):
            decay = 0.0
        return -rate * (gradient + decay * weight)

    scale = optax.stateless(lambda gradients, params: jax.tree_util.tree_map_with_path(step, gradients, params))
    return optax.chain(scale, optax.trace(optimizer.momentum))


def update(optimizer: Optimizer, learning_rate: float | jax.Array, gradients: dict, velocity: dict,
           params: dict) -> tuple[dict, dict]:
    """Parameters and velocity after a step of `sgd`. All trees have the names and shapes of `params`, which may be some
    of the layers only; the first velocity is zero."""
    rule = sgd(optimizer, learning_rate)
    updates, (_, trace) = rule.update(gradients, (optax.EmptyState(), optax.TraceState(velocity)), params)
    return optax.apply_updates(params, updates), trace.trace


def learning_rate(experiment: Experiment, examples: int, step: int, errors: Sequence[float]) -> float:
    """The learning rate of a step, from the step and the errors of the evaluations so far: all that resuming needs."""
    optimizer = experiment.optimizer
    if optimizer.schedule == 'plateau':
        drops = plateaus(errors, optimizer.patience, optimizer.drops)
    elif optimizer.schedule == 'steps':
        drops = sum(step >= experiment.steps_at(epoch, examples) for epoch in optimizer.drop_epochs)
    elif optimizer.schedule == 'cosine':
        whole = experiment.steps_at(experiment.epochs, examples)
        return optimizer.learning_rate * (1 + math.cos(math.pi * step / whole)) / 2
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
