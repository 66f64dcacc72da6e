"""The layers that the papers share. Images are NHWC; kernels are [height, width, inputs / groups, outputs].

A layer's function says nothing about devices, except in two places that name the exchange between them: a layer that
reads all maps gathers them (`mesh.all_maps`), and a grouped convolution stays on the device that holds its group.
"""
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec

from lib import cpu, mesh
from lib.backward import normalised, relu
from lib.experiment import UsageError

Rounding = Literal['ceil', 'floor']


def output_size(size: int, kernel: int, stride: int, padding: int = 0, rounding: Rounding = 'ceil') -> int:
    """Number of windows along an axis of `size` pixels, with `padding` pixels of border on both sides.

    'ceil' lets the last window overhang, as cuda-convnet and Caffe's pooling do; 'floor' drops it, as torch does. A
    window that would lie wholly beyond the image and its left border is dropped, as in Caffe.
    """
    steps = (size + 2 * padding - kernel) / stride
    count = 1 + int(np.ceil(steps) if rounding == 'ceil' else np.floor(steps))
    if count < 1:
        raise UsageError(f'a window of {kernel} pixels does not fit an image of {size}: use a larger data.image_size.')
    return count - 1 if (count - 1) * stride >= size + padding else count


def borders(size: int, kernel: int, stride: int, padding: int = 0, rounding: Rounding = 'ceil') -> tuple[int, int]:
    """Pixels to add before and after an axis so that plain windows of `kernel` at `stride` give `output_size`. The
    second is negative where the last pixels are read by no window."""
    span = (output_size(size, kernel, stride, padding, rounding) - 1) * stride + kernel
    return padding, span - size - padding


def convolution(x: jax.Array, kernel: jax.Array, stride: int, padding) -> jax.Array:
    """Plain convolution, [n, h, w, c] with [kh, kw, c, o] to [n, h', w', o]; padding ((top, bottom), (left, right))."""
    return lax.platform_dependent(x, kernel, cpu=functools.partial(cpu.convolution, stride=stride, padding=padding),
                                  default=functools.partial(_native, stride=stride, padding=padding))


def _native(x, kernel, stride, padding, groups=1):
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, feature_group_count=groups,
                                    dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def grouped_convolution(x: jax.Array, kernel: jax.Array, stride: int, padding, groups: int) -> jax.Array:
    """Convolution whose output maps are in `groups` equal parts, each reading its own part of the input maps.

    On a mesh every device convolves the groups whose maps it holds; left to itself XLA's partitioner gathers all maps.

    Raises:
      UsageError: if the mesh axis `model` does not divide `groups`.
    """
    devices = jax.sharding.get_abstract_mesh()
    if devices.empty or devices.size == 1:
        return _convolve_groups(x, kernel, stride, padding, groups)
    if groups % devices.shape['model']:
        raise UsageError(f'--mesh has model:{devices.shape["model"]}, which does not divide the {groups} groups of a '
                         'convolution: choose a divisor.')
    maps = PartitionSpec('data', None, None, 'model')

    def here(x, kernel):
        # Said here, the sum of the kernel's gradient over `data` is one collective outside the choice of platform.
        kernel = lax.pcast(kernel, 'data', to='varying')
        return _convolve_groups(x, kernel, stride, padding, groups // devices.shape['model'])

    return jax.shard_map(here, in_specs=(maps, PartitionSpec(None, None, None, 'model')), out_specs=maps)(x, kernel)


def _convolve_groups(x, kernel, stride, padding, groups):
    def one_by_one(x, kernel):      # XLA:CPU has no fast convolution with groups
        parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1))
        return jnp.concatenate([cpu.convolution(a, b, stride, padding) for a, b in parts], -1)

    return lax.platform_dependent(x, kernel, cpu=one_by_one,
                                  default=functools.partial(_native, stride=stride, padding=padding, groups=groups))


def normal(deviation: float):
    """Weights from N(0, deviation^2)."""
    return lambda key, shape, fan_in: deviation * jax.random.normal(key, shape, jnp.float32)


def scaled(gain: float):
    """Weights from N(0, gain / fan-in): gain 1 is LeCun's scaling, 2 that of He et al. 2015."""
    return lambda key, shape, fan_in: (gain / fan_in) ** 0.5 * jax.random.normal(key, shape, jnp.float32)


def glorot():
    """Uniform weights of variance 2 / (fan-in + fan-out), Glorot and Bengio 2010, equation 16; for convolutions without
    groups and for fully connected layers."""
    def draw(key, shape, fan_in):
        fan_out = math.prod(shape[:-2]) * shape[-1]
        return (6 / (fan_in + fan_out)) ** 0.5 * jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0)

    return draw


class Conv(nnx.Module):
    """Convolution, with a bias unless that is None. `groups` is part of the function: each of the groups reads its own
    input maps only."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0, groups: int = 1,
                 rounding: Rounding = 'ceil', init=normal(0.01), bias: float | None = 0.0, rngs: nnx.Rngs):
        shape = (kernel, kernel, inputs // groups, outputs)
        self.kernel = nnx.Param(init(rngs.params(), shape, kernel * kernel * inputs // groups))
        self.bias = None if bias is None else nnx.Param(jnp.full((outputs,), bias, jnp.float32))
        self.stride, self.padding, self.groups, self.rounding = stride, padding, groups, rounding

    def __call__(self, x: jax.Array) -> jax.Array:
        size = self.kernel.shape[0]
        padding = [borders(side, size, self.stride, self.padding, self.rounding) for side in x.shape[1:3]]
        if self.groups == 1:
            y = convolution(mesh.all_maps(x), self.kernel[...], self.stride, padding)
        else:
            y = grouped_convolution(x, self.kernel[...], self.stride, padding, self.groups)
        return mesh.own_maps(y if self.bias is None else y + self.bias[...])


class Local(nnx.Module):
    """Locally connected layer of cuda-convnet: a convolution, stride 1, whose weights differ from place to place.

    Kernel [h, w, kernel * kernel * inputs, outputs]; one bias for each place and map.
    """

    def __init__(self, size: int, inputs: int, outputs: int, kernel: int, *, padding: int = 0, init=normal(0.01),
                 rngs: nnx.Rngs):
        places = output_size(size, kernel, 1, padding)
        window = kernel * kernel * inputs
        self.kernel = nnx.Param(init(rngs.params(), (places, places, window, outputs), window))
        self.bias = nnx.Param(jnp.zeros((places, places, outputs), jnp.float32))
        self.size, self.padding = kernel, padding

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, inputs] to [n, h', w', outputs]."""
        x = jnp.pad(mesh.all_maps(x), ((0, 0), (self.padding,) * 2, (self.padding,) * 2, (0, 0)))
        windows = jnp.concatenate(_taps(x, self.size, 1, *self.kernel.shape[:2]), -1)
        return mesh.own_maps(jnp.einsum('nhwp,hwpo->nhwo', windows, self.kernel[...]) + self.bias[...])


class Linear(nnx.Module):
    """Fully connected layer, with a bias unless that is None; maps are flattened first, height, width, map."""

    def __init__(self, inputs: int, outputs: int, *, init=normal(0.01), bias: float | None = 0.0, rngs: nnx.Rngs):
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs), inputs))
        self.bias = None if bias is None else nnx.Param(jnp.full((outputs,), bias, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = mesh.all_maps(x).reshape(x.shape[0], -1) @ self.kernel[...]
        return mesh.own_maps(y if self.bias is None else y + self.bias[...])


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes each output with probability `rate` in training (a key is given); multiplies all of them by `1 - rate` at
    test time (none is), as AlexNet section 4.2 does."""
    if key is None:
        return x * (1 - rate)
    return mesh.own_maps(jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x, 0))


def local_response_norm(x: jax.Array, n: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75,
                        groups: int = 1) -> jax.Array:
    """x / (k + alpha * sum of x^2 over the n nearest maps)^beta, AlexNet section 3.3, with the paper's own constants.

    `alpha` is not divided by n: cuda-convnet, Caffe and PyTorch do divide, so their alpha is `alpha / n` here; Caffe
    and the first cuda-convnet have k = 1. Windows do not cross `groups`, as the two GPUs normalised their own maps.
    """
    maps = at_least_float32(x).reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    window = (1,) * (maps.ndim - 1) + (n,)
    around = [(0, 0)] * (maps.ndim - 1) + [(n // 2, n - 1 - n // 2)]
    total = lax.reduce_window(maps * maps, np.zeros((), maps.dtype), lax.add, window, (1,) * maps.ndim, around)
    return normalised(x, (maps * _power(k + alpha * total, beta)).reshape(x.shape).astype(x.dtype))


def same_map_response_norm(x: jax.Array, n: int, k: float, alpha: float, beta: float) -> jax.Array:
    """x / (k + alpha * sum of x^2 over the n x n nearest places of the same map)^beta: `rnorm` of cuda-convnet, whose
    `scale` is n^2 times this alpha."""
    around = [(0, 0), (n // 2, n - 1 - n // 2), (n // 2, n - 1 - n // 2), (0, 0)]
    maps = at_least_float32(x)
    total = lax.reduce_window(maps * maps, np.zeros((), maps.dtype), lax.add, (1, n, n, 1), (1, 1, 1, 1), around)
    return normalised(x, (maps * _power(k + alpha * total, beta)).astype(x.dtype))


def at_least_float32(x: jax.Array) -> jax.Array:
    """Numbers of bfloat16 in float32, in which they can be added up; others as they are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _power(base: jax.Array, beta: float) -> jax.Array:
    """base^-beta; the papers' 0.75 as square roots, cheaper than a general power."""
    return lax.rsqrt(base) * lax.sqrt(lax.rsqrt(base)) if beta == 0.75 else base**-beta


def max_pool(x: jax.Array, size: int, stride: int, padding: int = 0, rounding: Rounding = 'ceil') -> jax.Array:
    """The largest value of every window. The gradient goes to the first maximum of the window, row by row, also where
    several are equal (cuDNN and Caffe do the same; a maximum of shifted slices would split it)."""
    around = [borders(side, size, stride, padding, rounding) for side in x.shape[1:3]]
    x = lax.pad(x, np.array(-np.inf, x.dtype), [(0, 0, 0), (*around[0], 0), (*around[1], 0), (0, 0, 0)])

    def windows(x):
        return lax.reduce_window(x, -np.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), 'VALID')

    return lax.platform_dependent(x, cpu=functools.partial(cpu.max_pool, size=size, stride=stride), default=windows)


def min_pool(x: jax.Array, size: int, stride: int, padding: int = 0, rounding: Rounding = 'ceil') -> jax.Array:
    """The smallest value of every window; the first of equal ones takes the gradient."""
    return -max_pool(-x, size, stride, padding, rounding)


def average_pool(x: jax.Array, size: int, stride: int, padding: int = 0, rounding: Rounding = 'ceil') -> jax.Array:
    """The mean of every window over the part of it that lies on the image, as in cuda-convnet and Caffe."""
    around = [borders(side, size, stride, padding, rounding) for side in x.shape[1:3]]
    maps = at_least_float32(x)
    zero = np.zeros((), maps.dtype)
    maps = lax.pad(maps, zero, [(0, 0, 0), (*around[0], 0), (*around[1], 0), (0, 0, 0)])
    counts = [_window_counts(side, low, high, size, stride) for side, (low, high) in zip(maps.shape[1:3], around)]
    area = np.outer(*counts)[None, :, :, None].astype(maps.dtype)

    def windows(maps):
        return lax.reduce_window(maps, zero, lax.add, (1, size, size, 1), (1, stride, stride, 1), 'VALID')

    total = lax.platform_dependent(maps, cpu=functools.partial(cpu.sum_pool, size=size, stride=stride),
                                   default=windows)
    return (total / area).astype(x.dtype)


def _window_counts(padded: int, low: int, high: int, size: int, stride: int) -> np.ndarray:
    inside = np.zeros(padded, int)
    inside[low:padded - max(high, 0)] = 1
    return np.array([inside[start:start + size].sum() for start in range(0, padded - size + 1, stride)])


def _taps(x: jax.Array, size: int, stride: int, rows: int, columns: int) -> list[jax.Array]:
    """For each place in a window, row by row, the values that the windows have there: [n, rows, columns, c]."""
    return [x[:, i:i + stride * (rows - 1) + 1:stride, j:j + stride * (columns - 1) + 1:stride]
            for i in range(size) for j in range(size)]


ACTIVATIONS = {'relu': relu, 'tanh': jnp.tanh, 'abs_tanh': lambda x: jnp.abs(jnp.tanh(x))}
POOLS = {'max': max_pool, 'average': average_pool, 'min': min_pool}
