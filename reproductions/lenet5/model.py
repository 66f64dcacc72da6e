"""LeNet-5 (LeCun, Bottou, Bengio and Haffner, Proc. IEEE 86(11), 1998), section II.B and Figure 2.

C1, C3 and C5 are convolutions, S2 and S4 sums over 2x2 windows with a trainable coefficient and bias a map, F6 is fully
connected, and each output is the squared distance of F6 to a drawing of its class: 60,000 trainable parameters.
"""
import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from lib import layers, mesh
from lib.experiment import Experiment, require
from lib.layers import Linear
from lib.task import Params, Task, classifier, untapped
from reproductions.lenet5.caffe import CaffeModel, CaffeNet
from reproductions.lenet5.prototypes import PROTOTYPES

# Table I: the maps of S2 that each map of C3 reads.
TABLE_I = ((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5), (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5),
           (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5), (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5))


@dataclasses.dataclass(frozen=True)
class Model:
    """The choices that the paper makes, and what stands for them now."""
    classes: int = 10
    connections: Literal['table', 'full'] = 'table'     # of C3 to the maps of S2
    subsampling: Literal['trainable', 'max'] = 'trainable'
    output: Literal['rbf', 'linear'] = 'rbf'            # 'linear': with the cross-entropy of a softmax
    init: Literal['published', 'scaled'] = 'published'  # uniform in +-2.4 / fan-in, or +-(3 / fan-in)^(1/2)
    penalty: float = 0.05               # what the squared distances are multiplied by
    rubbish: float = 5.0                # j of equation 9: the penalty of an input that is no character

    def __post_init__(self):
        require(1 <= self.classes <= len(PROTOTYPES), f'model.classes={self.classes} must be 1 to {len(PROTOTYPES)}.')
        require(self.penalty > 0, f'model.penalty={self.penalty} must be positive.')


def squash(a: jax.Array) -> jax.Array:
    """A tanh(S a) with A = 1.7159 and S = 2/3, appendix A: 1 at 1, where its curvature is greatest."""
    return 1.7159 * jnp.tanh(2 / 3 * a)


def slope(y: jax.Array) -> jax.Array:
    """The derivative of `squash`, from its value."""
    return 2 / 3 * (1.7159 - y**2 / 1.7159)


def uniform(init: str):
    """Initial weights, appendix A. The paper divides by the fan-in itself, for inputs that are alike; its authors'
    Efficient BackProp of the same year by the root, for inputs that are not."""
    def make(key, shape, fan_in):
        bound = 2.4 / fan_in if init == 'published' else (3 / fan_in) ** 0.5
        return jax.random.uniform(key, shape, jnp.float32, -bound, bound)
    return make


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[n, h, w, c] with [5, 5, c, o] to [n, h - 4, w - 4, o], as one product of matrices: for one image at a time, as
    this network is trained, that costs a CPU a third of what XLA's convolution does."""
    height, width = x.shape[1] - 4, x.shape[2] - 4
    windows = [x[:, i:i + height, j:j + width] for i in range(5) for j in range(5)]
    return jnp.concatenate(windows, -1) @ kernel.reshape(-1, kernel.shape[-1])


class Convolution(nnx.Module):
    """5x5, stride 1, no border; with a table each map reads only the maps before it that are named there. Kernel [5, 5,
    inputs, outputs], or [5, 5, connections] in the order of the table."""

    def __init__(self, inputs: int, outputs: int, table: tuple[tuple[int, ...], ...] | None = None, *, init,
                 rngs: nnx.Rngs):
        self.whole, self.connections = (5, 5, inputs, outputs), None
        if table is None:
            kernel = init(rngs.params(), self.whole, 25 * inputs)
        else:
            pairs = [(source, target) for target, sources in enumerate(table) for source in sources]
            self.connections = tuple(zip(*pairs))
            kernel = jnp.concatenate([init(rngs.params(), (5, 5, len(sources)), 25 * len(sources))
                                      for sources in table], -1)
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...]
        if self.connections is not None:
            sources, targets = map(np.array, self.connections)
            kernel = jnp.zeros(self.whole, kernel.dtype).at[:, :, sources, targets].set(kernel)
        return mesh.own_maps(convolve(mesh.all_maps(x), kernel) + self.bias[...])


class Subsampling(nnx.Module):
    """The sum over 2x2 windows at stride 2, times a coefficient, plus a bias, one of each a map."""

    def __init__(self, maps: int, *, init, rngs: nnx.Rngs):
        self.kernel = nnx.Param(init(rngs.params(), (maps,), 4))
        self.bias = nnx.Param(jnp.zeros(maps, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.kernel[...] * sums(x) + self.bias[...]


def sums(x: jax.Array) -> jax.Array:
    """[n, h, w, c] to [n, h / 2, w / 2, c]: over 2x2 windows."""
    return x[:, ::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, ::2] + x[:, 1::2, 1::2]


LAYERS = ('C1', 'S2', 'C3', 'S4', 'C5', 'F6')


class LeNet5(nnx.Module):
    """Images [n, 32, 32, 3], of which the first channel is read, paper -0.1 and ink 1.175, to logits [n, classes]: the
    penalties of the classes, negative."""

    def __init__(self, model: Model, image_size: int, rngs: nnx.Rngs):
        how = dict(init=uniform(model.init), rngs=rngs)
        self.model = model
        self.C1 = Convolution(1, 6, **how)
        self.C3 = Convolution(6, 16, TABLE_I if model.connections == 'table' else None, **how)
        self.C5 = Convolution(16, 120, **how)
        if model.subsampling == 'trainable':
            self.S2 = Subsampling(6, **how)
            self.S4 = Subsampling(16, **how)
        side = ((image_size - 4) // 2 - 4) // 2 - 4
        require(side >= 1, f'data.image_size={image_size} is too small for C5: set it to at least 32.')
        self.F6 = Linear(side * side * 120, 84, **how)
        if model.output == 'linear':
            self.output = Linear(84, model.classes, **how)

    def __call__(self, x: jax.Array, key: jax.Array | None = None, tap=untapped) -> jax.Array:
        """There is no dropout, so a key makes no difference."""
        x = x[..., :1]
        for name in LAYERS:
            x = tap(name, self.layer(name, x))
        if self.model.output == 'linear':
            return tap('output', self.output(x))
        drawings = layers.at_least_float32(jnp.asarray(PROTOTYPES[:self.model.classes], x.dtype))
        distances = jnp.square(mesh.all_maps(x)[:, None] - drawings).sum(-1)
        return tap('output', -self.model.penalty * distances)

    def layer(self, name: str, x: jax.Array) -> jax.Array:
        """A layer's output from that of the one before."""
        if self.model.subsampling == 'max' and name in ('S2', 'S4'):
            return layers.max_pool(x, 2, 2)
        return squash(getattr(self, name)(x))


def curvature(network: LeNet5, images: jax.Array) -> Params:
    """For each parameter the mean second derivative of its class's penalty, as appendix C estimates it (equations 28
    to 32, without what makes it negative): that of a unit's sum is the slope squared times those of the sums that read
    it, each times its weight squared.

    So it is the gradient of a twin of the network which computes with squares. There the squares of sums are not what
    belongs to a layer, but those of the real activations, which `held` puts in their place.
    """
    graph, weights = nnx.split(network)
    values, x = {}, images[..., :1]
    network(images, tap=lambda name, value: values.setdefault(name, value))

    def held(twin, value):
        return twin + lax.stop_gradient(value - twin)

    def twin(squares):
        squared, v, before = nnx.merge(graph, squares), x**2, x
        for name in LAYERS:
            layer = getattr(squared, name)
            if isinstance(layer, Subsampling):
                v = layer.kernel[...] * held(sums(v), sums(before)**2) + layer.bias[...]
            else:
                v = layer(v)
            before = values[name]
            v = held(slope(before)**2 * v, before**2)
        return 2 * network.model.penalty * v.sum() / len(images)

    return nnx.to_pure_dict(jax.grad(twin)(jax.tree.map(jnp.square, weights)))


def loss(rubbish: float):
    """Equation 9, the maximum a posteriori criterion: the penalty of the right class, and the logarithm of a sum over
    all classes and over what is no character, whose penalty is the constant j = `rubbish`."""
    def each(logits, labels):
        own = jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]
        return -own + jnp.logaddexp(-rubbish, jax.nn.logsumexp(logits, 1))
    return each, jax.nn.softmax


def build(experiment: Experiment) -> Task:
    """The task of any experiment of this paper."""
    model, size = experiment.model, experiment.data.image_size
    if isinstance(model, CaffeModel):
        return classifier(lambda rngs: CaffeNet(model, size, rngs))
    published = model.output == 'rbf' and model.subsampling == 'trainable'
    return classifier(lambda rngs: LeNet5(model, size, rngs),
                      loss(model.rubbish) if model.output == 'rbf' else 'softmax',
                      curvature=curvature if published else None)
