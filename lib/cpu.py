"""The forms of operations that XLA makes fast programs of for a CPU; lib/layers.py uses them there instead of JAX's own.
Values and gradients are the same but for the order of sums. They have no forward-mode derivative."""
import ctypes
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

FEW = 4         # input maps, of images mostly, of which XLA:CPU's convolution makes poor use


def keep_memory() -> None:
    """Lets this process keep what it frees, all in one arena. Otherwise glibc returns the work space of every operation
    to the kernel, and getting it again page by page takes as long as the arithmetic. Other C libraries: nothing."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    arena_max, mmap_max, trim_threshold = -8, -4, -1        # names in malloc.h
    mallopt(arena_max, 1), mallopt(mmap_max, 0), mallopt(trim_threshold, -1)


def convolution(x: jax.Array, kernel: jax.Array, stride: int, padding) -> jax.Array:
    """[n, h, w, c] with [kh, kw, c, o] to [n, h', w', o]; padding ((top, bottom), (left, right)), negative to leave
    pixels out."""
    if kernel.shape[:2] == (1, 1):
        return _padded(x, padding)[:, ::stride, ::stride] @ kernel[0, 0]
    return _convolution(x, kernel, stride, tuple(map(tuple, padding)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(x, kernel, stride, padding):
    if x.shape[-1] > FEW:
        return _native(x, kernel, stride, padding)
    windows = jnp.concatenate(list(_taps(_padded(x, padding), *kernel.shape[:2], stride, stride)), -1)
    return windows @ kernel.reshape(-1, kernel.shape[-1])


def _native(x, kernel, stride, padding):
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _forward(x, kernel, stride, padding):
    return _convolution(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, residual, gradient):
    x, kernel = residual
    into_x, = jax.linear_transpose(lambda x: _native(x, kernel, stride, padding), x)(gradient)
    height, width = kernel.shape[:2]
    x = _padded(x, padding)
    if x.shape[-1] <= FEW:
        parts = [jnp.concatenate(list(_taps(x, height, width, stride, stride)), -1)]
    else:
        parts = _taps(jnp.concatenate(list(_taps(x, 1, width, 1, stride)), -1), height, 1, stride, 1)
    flat = gradient.reshape(-1, kernel.shape[-1])
    into_kernel = jnp.concatenate([part.reshape(-1, part.shape[-1]).T @ flat for part in parts])
    return into_x, into_kernel.reshape(kernel.shape)


_convolution.defvjp(_forward, _backward)


def _padded(x, padding):
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (*padding[0], 0), (*padding[1], 0), (0, 0, 0)])


def _taps(x, height, width, down, right):
    """For each place in a window, row by row, the pixels that the windows have there: [n, h', w', c]. Windows begin
    every `down` rows and every `right` columns."""
    last_row, last_column = x.shape[1] - height, x.shape[2] - width
    for i, j in np.ndindex(height, width):
        yield x[:, i:i + last_row + 1:down, j:j + last_column + 1:right]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, size: int, stride: int) -> jax.Array:
    """The largest value of every window, [n, h', w', c], without border; the first of equal ones takes the gradient."""
    return _max_and_owner(x, size, stride)[0]


def _max_and_owner(x, size, stride):
    largest, *others = _taps(x, size, size, stride, stride)
    owner = jnp.zeros(largest.shape, jnp.uint8)
    for place, tap in enumerate(others, 1):
        larger = (tap > largest) | jnp.isnan(tap)
        largest, owner = jnp.where(larger, tap, largest), jnp.where(larger, jnp.uint8(place), owner)
    return largest, (owner, x[:0])


def _to_owner(size, stride, residual, gradient):
    owner, image = residual
    return _to_pixels(gradient, size, stride, image.shape, owner),


max_pool.defvjp(_max_and_owner, _to_owner)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def sum_pool(x: jax.Array, size: int, stride: int) -> jax.Array:
    """The sum of every window, [n, h', w', c], without border."""
    return lax.reduce_window(x, jnp.zeros((), x.dtype), lax.add, (1, size, size, 1), (1, stride, stride, 1), 'VALID')


sum_pool.defvjp(lambda x, size, stride: (sum_pool(x, size, stride), x[:0]),
                lambda size, stride, image, gradient: (_to_pixels(gradient, size, stride, image.shape),))


def _to_pixels(gradient, size, stride, shape, owner=None):
    """For each pixel of an image the sum of the gradients of its windows, or of those in which it is the owner.

    Row r * stride + p is row p + stride * i of window r - i. With p as an axis of its own, for rows and for columns,
    all pixels are computed alike.
    """
    reach = (size - 1) // stride
    blocks = [count + reach for count in gradient.shape[1:3]]

    def shifted(windows, i, j, nobody):
        wide = lax.pad(windows, jnp.array(nobody, windows.dtype), [(0, 0, 0), (reach, reach, 0), (reach, reach, 0),
                                                                   (0, 0, 0)])
        own = wide[:, reach - i:reach - i + blocks[0], reach - j:reach - j + blocks[1]]
        return own[:, :, None, :, None]

    total, phases = 0, np.arange(stride)
    for i, j in np.ndindex(reach + 1, reach + 1):
        row, column = phases[:, None, None, None] + stride * i, phases[None, None, :, None] + stride * j
        takes = (row < size) & (column < size)
        if owner is not None:
            takes &= shifted(owner, i, j, size * size) == (row * size + column).astype(np.uint8)
        total += jnp.where(takes, shifted(gradient, i, j, 0), 0)
    whole = total.reshape(len(gradient), blocks[0] * stride, blocks[1] * stride, shape[3])
    beyond = [have - size for have, size in zip(shape[1:3], whole.shape[1:3])]
    return lax.pad(whole, jnp.zeros((), whole.dtype), [(0, 0, 0), (0, beyond[0], 0), (0, beyond[1], 0), (0, 0, 0)])
