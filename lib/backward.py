"""One backward pass, three pictures: the vector-Jacobian product of a network under three rules for its ReLUs.

gradient    passes the signal where the unit was active (saliency, Simonyan et al. 2013)
deconvnet   passes the signal where it is positive itself (Zeiler and Fergus 2013, section 2.1)
guided      passes it where both hold (Springenberg et al. 2014, section 3.4)

The rest is the same in all three: a convolution hands down the transposed filter, and max pooling the switches, of
which the first maximum of a window owns one. In a deconvnet response normalisation lets the signal pass unchanged.
Networks say lib.layers.relu and local_response_norm, which ask here.
"""
import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp


def _masked(mask: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """The ReLU of x, which hands a signal down where mask(x, signal) holds."""
    @jax.custom_vjp
    def relu(x):
        return jax.nn.relu(x)

    relu.defvjp(lambda x: (jax.nn.relu(x), x), lambda x, signal: (jnp.where(mask(x, signal), signal, 0),))
    return relu


class Rule(NamedTuple):
    relu: Callable[[jax.Array], jax.Array]
    normalised: Callable[[jax.Array, jax.Array], jax.Array]     # what was read and its normalised form -> the latter


GRADIENT = Rule(jax.nn.relu, lambda x, y: y)
DECONVNET = Rule(_masked(lambda x, signal: signal > 0),
                 lambda x, y: jax.lax.stop_gradient(y) + (x - jax.lax.stop_gradient(x)))
GUIDED = Rule(_masked(lambda x, signal: (x > 0) & (signal > 0)), lambda x, y: y)

_rule = contextvars.ContextVar('rule', default=GRADIENT)


@contextlib.contextmanager
def under(rule: Rule) -> Iterator[None]:
    """The rule of all networks that are traced in here."""
    token = _rule.set(rule)
    try:
        yield
    finally:
        _rule.reset(token)


def relu(x: jax.Array) -> jax.Array:
    return _rule.get().relu(x)


def normalised(x: jax.Array, y: jax.Array) -> jax.Array:
    """y, which is what response normalisation made of x."""
    return _rule.get().normalised(x, y)


def count_relus(function: Callable, *arguments) -> int:
    """How many ReLUs a function of arrays, or of their shapes, has; nothing is computed."""
    found = []

    def counting(x):
        found.append(x.shape)
        return jax.nn.relu(x)

    with under(GRADIENT._replace(relu=counting)):
        jax.eval_shape(lambda *arguments: function(*arguments), *arguments)
    return len(found)


@functools.partial(jax.jit, static_argnames=('activations', 'layer', 'rule'))
def project(activations: Callable, layer: str, rule: Rule, params, images: jax.Array, signal: jax.Array) -> jax.Array:
    """The signal [n, ...] at the outputs of a layer, brought down to the images [n, S, S, 3] that a network reads."""
    def outputs(images):
        with under(rule):
            return activations(params, images)[layer]

    return jax.vjp(outputs, images)[1](signal)[0]
