"""The networks of Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2014),
section 2 and Table 1: A to E, of 11 to 19 layers, and the shallow one of section 4.1.

Layers are named conv1_1, conv1_2, pool1 and so on, fc6, fc7, fc8, as in the authors' own files.
"""
import dataclasses
from typing import Literal

import jax
from flax import nnx

from lib import layers, mesh
from lib.experiment import Experiment, require
from lib.layers import Conv, Linear, dropout, local_response_norm, max_pool
from lib.task import Task, classifier, untapped

# Windows of the convolutions in the five blocks, each of which ends in pooling.
CONFIGURATIONS = {
    'A': ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    'B': ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    'B_5x5': ((5,), (5,), (5,), (5,), (5,)),            # one 5x5 for each two 3x3 of B
    'C': ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    'D': ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    'E': ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}
FULLY_CONNECTED = ('fc6', 'fc7', 'fc8')


def convolutions(configuration: str) -> dict[str, int]:
    """The windows of all convolutions by name, in the order of the network."""
    return {f'conv{block}_{number}': window for block, windows in enumerate(CONFIGURATIONS[configuration], 1)
            for number, window in enumerate(windows, 1)}


@dataclasses.dataclass(frozen=True)
class Model:
    """The choices that the paper makes, each of them open to an ablation."""
    classes: int = 1000
    configuration: Literal['A', 'B', 'B_5x5', 'C', 'D', 'E'] = 'D'
    widths: tuple[int, int, int, int, int] = (64, 128, 256, 512, 512)   # maps of the convolutions in each block
    fc_width: int = 4096
    norm: Literal['none', 'response'] = 'none'      # after conv1_1: with A it is A-LRN
    dropout: float = 0.5                    # of fc6 and fc7
    init: Literal['normal', 'glorot'] = 'normal'    # N(0, deviation^2), or as in Glorot and Bengio 2010
    deviation: float = 0.1                  # of the initial weights: the paper prints a variance of 0.01; biases are 0

    def __post_init__(self):
        require(min(self.classes, self.fc_width, *self.widths) >= 1,
                'model.classes, model.fc_width and model.widths must be at least 1.')
        require(0 <= self.dropout < 1, f'model.dropout={self.dropout} must be at least 0 and below 1.')
        require(self.deviation > 0, f'model.deviation={self.deviation} must be positive.')


class VGG(nnx.Module):
    """Images [n, s, s, 3], mean subtracted, to logits [n, classes]; s = 224 in the paper."""

    def __init__(self, model: Model, image_size: int, rngs: nnx.Rngs):
        self.model = model
        init = layers.glorot() if model.init == 'glorot' else layers.normal(model.deviation)
        side, maps = image_size, 3
        for block, (windows, width) in enumerate(zip(CONFIGURATIONS[model.configuration], model.widths), 1):
            for number, window in enumerate(windows, 1):
                conv = Conv(maps, width, window, padding=window // 2, init=init, rngs=rngs)
                setattr(self, f'conv{block}_{number}', conv)
                maps = width
            side = layers.output_size(side, 2, 2)
        self.side = side            # pixels of the last maps: 7 in the paper
        self.fc6 = Linear(side * side * maps, model.fc_width, init=init, rngs=rngs)
        self.fc7 = Linear(model.fc_width, model.fc_width, init=init, rngs=rngs)
        self.fc8 = Linear(model.fc_width, model.classes, init=init, rngs=rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None = None, tap=untapped) -> jax.Array:
        """A dropout key means training; none means evaluation."""
        key6, key7 = jax.random.split(key) if key is not None else (None, None)
        x = self._features(x, tap)
        x = tap('fc6', dropout(layers.relu(self.fc6(x)), self.model.dropout, key6))
        x = tap('fc7', dropout(layers.relu(self.fc7(x)), self.model.dropout, key7))
        return tap('fc8', self.fc8(x))

    def dense(self, x: jax.Array) -> jax.Array:
        """The fully convolutional network of section 3.2: images [n, h, w, 3] of any size from that of training on, to
        logits [n, classes], the mean of the scores at all places of the last maps."""
        x = self._features(x)
        require(min(x.shape[1:3]) >= self.side,
                'Images are too small for a dense evaluation: set evaluation.scales to data.image_size or more.')
        x = dropout(layers.relu(_everywhere(self.fc6, x, self.side)), self.model.dropout, None)
        x = dropout(layers.relu(_everywhere(self.fc7, x, 1)), self.model.dropout, None)
        return _everywhere(self.fc8, x, 1).mean((1, 2))

    def _features(self, x, tap=untapped):
        """To the last maps, [n, 7, 7, 512] in the paper."""
        for block, windows in enumerate(CONFIGURATIONS[self.model.configuration], 1):
            for number in range(1, len(windows) + 1):
                name = f'conv{block}_{number}'
                x = tap(name, layers.relu(getattr(self, name)(x)))
                if name == 'conv1_1' and self.model.norm == 'response':
                    x = tap('norm1', local_response_norm(x, n=5, k=2.0, alpha=1e-4, beta=0.75))
            x = tap(f'pool{block}', max_pool(x, 2, 2))
        return x


def _everywhere(layer: Linear, x: jax.Array, side: int) -> jax.Array:
    """A fully connected layer of maps with `side` pixels a side, applied at every place of larger ones: [n, h, w, c] to
    [n, h - side + 1, w - side + 1, outputs]."""
    kernel = layer.kernel[...].reshape(side, side, x.shape[-1], -1)
    sums = layers.convolution(mesh.all_maps(x), kernel, 1, ((0, 0), (0, 0)))
    return mesh.own_maps((sums + layer.bias[...]).astype(x.dtype))


def build(experiment: Experiment) -> Task:
    """The task of any experiment of this paper."""
    return classifier(lambda rngs: VGG(experiment.model, experiment.data.image_size, rngs))
