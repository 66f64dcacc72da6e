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
from lib.layers import Conv, Linear, dropout, local_response_norm
from lib.task import Task, classifier, untapped
from reproductions.alexnet.cifar import CifarNet

CONVS = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'conv6')
FULLY_CONNECTED = ('fc6', 'fc7', 'fc8')
LAYERS = CONVS[:5] + FULLY_CONNECTED


@dataclasses.dataclass(frozen=True)
class Model:
    """The choices that the paper makes, each of them open to an ablation."""
    classes: int = 1000
    widths: tuple[int, ...] = (96, 256, 384, 384, 256)  # maps of conv1..conv5
    fc_width: int = 4096
    groups: int = 2
    activation: Literal['relu', 'tanh'] = 'relu'
    norm: Literal['response', 'batch', 'none'] = 'response'     # 'batch': of all layers but the last, before the unit
    lrn_k: float = 2.0
    lrn_alpha: float = 1e-4             # as the paper's formula has it: not divided by the window of 5
    lrn_own_group: bool = True          # the windows do not cross the groups
    # For layers 1 and 2, what the normalisation follows: the convolution, its unit, or the pooling after that.
    lrn_after: tuple[Literal['conv', 'unit', 'pool'], Literal['conv', 'unit', 'pool']] = ('unit', 'unit')
    pool: Literal['max', 'average', 'min'] = 'max'
    pool_size: int = 3                  # at stride 2, so that windows overlap
    padding: int = 0                    # of conv1, on all sides
    rounding: layers.Rounding = 'ceil'  # of the size of conv1 and of the pooling layers
    dropout: float = 0.5                # of fc6 and fc7
    init: Literal['normal', 'scaled'] = 'normal'    # N(0, deviation^2), or N(0, 2 / fan-in) in all layers but conv1
    deviations: tuple[float, ...] = (0.01,) * 8     # of the initial weights, conv1..fc8
    bias_init: float = 1.0              # of conv2, conv4, conv5, fc6 and fc7; 0 in the rest
    last_bias_init: float = 0.0         # of fc8
    without: Literal['none', 'conv3', 'conv4', 'conv5'] = 'none'    # a middle layer that is left out
    conv6: int = 0                      # maps of a sixth convolution, 3x3 over the last pooling layer; 0 for none
    loss: Literal['softmax', 'logistic'] = 'softmax'

    def __post_init__(self):
        require(len(self.widths) == 5 and min(self.widths) >= 1, 'model.widths must have five positive numbers.')
        require(self.groups >= 1 and not any(width % self.groups for width in (*self.widths, self.conv6)),
                f'model.groups={self.groups} must divide each of model.widths={self.widths} and model.conv6.')
        require(len(self.deviations) == 8 and min(self.deviations) > 0,
                'model.deviations must have eight positive numbers.')
        require(0 <= self.dropout < 1, f'model.dropout={self.dropout} must be at least 0 and below 1.')
        require(min(self.classes, self.fc_width, self.pool_size) >= 1,
                'model.classes, model.fc_width and model.pool_size must be at least 1.')
        require(min(self.padding, self.conv6) >= 0, 'model.padding and model.conv6 must not be negative.')


class AlexNet(nnx.Module):
    """Images [n, s, s, 3], mean subtracted, to logits [n, classes]; s = 224 in the paper."""

    def __init__(self, model: Model, image_size: int, rngs: nnx.Rngs):
        w1, w2, w3, w4, w5 = model.widths
        deviation = dict(zip(LAYERS, model.deviations), conv6=model.deviations[4])
        normalised = model.norm == 'batch'
        one, zero = (None, None) if normalised else (model.bias_init, 0.0)
        groups = model.groups

        def init(name):
            scaled = model.init == 'scaled' and name != 'conv1'
            return dict(init=layers.scaled(2.0) if scaled else layers.normal(deviation[name]), rngs=rngs)

        self.model = model
        # 224 -> 55 pixels, the last window overhanging by 3
        self.conv1 = Conv(3, w1, 11, stride=4, padding=model.padding, rounding=model.rounding, bias=zero,
                          **init('conv1'))
        self.conv2 = Conv(w1, w2, 5, padding=2, groups=groups, bias=one, **init('conv2'))
        maps = w2
        if model.without != 'conv3':
            self.conv3 = Conv(maps, maps := w3, 3, padding=1, bias=zero, **init('conv3'))
        if model.without != 'conv4':
            self.conv4 = Conv(maps, maps := w4, 3, padding=1, groups=groups, bias=one, **init('conv4'))
        if model.without != 'conv5':
            self.conv5 = Conv(maps, maps := w5, 3, padding=1, groups=groups, bias=one, **init('conv5'))
        if model.conv6:
            self.conv6 = Conv(maps, maps := model.conv6, 3, padding=1, groups=groups, bias=one, **init('conv6'))
        side = layers.output_size(image_size, 11, 4, model.padding, model.rounding)
        for _ in range(3):
            side = layers.output_size(side, model.pool_size, 2, rounding=model.rounding)
        self.fc6 = Linear(side * side * maps, model.fc_width, bias=one, **init('fc6'))
        self.fc7 = Linear(model.fc_width, model.fc_width, bias=one, **init('fc7'))
        self.fc8 = Linear(model.fc_width, model.classes, bias=model.last_bias_init, **init('fc8'))
        if normalised:
            for name in (*CONVS, 'fc6', 'fc7'):
                if hasattr(self, name):
                    outputs = getattr(self, name).kernel.shape[-1]
                    setattr(self, f'{name}_norm', nnx.BatchNorm(outputs, momentum=0.9, epsilon=1e-5, rngs=rngs))

    def __call__(self, x: jax.Array, key: jax.Array | None = None, tap=untapped) -> jax.Array:
        """A dropout key means training; none means evaluation."""
        return self.classify(self.features(x, key, tap), key, tap)

    def features(self, x: jax.Array, key: jax.Array | None = None, tap=untapped) -> jax.Array:
        """The convolutional part: to the last maps, [n, 6, 6, 256] in the paper."""
        training = key is not None
        x = self._normalised(1, x, training, tap)
        x = self._normalised(2, x, training, tap)
        for name in ('conv3', 'conv4', 'conv5'):
            if name != self.model.without:
                x = tap(name, self._unit(name, x, training))
        x = tap('pool5', self._pool(x))
        return tap('conv6', self._unit('conv6', x, training)) if self.model.conv6 else x

    def classify(self, x: jax.Array, key: jax.Array | None = None, tap=untapped) -> jax.Array:
        """The fully connected part: to the logits."""
        training = key is not None
        key6, key7 = jax.random.split(key) if training else (None, None)
        x = tap('fc6', dropout(self._unit('fc6', x, training), self.model.dropout, key6))
        x = tap('fc7', dropout(self._unit('fc7', x, training), self.model.dropout, key7))
        return tap('fc8', self.fc8(x))

    def _normalised(self, number, x, training, tap):
        """conv1 or conv2 with its unit, its pooling, and response normalisation after one of the three."""
        conv, after = f'conv{number}', self.model.lrn_after[number - 1] if self.model.norm == 'response' else None

        def norm(x, place):
            return tap(f'norm{number}', self._respond(x)) if place == after else x

        x = norm(self._linear(conv, x, training), 'conv')
        x = norm(tap(conv, self._act(x)), 'unit')
        return norm(tap(f'pool{number}', self._pool(x)), 'pool')

    def _linear(self, name, x, training):
        x = getattr(self, name)(x)
        return getattr(self, f'{name}_norm')(x, use_running_average=not training) if self.model.norm == 'batch' else x

    def _unit(self, name, x, training):
        return self._act(self._linear(name, x, training))

    def _act(self, x):
        return layers.ACTIVATIONS[self.model.activation](x)

    def _respond(self, x):
        return local_response_norm(x, n=5, k=self.model.lrn_k, alpha=self.model.lrn_alpha, beta=0.75,
                                   groups=self.model.groups if self.model.lrn_own_group else 1)

    def _pool(self, x):
        return layers.POOLS[self.model.pool](x, self.model.pool_size, 2, rounding=self.model.rounding)


def build(experiment: Experiment) -> Task:
    """The task of any experiment of this paper."""
    model, size = experiment.model, experiment.data.image_size
    if not isinstance(model, Model):
        return classifier(lambda rngs: CifarNet(model, size, rngs))
    head = () if model.norm == 'batch' else FULLY_CONNECTED
    return classifier(lambda rngs: AlexNet(model, size, rngs), model.loss, head)
