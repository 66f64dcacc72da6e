"""GoogLeNet (Szegedy et al. 2014), section 5, Table 1 and Figure 3: nine inception modules, 6,998,552 parameters, and
two auxiliary classifiers that are there for training only, 13,378,280 with them.

Layers are named inception_3a_3x3_reduce and so on. Sizes round up in pooling, 112 to 56, 28, 14 and 7: rounded down,
they would not be those of Table 1.
"""
import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from lib.experiment import Experiment, require
from lib.layers import Conv, Linear, average_pool, dropout, local_response_norm, max_pool, output_size, relu
from lib.task import Task, classifier, untapped


class Inception(NamedTuple):
    """The maps of a module's convolutions, in the order of Table 1."""
    one: int                # 1x1
    reduce_three: int       # 1x1, before the 3x3
    three: int              # 3x3
    reduce_five: int        # 1x1, before the 5x5
    five: int               # 5x5
    pool_proj: int          # 1x1, after the pooling


INCEPTION = {
    '3a': Inception(64, 96, 128, 16, 32, 32),
    '3b': Inception(128, 128, 192, 32, 96, 64),
    '4a': Inception(192, 96, 208, 16, 48, 64),
    '4b': Inception(160, 112, 224, 24, 64, 64),
    '4c': Inception(128, 128, 256, 24, 64, 64),
    '4d': Inception(112, 144, 288, 32, 64, 64),
    '4e': Inception(256, 160, 320, 32, 128, 128),
    '5a': Inception(256, 160, 320, 32, 128, 128),
    '5b': Inception(384, 192, 384, 48, 128, 128),
}
POOL_AFTER = {'3b': 'pool3', '4e': 'pool4'}
Row = tuple[int, int, int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Model:
    """The choices that the paper makes, each of them open to an ablation."""
    classes: int = 1000
    stem: tuple[int, int, int] = (64, 64, 192)      # maps of conv1, conv2_reduce and conv2
    inception: tuple[tuple[str, Row], ...] = tuple(INCEPTION.items())   # the modules and their maps
    reductions: bool = True                 # Figure 2(b); false: 2(a), no 1x1 before the 3x3 and 5x5 nor after pooling
    norm: Literal['response', 'none'] = 'response'
    lrn_k: float = 1.0                      # the paper gives no constants: as in Caffe's replication,
    lrn_alpha: float = 2e-5                 # which divides its 1e-4 by the window of 5
    last: Literal['average', 'fully_connected'] = 'average'     # what reads the last maps, before the linear layer
    dropout: float = 0.4                    # of what the linear layer reads
    heads: tuple[str, ...] = ('4a', '4d')   # the modules that auxiliary classifiers read
    heads_weight: float = 0.3               # of each of their losses in the whole loss
    heads_maps: int = 128                   # of their 1x1 convolution
    fc_width: int = 1024                    # of the fully connected layer of each of them, and of `last`
    heads_dropout: float = 0.7              # of that layer, in the auxiliary classifiers
    bias_init: float = 0.2                  # as in Caffe's replication, but for the linear layers, which have 0

    def __post_init__(self):
        maps = [count for _, row in self.inception for count in row]
        require(min(self.classes, self.heads_maps, self.fc_width, *self.stem, *maps) >= 1,
                'model.classes, model.heads_maps, model.fc_width, model.stem and model.inception must be at least 1.')
        names = [name for name, _ in self.inception]
        require(set(names) <= set(INCEPTION) and len(set(names)) == len(names),
                f'model.inception must have the maps of each module once, of {", ".join(INCEPTION)}.')
        require(set(self.heads) <= set(names) and len(set(self.heads)) == len(self.heads),
                f'model.heads={list(self.heads)} must name modules of model.inception, each once: {", ".join(names)}.')
        require(self.heads_weight > 0, f'model.heads_weight={self.heads_weight} must be positive; for no auxiliary '
                                       'classifiers set model.heads to [].')
        require(0 <= self.dropout < 1 and 0 <= self.heads_dropout < 1,
                'model.dropout and model.heads_dropout must be at least 0 and below 1.')


def xavier(key: jax.Array, shape: tuple[int, ...], fan_in: int) -> jax.Array:
    """Uniform weights of variance 1 / fan-in. The paper does not say; as in Caffe's replication ("xavier")."""
    return jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0) * (3 / fan_in) ** 0.5


class GoogLeNet(nnx.Module):
    """Images [n, s, s, 3], mean subtracted, to logits [n, classes]; s = 224 in the paper."""

    def __init__(self, model: Model, image_size: int, rngs: nnx.Rngs):
        self.model = model

        def conv(name, inputs, outputs, kernel, stride=1):
            setattr(self, name, Conv(inputs, outputs, kernel, stride=stride, padding=kernel // 2, rounding='floor',
                                     bias=model.bias_init, init=xavier, rngs=rngs))

        def linear(name, inputs, outputs, bias=0.0):
            setattr(self, name, Linear(inputs, outputs, bias=bias, init=xavier, rngs=rngs))

        first, reduced, maps = model.stem
        conv('conv1', 3, first, 7, stride=2)
        conv('conv2_reduce', first, reduced, 1)
        conv('conv2', reduced, maps, 3)
        side = output_size(image_size, 7, 2, 3, 'floor')
        for _ in ('pool1', 'pool2'):
            side = output_size(side, 3, 2)
        for name, row in model.inception:
            module, prefix = Inception(*row), f'inception_{name}'
            conv(f'{prefix}_1x1', maps, module.one, 1)
            if model.reductions:
                conv(f'{prefix}_3x3_reduce', maps, module.reduce_three, 1)
                conv(f'{prefix}_3x3', module.reduce_three, module.three, 3)
                conv(f'{prefix}_5x5_reduce', maps, module.reduce_five, 1)
                conv(f'{prefix}_5x5', module.reduce_five, module.five, 5)
                conv(f'{prefix}_pool_proj', maps, module.pool_proj, 1)
            else:
                conv(f'{prefix}_3x3', maps, module.three, 3)
                conv(f'{prefix}_5x5', maps, module.five, 5)
            maps = module.one + module.three + module.five + (module.pool_proj if model.reductions else maps)
            if name in model.heads:
                head, places = f'aux_{name}', output_size(side, 5, 3) ** 2
                conv(f'{head}_conv', maps, model.heads_maps, 1)
                linear(f'{head}_fc', places * model.heads_maps, model.fc_width, model.bias_init)
                linear(f'{head}_linear', model.fc_width, model.classes)
            if name in POOL_AFTER:
                side = output_size(side, 3, 2)
        if model.last == 'fully_connected':
            linear('fc', side * side * maps, maps := model.fc_width, model.bias_init)
        linear('linear', maps, model.classes)

    def __call__(self, x: jax.Array, key: jax.Array | None = None, tap=untapped) -> jax.Array | tuple[jax.Array, ...]:
        """A dropout key means training; none means evaluation. In training, with auxiliary classifiers, a tuple of
        logits: the network's own, then theirs."""
        model, training = self.model, key is not None
        key, *keys = jax.random.split(key, 1 + len(model.heads)) if training else [None]
        x = tap('conv1', self._unit('conv1', x))
        x = self._respond('norm1', tap('pool1', max_pool(x, 3, 2)), tap)
        x = tap('conv2_reduce', self._unit('conv2_reduce', x))
        x = self._respond('norm2', tap('conv2', self._unit('conv2', x)), tap)
        x = tap('pool2', max_pool(x, 3, 2))
        others = {}
        for name, _ in model.inception:
            x = tap(f'inception_{name}', self._inception(f'inception_{name}', x, tap))
            if training and name in model.heads:
                others[name] = self._head(f'aux_{name}', x, keys[model.heads.index(name)])
            if name in POOL_AFTER:
                x = tap(POOL_AFTER[name], max_pool(x, 3, 2))
        if model.last == 'average':
            x = tap('pool5', average_pool(x, x.shape[1], 1))
        else:
            x = tap('fc', self._unit('fc', x))
        logits = tap('linear', self.linear(dropout(x, model.dropout, key)))
        return (logits, *(others[name] for name in model.heads)) if others else logits

    def _inception(self, prefix, x, tap):
        """The four branches of a module, side by side: Figure 2."""
        def conv(kind, x):
            return tap(f'{prefix}_{kind}', self._unit(f'{prefix}_{kind}', x))

        one = conv('1x1', x)
        three = conv('3x3', conv('3x3_reduce', x) if self.model.reductions else x)
        five = conv('5x5', conv('5x5_reduce', x) if self.model.reductions else x)
        pooled = tap(f'{prefix}_pool', max_pool(x, 3, 1, padding=1))
        pooled = conv('pool_proj', pooled) if self.model.reductions else pooled
        return jnp.concatenate([one, three, five, pooled], -1)

    def _head(self, prefix, x, key):
        """An auxiliary classifier: its logits."""
        x = self._unit(f'{prefix}_conv', average_pool(x, 5, 3))
        x = dropout(self._unit(f'{prefix}_fc', x), self.model.heads_dropout, key)
        return getattr(self, f'{prefix}_linear')(x)

    def _unit(self, name, x):
        return relu(getattr(self, name)(x))

    def _respond(self, name, x, tap):
        if self.model.norm == 'none':
            return x
        return tap(name, local_response_norm(x, n=5, k=self.model.lrn_k, alpha=self.model.lrn_alpha, beta=0.75))


def build(experiment: Experiment) -> Task:
    """The task of any experiment of this paper."""
    model, size = experiment.model, experiment.data.image_size
    return classifier(lambda rngs: GoogLeNet(model, size, rngs), auxiliary=model.heads_weight if model.heads else 0.0)
