"""AlexNet (Krizhevsky, Sutskever and Hinton, NIPS 2012), section 3 and Figure 2.

`groups=2` is the paper's network: conv2, conv4 and conv5 read only the maps of their own half. It changes the function
(60,965,224 parameters instead of 62,378,344). On how many devices the network runs changes nothing.
"""
import dataclasses
from typing import Literal

import jax
from flax import nnx

from lib import layers
from lib.experiment import Experiment, require
from lib.layers import Conv, Linear, dropout, local_response_norm, max_pool
from lib.task import Task, classifier
from reproductions.alexnet.cifar import CifarNet


@dataclasses.dataclass(frozen=True)
class Model:
    """The choices that the paper makes, each of them open to an ablation."""
    classes: int = 1000
    widths: tuple[int, ...] = (96, 256, 384, 384, 256)  # maps of conv1..conv5
    fc_width: int = 4096
    groups: int = 2
    activation: Literal['relu', 'tanh'] = 'relu'
    lrn: bool = True
    pool_size: int = 3                  # at stride 2, so that windows overlap
    dropout: float = 0.5                # of fc6 and fc7
    init: Literal['normal', 'scaled'] = 'normal'    # N(0, 0.01^2), or N(0, 2 / fan-in) in all layers but conv1
    bias_init: float = 1.0              # of conv2, conv4, conv5, fc6 and fc7; 0 in the rest
    without: Literal['none', 'conv3', 'conv4', 'conv5'] = 'none'    # a middle layer that is left out

    def __post_init__(self):
        require(len(self.widths) == 5 and min(self.widths) >= 1, 'model.widths must have five positive numbers.')
        require(self.groups >= 1 and not any(width % self.groups for width in self.widths),
                f'model.groups={self.groups} must divide each of model.widths={self.widths}.')
        require(0 <= self.dropout < 1, f'model.dropout={self.dropout} must be at least 0 and below 1.')
        require(min(self.classes, self.fc_width, self.pool_size) >= 1,
                'model.classes, model.fc_width and model.pool_size must be at least 1.')


class AlexNet(nnx.Module):
    """Images [n, s, s, 3], mean subtracted, to logits [n, classes]; s = 224 in the paper."""

    def __init__(self, model: Model, image_size: int, rngs: nnx.Rngs):
        w1, w2, w3, w4, w5 = model.widths
        init = layers.normal(0.01) if model.init == 'normal' else layers.scaled(2.0)
        ones, groups = model.bias_init, model.groups
        self.model = model
        self.conv1 = Conv(3, w1, 11, stride=4, init=layers.normal(0.01), rngs=rngs)     # 224 -> 55, overhanging by 3
        self.conv2 = Conv(w1, w2, 5, padding=2, groups=groups, init=init, bias=ones, rngs=rngs)
        maps = w2
        if model.without != 'conv3':
            self.conv3 = Conv(maps, maps := w3, 3, padding=1, init=init, rngs=rngs)
        if model.without != 'conv4':
            self.conv4 = Conv(maps, maps := w4, 3, padding=1, groups=groups, init=init, bias=ones, rngs=rngs)
        if model.without != 'conv5':
            self.conv5 = Conv(maps, maps := w5, 3, padding=1, groups=groups, init=init, bias=ones, rngs=rngs)
        side = layers.output_size(image_size, 11, 4)
        for _ in range(3):
            side = layers.output_size(side, model.pool_size, 2)
        self.fc6 = Linear(side * side * maps, model.fc_width, init=init, bias=ones, rngs=rngs)
        self.fc7 = Linear(model.fc_width, model.fc_width, init=init, bias=ones, rngs=rngs)
        self.fc8 = Linear(model.fc_width, model.classes, init=init, rngs=rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """A dropout key means training; none means evaluation."""
        key6, key7 = (None, None) if key is None else jax.random.split(key)
        x = self._pool(self._norm(self._act(self.conv1(x))))
        x = self._pool(self._norm(self._act(self.conv2(x))))
        for name in ('conv3', 'conv4', 'conv5'):
            if name != self.model.without:
                x = self._act(getattr(self, name)(x))
        x = self._pool(x)
        x = dropout(self._act(self.fc6(x)), self.model.dropout, key6)
        x = dropout(self._act(self.fc7(x)), self.model.dropout, key7)
        return self.fc8(x)

    def _act(self, x):
        return layers.ACTIVATIONS[self.model.activation](x)

    def _norm(self, x):
        return local_response_norm(x, n=5, k=2.0, alpha=1e-4, beta=0.75, groups=self.model.groups) \
            if self.model.lrn else x

    def _pool(self, x):
        return max_pool(x, self.model.pool_size, 2)


def build(experiment: Experiment) -> Task:
    """The task of any experiment of this paper."""
    network = AlexNet if isinstance(experiment.model, Model) else CifarNet
    return classifier(lambda rngs: network(experiment.model, experiment.data.image_size, rngs))
