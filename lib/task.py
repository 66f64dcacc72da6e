"""What a network is to the rest of the library: three pure functions."""
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from flax import nnx

Params = dict[str, Any]     # {layer: {'kernel': array, 'bias': array}}, float32


class Task(NamedTuple):
    """The interface between a paper and the library."""
    init: Callable[[jax.Array], Params]                                 # key -> params
    loss: Callable[..., tuple[jax.Array, jax.Array]]    # params, images, labels, key -> mean loss, logits [n, classes]
    predict: Callable[[Params, jax.Array], jax.Array]   # params, images [n, h, w, 3] -> probabilities [n, classes]


def classifier(build: Callable[[nnx.Rngs], nnx.Module]) -> Task:
    """The task of a network that gives logits and is trained on the cross-entropy of their softmax.

    `build(rngs)` makes the module; called with images, and a dropout key in training, it returns logits.
    """
    graph, _ = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(params=0))))

    def init(key):
        return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(params=key)), nnx.Param))

    def loss(params, images, labels, key):
        logits = nnx.merge(graph, params)(images, key)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

    def predict(params, images):
        return jax.nn.softmax(nnx.merge(graph, params)(images, None))

    return Task(init, loss, predict)
