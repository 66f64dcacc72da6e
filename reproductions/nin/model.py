"""Network in Network (Lin, Chen and Yan, ICLR 2014), section 3 and Figure 2: networks as data, layer by layer.

The paper gives no sizes; those are its author's, in the order and with the names of his definition files: a block of
conv1 and the 1x1 convolutions cccp1 and cccp2 ("cascaded cross channel parametric pooling") slides a small multilayer
perceptron over the image. 1x1 layers are counted through the network.
"""
import collections
import dataclasses
from collections.abc import Iterator
from typing import Literal

import jax
from flax import nnx

from lib import layers
from lib.experiment import Experiment, require
from lib.layers import Conv, Linear, Rounding, dropout
from lib.task import Task, classifier, untapped


@dataclasses.dataclass(frozen=True)
class MLPConv:
    """A convolution and the 1x1 convolutions after it, a ReLU after each: conv1, cccp1, cccp2. Without 1x1 layers it is
    a plain convolution."""
    maps: int                           # of the convolution
    size: int
    widths: tuple[int, ...] = ()        # maps of the 1x1 layers
    stride: int = 1
    padding: int = 0
    deviations: tuple[float, ...] = ()  # of the Gaussian initial weights of each layer; () for 0.05 in all
    last_unit: bool = True              # the last layer has its ReLU

    def __post_init__(self):
        require(len(self.deviations) in (0, 1 + len(self.widths)),
                'model.layers: an MLPConv needs as many deviations as it has layers, or none.')


@dataclasses.dataclass(frozen=True)
class Pool:
    """pool1, pool2: 3x3 windows at stride 2."""
    kind: Literal['max', 'average'] = 'max'


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Of what goes into the next layer, at the rate of the model."""


@dataclasses.dataclass(frozen=True)
class GlobalAverage:
    """poolg: one number a map (section 3.2)."""


@dataclasses.dataclass(frozen=True)
class Dense:
    """fc1, fc2: a fully connected layer."""
    units: int
    unit: bool = True                   # followed by a ReLU


Layer = MLPConv | Pool | Dropout | GlobalAverage | Dense

CIFAR10 = (
    MLPConv(192, 5, (160, 96), padding=2), Pool(), Dropout(),
    MLPConv(192, 5, (192, 192), padding=2), Pool(), Dropout(),
    MLPConv(192, 3, (192, 10), padding=1), GlobalAverage())
CIFAR100 = (
    MLPConv(192, 5, (160, 96), padding=2, deviations=(0.001, 0.01, 0.01)), Pool(), Dropout(),
    MLPConv(192, 5, (192, 192), padding=2), Pool(), Dropout(),
    MLPConv(192, 3, (192, 100), padding=1), GlobalAverage())
SVHN = (
    MLPConv(128, 5, (96, 64), padding=2), Pool(), Dropout(),
    MLPConv(320, 5, (256, 128), padding=2), Pool(), Dropout(),
    MLPConv(384, 5, (256, 10), padding=2), GlobalAverage())
MNIST = (
    MLPConv(96, 5, (64, 48), padding=2), Pool(), Dropout(),
    MLPConv(128, 5, (96, 48), padding=2), Pool(), Dropout(),
    MLPConv(128, 5, (96, 10), padding=2), GlobalAverage())
# The author's network for ImageNet, in Caffe; not in the paper.
IMAGENET = (
    MLPConv(96, 11, (96, 96), stride=4, deviations=(0.01, 0.05, 0.05)), Pool(),
    MLPConv(256, 5, (256, 256), padding=2), Pool(),
    MLPConv(384, 3, (384, 384), padding=1, deviations=(0.01, 0.05, 0.05)), Pool(), Dropout(),
    MLPConv(1024, 3, (1024, 1000), padding=1, deviations=(0.05, 0.05, 0.01)), GlobalAverage())

# Table 5: the last maps of CIFAR10 into a fully connected layer, with dropout before it or without.
FULLY_CONNECTED = (*CIFAR10[:-1], Dense(10, unit=False))
FULLY_CONNECTED_DROPOUT = (*CIFAR10[:-1], Dropout(), Dense(10, unit=False))

# CIFAR10 without its 1x1 layers, but for the last, which makes a map of each class.
PLAIN = (
    MLPConv(192, 5, padding=2), Pool(), Dropout(),
    MLPConv(192, 5, padding=2), Pool(), Dropout(),
    MLPConv(192, 3, (10,), padding=1), GlobalAverage())



def narrow(stack: tuple[Layer, ...], divisor: int) -> tuple[Layer, ...]:
    """The layers with that part of the maps, but for the maps of the classes."""
    last = [layer for layer in stack if isinstance(layer, MLPConv)][-1]

    def widths(layer: MLPConv) -> tuple[int, ...]:
        return tuple(width if layer is last and place == len(layer.widths) - 1 else width // divisor
                     for place, width in enumerate(layer.widths))

    return tuple(dataclasses.replace(layer, maps=layer.maps // divisor, widths=widths(layer))
                 if isinstance(layer, MLPConv) else layer for layer in stack)


# A pair of networks from the literature that teaches what flattening costs.
_CONVOLUTIONS = (
    MLPConv(96, 11, stride=4), MLPConv(256, 5, padding=2), Pool(), MLPConv(384, 3), Pool(),
    MLPConv(384, 3), MLPConv(256, 3), Pool())
FLATTEN = (*_CONVOLUTIONS, Dense(4096), Dense(4096), Dense(1000, unit=False))
GLOBAL_AVERAGE_POOLING = (*_CONVOLUTIONS, MLPConv(1000, 3), GlobalAverage(), Dense(1000, unit=False))


@dataclasses.dataclass(frozen=True)
class Model:
    """One of the networks above, or another such tuple."""
    layers: tuple[Layer, ...] = CIFAR10
    channels: int = 3                   # that are read of the three an image has: 1 for grey ones
    dropout: float = 0.5
    rounding: Rounding = 'ceil'  # of the size of the pooling layers; that of convolutions is rounded down
    init: Literal['published', 'scaled'] = 'published'      # the deviations of the layers, or N(0, 2 / fan-in)

    def __post_init__(self):
        require(0 <= self.dropout < 1, f'model.dropout={self.dropout} must be at least 0 and below 1.')
        require(self.channels in (1, 3), f'model.channels={self.channels} must be 1 or 3.')

    @property
    def classes(self) -> int:
        last = [layer for layer in self.layers if isinstance(layer, (MLPConv, Dense))][-1]
        return last.units if isinstance(last, Dense) else (last.maps, *last.widths)[-1]


def named(stack: tuple[Layer, ...]) -> Iterator[tuple[tuple[str, ...], Layer]]:
    """Each layer after its names: one name, or those of an MLPConv's convolutions."""
    counts = collections.Counter()

    def number(kind):
        counts[kind] += 1
        return f'{kind}{counts[kind]}'

    for layer in stack:
        match layer:
            case MLPConv():
                yield (number('conv'), *(number('cccp') for _ in layer.widths)), layer
            case GlobalAverage():
                yield ('poolg',), layer
            case _:
                yield (number({Pool: 'pool', Dropout: 'dropout', Dense: 'fc'}[type(layer)]),), layer


class NetworkInNetwork(nnx.Module):
    """Images [n, s, s, 3] to logits [n, classes]."""

    def __init__(self, model: Model, image_size: int, rngs: nnx.Rngs):
        self.model = model
        side, maps = image_size, model.channels

        def init(deviation):
            return dict(init=layers.normal(deviation) if model.init == 'published' else layers.scaled(2.0), rngs=rngs)

        for names, layer in named(model.layers):
            match layer:
                case MLPConv():
                    first, *rest = layer.deviations or (0.05,) * len(names)
                    conv, *ones = names
                    setattr(self, conv, Conv(maps, layer.maps, layer.size, stride=layer.stride, padding=layer.padding,
                                             rounding='floor', **init(first)))
                    side = layers.output_size(side, layer.size, layer.stride, layer.padding, 'floor')
                    maps = layer.maps
                    for name, width, deviation in zip(ones, layer.widths, rest, strict=True):
                        setattr(self, name, Conv(maps, width, 1, **init(deviation)))
                        maps = width
                case Pool():
                    side = layers.output_size(side, 3, 2, rounding=model.rounding)
                case GlobalAverage():
                    side = 1
                case Dense():
                    setattr(self, names[0], Linear(side * side * maps, layer.units, **init(0.05)))
                    side, maps = 1, layer.units

    def __call__(self, x: jax.Array, key: jax.Array | None = None, tap=untapped) -> jax.Array:
        """A dropout key means training; none means evaluation."""
        x = x[..., :self.model.channels]
        for number, (names, layer) in enumerate(named(self.model.layers)):
            match layer:
                case MLPConv():
                    for name in names:
                        x = getattr(self, name)(x)
                        x = tap(name, layers.relu(x) if layer.last_unit or name != names[-1] else x)
                case Pool():
                    x = tap(names[0], layers.POOLS[layer.kind](x, 3, 2, rounding=self.model.rounding))
                case Dropout():
                    x = dropout(x, self.model.dropout, None if key is None else jax.random.fold_in(key, number))
                case GlobalAverage():
                    x = tap(names[0], x.mean((1, 2)))
                case Dense():
                    x = getattr(self, names[0])(x)
                    x = tap(names[0], layers.relu(x) if layer.unit else x)
        return x


def build(experiment: Experiment) -> Task:
    """The task of any experiment of this paper."""
    model, size = experiment.model, experiment.data.image_size
    return classifier(lambda rngs: NetworkInNetwork(model, size, rngs))
