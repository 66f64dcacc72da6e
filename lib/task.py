"""What a network is to the rest of the library: a few pure functions."""
import collections
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from lib.layers import at_least_float32
from lib.rematerialization import by_stages, named

Params = dict[str, Any]     # {layer: {'kernel': array, 'bias': array, ...}}, float32

# Loss of each example, [n] from logits [n, classes] and labels [n], and the probabilities that belong to it.
LOSSES = {
    'softmax': (optax.softmax_cross_entropy_with_integer_labels, jax.nn.softmax),
    # One logistic unit a class, summed over the classes (Krizhevsky 2014); the probabilities do not sum to one.
    'logistic': (lambda logits, labels: optax.sigmoid_binary_cross_entropy(
        logits, jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)).sum(1), jax.nn.sigmoid),
}


class Head(NamedTuple):
    """The fully connected end of a network, for recipes that train it in smaller batches than the convolutions."""
    layers: tuple[str, ...]                             # by name
    features: Callable[..., jax.Array]                  # params, images, key -> what the first of them reads
    loss: Callable[..., tuple[jax.Array, jax.Array]]    # params, features, labels, key -> mean loss, logits


class Task(NamedTuple):
    """The interface between a paper and the library.

    `moved` in what `loss` returns is a part of the parameters with new values, {} for most networks: averages that a
    step moves without a gradient (batch normalisation's).
    """
    init: Callable[[jax.Array], Params]                 # key -> params
    loss: Callable[..., tuple[jax.Array, tuple[jax.Array, Params]]]
    #   params, images, labels, key -> mean loss, (logits [n, classes], moved)
    predict: Callable[[Params, jax.Array], jax.Array]   # params, images [n, h, w, 3] -> probabilities [n, classes]
    activations: Callable[[Params, jax.Array], dict[str, jax.Array]]
    #   params, images -> the output of every layer by its name, in the order of the network, without dropout
    head: Head | None = None                            # None if the network has no such end
    dense: Callable[[Params, jax.Array], jax.Array] | None = None
    #   as predict, for images of any size: the fully connected layers are applied at every place of the last maps, and
    #   their scores averaged; None if the network cannot
    curvature: Callable[[Params, jax.Array], Params] | None = None
    #   params, images -> for each parameter an estimate, not negative, of the mean loss's second derivative in it; None
    #   if the network has none
    own_loss: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    #   logits, labels -> the mean loss without that of auxiliary classifiers, to compare networks by; None if there are
    #   no auxiliary classifiers


def classifier(build: Callable[[nnx.Rngs], nnx.Module], loss: str | tuple[Callable, Callable] = 'softmax',
               head: tuple[str, ...] = (), auxiliary: float = 0.0, curvature: Callable | None = None) -> Task:
    """The task of a network that gives logits.

    Args:
      build: makes the module from its random streams. Called as `network(images, key, tap)` it returns logits; a key is
        for dropout and means training, and `tap(name, x)` is called with the output of every layer and returns what
        the next one reads. If it has a method `dense(images)`, that returns logits for images of any size.
      loss: of LOSSES, or a pair like those.
      head: names of its fully connected layers, if it has `features(images, key)` and `classify(features, key)` and
        the latter reads these layers only.
      auxiliary: the weight of the losses of auxiliary classifiers; unless it is 0, the network returns in training a
        tuple of logits, its own and those of the others.
      curvature: of the task, called with the network's module and images.
    """
    graph, _ = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(params=0))))
    each, probabilities = map(_on_float32, LOSSES[loss] if isinstance(loss, str) else loss)

    def init(key):
        return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(params=key))))

    def whole_loss(params, images, labels, key):
        network = _merged(graph, params)
        found = network(images, key, named)
        logits, *others = found if auxiliary else (found,)
        total = each(logits, labels).mean() + auxiliary * sum(each(other, labels).mean() for other in others)
        return total, (logits, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat)))

    def predict(params, images):
        return probabilities(_merged(graph, params)(images))

    def activations(params, images):
        found = collections.OrderedDict()       # whose order survives jit
        _merged(graph, params)(images, tap=lambda name, x: found.setdefault(name, x))
        return found

    def features(params, images, key):
        return _merged(graph, params).features(images, key, named)

    def head_loss(params, features, labels, key):
        logits = _merged(graph, params).classify(features, key)
        return each(logits, labels).mean(), logits

    def dense(params, images):
        return probabilities(_merged(graph, params).dense(images))

    def estimate(params, images):
        return curvature(_merged(graph, params), images)

    def own_loss(logits, labels):
        return each(logits, labels).mean()

    return Task(init, whole_loss, predict, activations, Head(head, features, head_loss) if head else None,
                dense if hasattr(nnx.merge(graph, jax.eval_shape(init, jax.random.key(0))), 'dense') else None,
                estimate if curvature else None, own_loss if auxiliary else None)


def _merged(graph, params: Params) -> nnx.Module:
    """The network with these parameters. The operations of its layers carry their names, in programs and profiles, and
    what a layer puts out has the type of what it reads."""
    network = nnx.merge(graph, params)
    for name in params:
        layer = getattr(network, name)
        layer.__class__ = _in_scope(type(layer), name)
    return network


@functools.cache
def _in_scope(kind: type[nnx.Module], name: str) -> type[nnx.Module]:
    class Layer(kind):
        def __call__(self, x, **choices):
            with jax.named_scope(name):
                return super().__call__(x, **choices).astype(x.dtype)

    return Layer


def _on_float32(function: Callable) -> Callable:
    return lambda logits, *labels: function(at_least_float32(logits), *labels)


def in_bfloat16(task: Task) -> Task:
    """The same task, computed in bfloat16: images, kernels and what every layer puts out are rounded to it.

    Parameters stay float32, and so do their gradients, each rounded once. Biases and batch normalisation are applied in
    float32, so that sums over places and images, in their gradients too, are float32 sums; losses and probabilities are
    of logits in float32. Products of matrices and convolutions of bfloat16 numbers are added up in float32 by the
    hardware: by the multipliers of TPUs and GPUs, and on CPUs, where XLA converts both to float32 first. An estimate of
    curvature stays as it is.
    """
    def rounded(path, array):
        return array.astype(jnp.bfloat16) if path[-1].key == 'kernel' and array.ndim > 1 else array

    def on_rounded(function):
        def rounding(params, x, *rest):
            return function(jax.tree_util.tree_map_with_path(rounded, params), x.astype(jnp.bfloat16), *rest)
        return function and rounding

    head = task.head and task.head._replace(features=on_rounded(task.head.features), loss=on_rounded(task.head.loss))
    return task._replace(loss=on_rounded(task.loss), predict=on_rounded(task.predict),
                         activations=on_rounded(task.activations), dense=on_rounded(task.dense), head=head)


def rematerialized(task: Task) -> Task:
    """The same task, in whose gradients most is computed twice instead of kept: see lib/rematerialization.py."""
    head = task.head and task.head._replace(features=by_stages(task.head.features))
    return task._replace(loss=by_stages(task.loss), head=head)


def count(params: Params) -> int:
    """The number of parameters that are trained: all but the moving averages of batch normalisation."""
    return sum(array.size for layer in params.values() for name, array in layer.items() if name not in ('mean', 'var'))


def untapped(name: str, x: jax.Array) -> jax.Array:
    """The tap of a network that nobody looks into."""
    return x
