"""cuda-convnet's CIFAR-10 networks, for the paper's claims on CIFAR-10: sections 3.1 (Figure 1) and 3.3.

The paper does not specify the network of section 3.1; for that of section 3.3 it names its author's files. These are
the ones that he published, layer by layer in the order of his definition files. He divides the scale of a
normalisation by its window, so alpha is written as that quotient.
"""
import collections
import dataclasses
from typing import Literal

import jax
from flax import nnx

from lib import layers
from lib.experiment import require
from lib.task import untapped


@dataclasses.dataclass(frozen=True)
class Conv:
    """Convolution at stride 1 that keeps the size. `deviation` is that of its Gaussian initial weights."""
    name: str
    maps: int
    deviation: float
    size: int = 5
    groups = 1


@dataclasses.dataclass(frozen=True)
class PairConv(Conv):
    """The same in two groups, each of which reads half the maps; in no published file."""
    groups = 2


@dataclasses.dataclass(frozen=True)
class Local:
    """As Conv, 3x3, with weights of its own at every place."""
    name: str
    maps: int
    deviation: float = 0.04
    size: int = 3


@dataclasses.dataclass(frozen=True)
class Dense:
    name: str
    units: int
    deviation: float


@dataclasses.dataclass(frozen=True)
class Activation:
    """The network's neuron: ReLU in all published files."""


@dataclasses.dataclass(frozen=True)
class Pool:
    """3x3 windows at stride 2, rounded up."""
    kind: Literal['max', 'average', 'min']
    size = 3


@dataclasses.dataclass(frozen=True)
class TilePool(Pool):
    """2x2 windows, which do not overlap; in no published file."""
    size = 2


@dataclasses.dataclass(frozen=True)
class GlobalAverage:
    """The mean of each map, where the published files flatten the maps into the last layer."""


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Of the outputs of the layer before; in no published file."""
    rate: float = 0.5

    def __post_init__(self):
        require(0 <= self.rate < 1, f'model.layers: the rate {self.rate} of a Dropout must be at least 0 and below 1.')


@dataclasses.dataclass(frozen=True)
class CrossMapNorm:
    """Response normalisation over neighbouring maps, k = 1."""
    n: int = 9
    alpha: float = 0.001 / 9


@dataclasses.dataclass(frozen=True)
class SameMapNorm:
    """Response normalisation over neighbouring places of the same map, k = 1."""
    n: int = 3
    alpha: float = 5e-5 / 3**2


Layer = Conv | Local | Dense | Activation | Pool | GlobalAverage | Dropout | CrossMapNorm | SameMapNorm

LAYERS_80SEC = (
    Conv('conv1', 32, 1e-4), Pool('max'), Activation(),
    Conv('conv2', 32, 0.01), Activation(), Pool('average'),
    Conv('conv3', 64, 0.01), Activation(), Pool('average'),
    Dense('fc64', 64, 0.1), Activation(), Dense('fc10', 10, 0.1))
LAYERS_19PCT = (
    Conv('conv1', 32, 1e-4), Pool('max'), Activation(),
    Conv('conv2', 32, 0.01), Activation(), Pool('average'),
    Conv('conv3', 64, 0.01), Activation(), Pool('average'),
    Dense('fc10', 10, 0.01))
LAYERS_18PCT = (
    Conv('conv1', 32, 1e-4), Pool('max'), Activation(), SameMapNorm(),
    Conv('conv2', 32, 0.01), Activation(), Pool('average'), SameMapNorm(),
    Conv('conv3', 64, 0.01), Activation(), Pool('average'),
    Dense('fc10', 10, 0.01))
LAYERS_13PCT = (
    Conv('conv1', 64, 1e-4), Activation(), Pool('max'),
    Conv('conv2', 64, 0.01), Activation(), Pool('max'),
    Local('local3', 32), Activation(), Local('local4', 32), Activation(),
    Dense('fc10', 10, 0.01))
LAYERS_11PCT = (
    Conv('conv1', 64, 1e-4), Activation(), Pool('max'), CrossMapNorm(),
    Conv('conv2', 64, 0.01), Activation(), CrossMapNorm(), Pool('max'),
    Local('local3', 64), Activation(), Local('local4', 32), Activation(),
    Dense('fc10', 10, 0.01))


@dataclasses.dataclass(frozen=True)
class CifarModel:
    """One of the networks above, or a change of it."""
    layers: tuple[Layer, ...]
    activation: Literal['relu', 'tanh', 'abs_tanh'] = 'relu'
    init: Literal['published', 'scaled', 'gaussian'] = 'published'  # deviations as published; N(0, 1 / fan-in); or
    # N(0, 0.01^2) in all layers, as the paper has it for ImageNet (section 5; its biases of 1 left out)

    def __post_init__(self):
        names = [layer.name for layer in self.layers if hasattr(layer, 'name')]
        require(len(names) == len(set(names)), f'model.layers: two layers have the same name, of {", ".join(names)}.')


class CifarNet(nnx.Module):
    """Images [n, s, s, 3], mean subtracted, to logits [n, 10]; s is 32, or 24 where crops are taken."""

    def __init__(self, model: CifarModel, image_size: int, rngs: nnx.Rngs):
        self.model = model
        side, maps = image_size, 3
        for layer in model.layers:
            if isinstance(layer, Pool):
                side = layers.output_size(side, layer.size, 2)
            elif isinstance(layer, GlobalAverage):
                side = 1
            elif isinstance(layer, (Conv, Local, Dense)):
                init = {'published': layers.normal(layer.deviation), 'scaled': layers.scaled(1.0),
                        'gaussian': layers.normal(0.01)}[model.init]
                if isinstance(layer, Dense):
                    made = layers.Linear(side * side * maps, layer.units, init=init, rngs=rngs)
                    side, maps = 1, layer.units
                else:
                    shape = dict(padding=layer.size // 2, init=init, rngs=rngs)
                    made = layers.Conv(maps, layer.maps, layer.size, groups=layer.groups, **shape) \
                        if isinstance(layer, Conv) else layers.Local(side, maps, layer.maps, layer.size, **shape)
                    maps = layer.maps
                setattr(self, layer.name, made)

    def __call__(self, x: jax.Array, key: jax.Array | None = None, tap=untapped) -> jax.Array:
        """A dropout key means training; none, evaluation. Layers without names are tapped as relu1, pool1, norm1."""
        counts = collections.Counter()

        def number(kind):
            counts[kind] += 1
            return f'{kind}{counts[kind]}'

        for place, layer in enumerate(self.model.layers):
            match layer:
                case Conv() | Local() | Dense():
                    x = tap(layer.name, getattr(self, layer.name)(x))
                case Activation():
                    x = tap(number(self.model.activation), layers.ACTIVATIONS[self.model.activation](x))
                case Pool():
                    x = tap(number('pool'), layers.POOLS[layer.kind](x, layer.size, 2))
                case GlobalAverage():
                    x = tap('global_average', x.mean((1, 2)))
                case Dropout():
                    x = layers.dropout(x, layer.rate, None if key is None else jax.random.fold_in(key, place))
                case CrossMapNorm():
                    x = tap(number('norm'), layers.local_response_norm(x, layer.n, 1.0, layer.alpha, 0.75))
                case SameMapNorm():
                    x = tap(number('norm'), layers.same_map_response_norm(x, layer.n, 1.0, layer.alpha, 0.75))
        return x
