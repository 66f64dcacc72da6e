"""Crops, reflections and colour noise: from stored uint8 images to what the network sees.

Pure functions for the inside of a jitted step; `data` is static. Stored images and the mean image are [height, width],
the result is `data.image_size` square: S below. Every pixel has the mean of its own place subtracted, and is divided by
`data.pixel_scale` at the end.
"""
import jax
import jax.numpy as jnp

from lib.data import affine
from lib.data.statistics import Statistics
from lib.experiment import Data, UsageError


def train(key: jax.Array, images: jax.Array, statistics: Statistics, data: Data) -> jax.Array:
    """uint8 [n, height, width, 3] -> float32 [n, S, S, 3], each image changed by its own draw.

    `data.affine`: deformed, see lib/data/affine.py. `data.crop` 'random': a square at a place drawn from all there are
    (33 x 33 for 224 of 256; the AlexNet paper counts 32 x 32), otherwise the central one. `data.reflect`: mirrored with
    probability 1/2. `data.color_noise`: see below.

    Raises:
      UsageError: if the stored images are smaller than `data.image_size`.
    """
    crop_key, mirror_key, color_key = jax.random.split(key, 3)
    affine_key = jax.random.fold_in(key, 3)
    mean = statistics.mean
    if data.affine:
        images, mean = affine.deform(affine_key, images.astype(jnp.float32) - mean, data.affine), jnp.zeros_like(mean)
    spare = _spare(images, data)
    if data.crop == 'random':
        corners = jax.random.randint(crop_key, (len(images), 2), 0, jnp.array(spare) + 1)
    else:
        corners = jnp.tile(jnp.array(_centre(spare)), (len(images), 1))
    crops = _crop(images, mean, corners, data)
    if data.reflect:
        mirrored = jax.random.bernoulli(mirror_key, shape=(len(images), 1, 1, 1))
        crops = jnp.where(mirrored, crops[:, :, ::-1], crops)
    if data.color_noise:
        crops += color_noise(color_key, len(images), statistics, data)[:, None, None, :]
    return crops / data.pixel_scale


def color_noise(key: jax.Array, n: int, statistics: Statistics, data: Data) -> jax.Array:
    """float32 [n, 3] in pixel units, to be added to every pixel of an image (AlexNet paper, section 4.1).

    [p1 p2 p3] [a1 l1, a2 l2, a3 l3], where p are the eigenvectors and a ~ N(0, `data.color_noise`). For l the paper
    names the eigenvalues ('eigenvalue'), which would move 0 to 255 pixels by hundreds; cuda-convnet2 used their square
    roots, the standard deviations of the colours ('deviation').
    """
    alpha = data.color_noise * jax.random.normal(key, (n, 3))
    scale = {'deviation': jnp.sqrt, 'eigenvalue': jnp.asarray}[data.color_noise_scale](statistics.eigenvalues)
    return (alpha * scale) @ jnp.asarray(statistics.eigenvectors).T


def centre(images: jax.Array, statistics: Statistics, data: Data) -> jax.Array:
    """uint8 [n, height, width, 3] -> float32 [n, S, S, 3], the central crop; half a pixel up and left where the spare
    pixels are odd. Raises UsageError as `train` does."""
    corners = jnp.tile(jnp.array(_centre(_spare(images, data))), (len(images), 1))
    return _crop(images, statistics.mean, corners, data) / data.pixel_scale


def ten(images: jax.Array, statistics: Statistics, data: Data) -> jax.Array:
    """uint8 [n, height, width, 3] -> float32 [10, n, S, S, 3] (AlexNet paper, section 4.1): top left, top right, bottom
    left, bottom right and central crop, then their reflections in the same order. Raises UsageError as `train` does."""
    down, right = spare = _spare(images, data)
    corners = jnp.array([(0, 0), (0, right), (down, 0), (down, right), _centre(spare)])
    crops = jax.vmap(lambda corner: _crop(images, statistics.mean, jnp.tile(corner, (len(images), 1)), data))(corners)
    return jnp.concatenate([crops, crops[:, :, :, ::-1]]) / data.pixel_scale


def _spare(images: jax.Array, data: Data) -> tuple[int, int]:
    """Pixels that a crop leaves over, down and right."""
    _, height, width, _ = images.shape
    if not 1 <= data.image_size <= min(height, width):
        raise UsageError(f'data.image_size={data.image_size} cannot be cut from stored images of {height}x{width} '
                         f'pixels: set data.image_size to at most {min(height, width)}, or a larger data.resize.')
    return height - data.image_size, width - data.image_size


def _centre(spare: tuple[int, int]) -> tuple[int, int]:
    return spare[0] // 2, spare[1] // 2


def _crop(images: jax.Array, mean: jax.Array, corners: jax.Array, data: Data) -> jax.Array:
    """float32 [n, S, S, 3]: from each image the square below and right of its corner, less the mean of those pixels."""
    size = (data.image_size, data.image_size, 3)

    def cut(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), size)

    means = jax.vmap(cut, (None, 0))(jnp.asarray(mean), corners)
    return jax.vmap(cut)(images, corners).astype(jnp.float32) - means
