"""The forms of operations that XLA makes fast programs of for a CPU, used there by lib/layers.py instead of JAX's own.
Values and gradients are the same but for the order of sums. They have no forward-mode derivative.

Which form is faster was measured with jaxlib 0.10.2: launch.benchmark shows what they reach together.
"""
import ctypes
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Input maps: XLA:CPU's convolution is slow with few, images mostly, unless the stride is 1 and the output maps are at
# most NARROW; that which gives a kernel's gradient is slow with few and with many.
FEW, MANY, NARROW = 4, 96, 64
BLOCK = 4               # places in a row
PLACES = 8192           # in a batch: with more of them a kernel's gradient is slow too
TILE = 128              # output maps that XLA:CPU gives a thread, which has no equal share if this does not divide them
MOST_PARTS = 8          # of a batch, each of which has to be compiled
LONG, SMALL, SHARES = 2**15, 200**2, 8      # a small product's sums of so many terms are made in shares, one a thread


def keep_memory() -> None:
    """Lets this process keep what it frees, all in one arena. Otherwise glibc returns the work space of every operation
    to the kernel, and getting it again page by page takes much of the time. Other C libraries: nothing."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    arena_max, mmap_max, trim_threshold = -8, -4, -1        # names in malloc.h
    mallopt(arena_max, 1), mallopt(mmap_max, 0), mallopt(trim_threshold, -1)


def convolution(x: jax.Array, kernel: jax.Array, stride: int, padding) -> jax.Array:
    """[n, h, w, c] with [kh, kw, c, o] to [n, h', w', o]; padding ((top, bottom), (left, right)), negative to leave
    pixels out."""
    return _convolution(x, kernel, stride, tuple(map(tuple, padding)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(x, kernel, stride, padding):
    height, width, maps, outputs = kernel.shape
    if maps > FEW and height * width > 1:
        return _shared(x, kernel, stride, padding)
    if height * width > 1 and stride == 1 and outputs <= NARROW:
        return _native(x, kernel, stride, padding)
    windows = jnp.concatenate(list(_taps(_padded(x, padding), height, width, stride)), -1)
    return windows @ kernel.reshape(-1, outputs)


def _native(x, kernel, stride, padding):
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _shared(x, kernel, stride, padding):
    """The same, in as many convolutions as give all threads work."""
    outputs = kernel.shape[-1]
    parts = _parts(x, 1 if outputs <= TILE // 4 or outputs % TILE == 0 else MOST_PARTS // 2)
    found = jnp.stack([_native(part, kernel, stride, padding) for part in parts], 1)
    return found.reshape(len(x), *found.shape[2:])


def _parts(x, most):
    """A batch in at most so many equal parts. Images are dealt out in turns: those of a device stay there."""
    count = max(divisor for divisor in range(1, most + 1) if len(x) % divisor == 0)
    dealt = x.reshape(len(x) // count, count, *x.shape[1:])
    return [dealt[:, i] for i in range(count)]


def _forward(x, kernel, stride, padding):
    return _convolution(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, residual, gradient):
    x, kernel = residual
    return _into_image(x, kernel, stride, padding, gradient), _into_kernel(x, kernel, stride, padding, gradient)


def _into_image(x, kernel, stride, padding, gradient):
    if stride > 1:
        return jax.linear_transpose(lambda x: _native(x, kernel, stride, padding), x)(gradient)[0]
    if kernel.shape[:2] == (1, 1):
        beyond = tuple((-low, -high) for low, high in padding)
        return _padded(gradient @ kernel[0, 0].T, beyond)
    # Said as a plain convolution, since XLA:CPU is much slower with a transposed one inside a loop.
    around = [(side - 1 - low, side - 1 - high) for side, (low, high) in zip(kernel.shape[:2], padding)]
    return _shared(gradient, kernel[::-1, ::-1].swapaxes(2, 3), 1, around)


def _native_into_kernel(x, gradient, kernel, stride, padding):
    return jax.linear_transpose(lambda kernel: _native(x, kernel, stride, padding), kernel)(gradient)[0]


def _into_kernel(x, kernel, stride, padding, gradient):
    n, rows, columns, outputs = gradient.shape
    height, width, maps, _ = kernel.shape
    if FEW < maps < MANY and height * width > 1:
        most = min(MOST_PARTS, -(-n * rows * columns // PLACES))
        return sum(_native_into_kernel(*pair, kernel, stride, padding)
                   for pair in zip(_parts(x, most), _parts(gradient, most)))
    if maps <= FEW and width > 1 and stride == 1 and outputs <= NARROW and columns % BLOCK == 0:
        return _blocks_into_kernel(x, kernel, padding, gradient)
    taps = _taps(_padded(x, padding), height, width, stride)
    parts = taps if maps > FEW else [jnp.concatenate(list(taps), -1)]
    return jnp.concatenate([_product(part, gradient) for part in parts]).reshape(kernel.shape)


def _blocks_into_kernel(x, kernel, padding, gradient):
    """The same with stride 1. Neighbours in a row share most pixels: a block of them has one window of all of these."""
    rows, columns, outputs = gradient.shape[1:]
    height, width, maps, _ = kernel.shape
    across = width + BLOCK - 1
    x = _padded(x, padding)
    tall = jnp.concatenate([x[:, i:i + rows] for i in range(height)], -1)
    windows = jnp.stack([tall[:, :, j:j + across] for j in range(0, columns, BLOCK)], 2)
    # Output maps keep an axis of their own: devices may share that.
    found = jnp.einsum('pw,pbo->wbo', windows.reshape(-1, across * height * maps), gradient.reshape(-1, BLOCK, outputs))
    found = found.reshape(across, height, maps, BLOCK, outputs)
    return sum(found[j:j + width, :, :, j] for j in range(BLOCK)).swapaxes(0, 1)


def _product(x, gradient):
    """Sums over all places of all images: [n, h, w, c] and [n, h, w, o] to [c, o]."""
    places = math.prod(gradient.shape[:-1])
    in_shares = places >= LONG and places % SHARES == 0 and x.shape[-1] * gradient.shape[-1] <= SMALL
    share = SHARES if in_shares else 1
    x, gradient = (array.reshape(share, -1, array.shape[-1]) for array in (x, gradient))
    return jnp.einsum('spc,spo->sco', x, gradient).sum(0)


_convolution.defvjp(_forward, _backward)


def _padded(x, padding):
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (*padding[0], 0), (*padding[1], 0), (0, 0, 0)])


def _taps(x, height, width, stride):
    """For each place in a window, row by row, the pixels that the windows have there: [n, h', w', c]."""
    last_row, last_column = x.shape[1] - height, x.shape[2] - width
    for i, j in np.ndindex(height, width):
        yield x[:, i:i + last_row + 1:stride, j:j + last_column + 1:stride]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: jax.Array, size: int, stride: int) -> jax.Array:
    """The largest value of every window, [n, h', w', c], without border; the first of equal ones takes the gradient."""
    return _max_and_owner(x, size, stride)[0]


def _max_and_owner(x, size, stride):
    largest, *others = _taps(x, size, size, stride)
    places = jnp.uint8 if size < 16 else jnp.uint16
    owner = jnp.zeros(largest.shape, places)
    for place, tap in enumerate(others, 1):
        larger = (tap > largest) | jnp.isnan(tap)
        largest, owner = jnp.where(larger, tap, largest), jnp.where(larger, places(place), owner)
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
            takes &= shifted(owner, i, j, size * size) == (row * size + column).astype(owner.dtype)
        total += jnp.where(takes, shifted(gradient, i, j, 0), 0)
    whole = total.reshape(len(gradient), blocks[0] * stride, blocks[1] * stride, shape[3])
    beyond = [have - size for have, size in zip(shape[1:3], whole.shape[1:3])]
    return lax.pad(whole, jnp.zeros((), whole.dtype), [(0, 0, 0), (0, beyond[0], 0), (0, beyond[1], 0), (0, 0, 0)])
