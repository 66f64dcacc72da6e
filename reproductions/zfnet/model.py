"""The networks of Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (2013): Figure 3, and the
one of Krizhevsky et al. that it grew out of, as tuples of layers. Table 3 drops layers and changes widths.

There are 14,208 parameters in conv1 where Krizhevsky's has 34,944; every other layer of both has the same shape.
"""
import dataclasses

import jax
from flax import nnx

from lib import layers
from lib.experiment import Experiment, require
from lib.layers import Linear, dropout, local_response_norm, max_pool
from lib.task import Task, classifier, untapped


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution and its ReLU."""
    name: str
    width: int                          # maps
    size: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    rounding: layers.Rounding = 'ceil'  # of the size of its maps


@dataclasses.dataclass(frozen=True)
class Pool:
    """The maximum of 3x3 windows at stride 2, rounded up: 110 -> 55 -> 26 -> 13 -> 6."""
    name: str


@dataclasses.dataclass(frozen=True)
class Norm:
    """Contrast normalisation across maps. The paper does not give its constants; these are Krizhevsky's."""
    name: str
    n: int = 5
    k: float = 2.0
    alpha: float = 1e-4                 # not divided by n
    beta: float = 0.75


@dataclasses.dataclass(frozen=True)
class Dense:
    """A fully connected layer, its ReLU and dropout."""
    name: str
    width: int                          # units


Layer = Conv | Pool | Norm | Dense

# Figure 3. Without a border the last window of conv1 overhangs by a pixel; conv2's windows fit.
ZFNET = (
    Conv('conv1', 96, 7, stride=2), Pool('pool1'), Norm('norm1'),
    Conv('conv2', 256, 5, stride=2), Pool('pool2'), Norm('norm2'),
    Conv('conv3', 384, 3, padding=1), Conv('conv4', 384, 3, padding=1), Conv('conv5', 256, 3, padding=1), Pool('pool5'),
    Dense('fc6', 4096), Dense('fc7', 4096))

# Krizhevsky et al. 2012 on one GPU, where every map is read by all of the next.
KRIZHEVSKY = (
    Conv('conv1', 96, 11, stride=4), Norm('norm1'), Pool('pool1'),
    Conv('conv2', 256, 5, padding=2), Norm('norm2'), Pool('pool2'),
    Conv('conv3', 384, 3, padding=1), Conv('conv4', 384, 3, padding=1), Conv('conv5', 256, 3, padding=1), Pool('pool5'),
    Dense('fc6', 4096), Dense('fc7', 4096))


def without(stack: tuple[Layer, ...], *names: str) -> tuple[Layer, ...]:
    """The layers but for those named."""
    return tuple(layer for layer in stack if layer.name not in names)


def changed(stack: tuple[Layer, ...], field: str, **values) -> tuple[Layer, ...]:
    """The layers with a field of some of them, by name, set to another value: changed(ZFNET, 'width', fc6=2048)."""
    return tuple(dataclasses.replace(layer, **{field: values[layer.name]}) if layer.name in values else layer
                 for layer in stack)


@dataclasses.dataclass(frozen=True)
class Model:
    """The choices that the paper makes, each of them open to an ablation. A last layer, fc8, gives the classes."""
    layers: tuple[Layer, ...] = ZFNET
    classes: int = 1000
    dropout: float = 0.5                # of the fully connected layers before the last
    deviation: float = 0.01             # of the initial weights; biases are 0

    def __post_init__(self):
        names = [layer.name for layer in self.layers]
        require(len(set(names)) == len(names), 'model.layers must have different names.')
        require(self.classes >= 1, f'model.classes={self.classes} must be at least 1.')
        require(0 <= self.dropout < 1, f'model.dropout={self.dropout} must be at least 0 and below 1.')
        require(self.deviation > 0, f'model.deviation={self.deviation} must be positive.')


class ZFNet(nnx.Module):
    """Images [n, s, s, 3], mean subtracted, to logits [n, classes]; s = 224 in the paper."""

    def __init__(self, model: Model, image_size: int, rngs: nnx.Rngs):
        self.model = model
        own = dict(init=layers.normal(model.deviation), rngs=rngs)
        side, width = image_size, 3
        for layer in model.layers:
            match layer:
                case Conv():
                    setattr(self, layer.name, layers.Conv(
                        width, layer.width, layer.size, stride=layer.stride, padding=layer.padding,
                        groups=layer.groups, rounding=layer.rounding, **own))
                    side = layers.output_size(side, layer.size, layer.stride, layer.padding, layer.rounding)
                    width = layer.width
                case Pool():
                    side = layers.output_size(side, 3, 2)
                case Dense():
                    setattr(self, layer.name, Linear(side * side * width, layer.width, **own))
                    side, width = 1, layer.width
        self.fc8 = Linear(side * side * width, model.classes, **own)

    def __call__(self, x: jax.Array, key: jax.Array | None = None, tap=untapped) -> jax.Array:
        """A dropout key means training; none means evaluation."""
        for number, layer in enumerate(self.model.layers):
            match layer:
                case Conv():
                    x = layers.relu(getattr(self, layer.name)(x))
                case Pool():
                    x = max_pool(x, 3, 2)
                case Norm():
                    x = local_response_norm(x, layer.n, layer.k, layer.alpha, layer.beta)
                case Dense():
                    own_key = None if key is None else jax.random.fold_in(key, number)
                    x = dropout(layers.relu(getattr(self, layer.name)(x)), self.model.dropout, own_key)
            x = tap(layer.name, x)
        return tap('fc8', self.fc8(x))


def build(experiment: Experiment) -> Task:
    """The task of any experiment of this paper."""
    return classifier(lambda rngs: ZFNet(experiment.model, experiment.data.image_size, rngs))
