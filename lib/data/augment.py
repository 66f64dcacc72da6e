"""From stored uint8 images to what the network sees: their mean or contrast, deformations, crops, reflections, colours.

Pure functions for the inside of a jitted step; `data` is static. Stored images and the mean image are [height, width],
the result is `data.image_size` square: S below. Every pixel has the mean of its own place subtracted, and is divided by
`data.pixel_scale` at the end.
"""
import jax
import jax.numpy as jnp

from lib.data import affine, contrast, crops
from lib.data.statistics import Statistics
from lib.experiment import Data, require

LUMA = (0.299, 0.587, 0.114)    # of R, G and B in grey (ITU-R 601)


def train(key: jax.Array, images: jax.Array, statistics: Statistics, data: Data) -> jax.Array:
    """uint8 [n, height, width, 3] -> float32 [n, S, S, 3], each image changed by its own draw.

    `data.color_jitter`: see below. `data.affine`: deformed, see lib/data/affine.py. `data.crop` 'random': a square at a
    place drawn from all there are (33 x 33 for 224 of 256; the AlexNet paper counts 32 x 32); 'corners': at a corner or
    the centre, five places (with reflection the ten sub-crops of the ZFNet paper, section 3); 'scaled' and 'area':
    resampled, see crops.boxes; otherwise the central one. `data.reflect`: mirrored with probability 1/2.
    `data.color_noise`: see below.

    Raises:
      UsageError: if the stored images are smaller than `data.image_size`.
    """
    crop_key, mirror_key, color_key = jax.random.split(key, 3)
    affine_key, jitter_key = (jax.random.fold_in(key, number) for number in (3, 4))     # 0 to 2 would repeat the others
    resampled = data.crop in ('scaled', 'area')
    whole = data.contrast != 'none' or data.whiten or data.affine or data.padding or resampled
    if data.color_jitter:
        images = color_jitter(jitter_key, images, data.color_jitter)
    if whole:
        images = centred(images, statistics, data)
    if data.affine:
        images = affine.deform(affine_key, images, data.affine)
    if data.padding:
        images = jnp.pad(images, ((0, 0), (data.padding, data.padding), (data.padding, data.padding), (0, 0)))
    if resampled:
        found = crops.resample(images, *crops.boxes(crop_key, images, data), data.image_size)
    else:
        corners = crops.places(crop_key, images, data)
        found = crops.cut(images, corners, data.image_size)
        if not whole:       # the mean is subtracted from pixels that are used, and from no others
            mean = crops.cut(jnp.asarray(statistics.mean), corners, data.image_size)
            found = found.astype(jnp.float32) - mean
    if data.reflect:
        mirrored = jax.random.bernoulli(mirror_key, shape=(len(images), 1, 1, 1))
        found = jnp.where(mirrored, found[:, :, ::-1], found)
    if data.color_noise:
        found += color_noise(color_key, len(images), statistics, data)[:, None, None, :]
    return found / data.pixel_scale


def centred(images: jax.Array, statistics: Statistics, data: Data) -> jax.Array:
    """[n, height, width, 3] in pixel units -> float32: with their contrast normalised, less the mean, whitened.

    Raises:
      UsageError: if they have to be whitened, and the statistics, being those of weights of others, cannot.
    """
    found = contrast.normalize(images, data.contrast) - statistics.mean
    if data.whiten:
        require(statistics.whitening.size > 0, 'This network reads whitened images, and its file does not hold what '
                                               'whitens them: train it here, and name its --workdir.')
        flat = found.reshape(len(found), -1)
        found = jnp.matmul(flat, statistics.whitening, precision='highest').reshape(found.shape)
    return found


def color_noise(key: jax.Array, n: int, statistics: Statistics, data: Data) -> jax.Array:
    """float32 [n, 3] in pixel units, to be added to every pixel of an image (AlexNet paper, section 4.1).

    [p1 p2 p3] [a1 l1, a2 l2, a3 l3], where p are the eigenvectors and a ~ N(0, `data.color_noise`). For l the paper
    names the eigenvalues ('eigenvalue'), which would move 0 to 255 pixels by hundreds; cuda-convnet2 used their square
    roots, the standard deviations of the colours ('deviation').
    """
    alpha = data.color_noise * jax.random.normal(key, (n, 3))
    scale = {'deviation': jnp.sqrt, 'eigenvalue': jnp.asarray}[data.color_noise_scale](statistics.eigenvalues)
    return (alpha * scale) @ jnp.asarray(statistics.eigenvectors).T


def color_jitter(key: jax.Array, images: jax.Array, greatest: float) -> jax.Array:
    """[n, height, width, 3] of 0 to 255 -> float32 of 0 to 255, each image with another brightness, contrast and
    saturation (Howard 2013, "Some improvements", which GoogLeNet cites; neither says how great the changes are).

    In this order, always: pixels are multiplied by a factor; their distance from the image's mean grey is; and their
    distance from their own grey is. Each factor is drawn uniformly from 1 - `greatest` to 1 + `greatest`.
    """
    draws = jax.random.uniform(key, (3, len(images), 1, 1, 1), minval=1 - greatest, maxval=1 + greatest)
    brightness, distance, saturation = draws

    def grey(pixels: jax.Array) -> jax.Array:
        return (pixels * jnp.array(LUMA)).sum(3, keepdims=True)

    images = brightness * images
    mean = grey(images).mean((1, 2), keepdims=True)
    images = mean + distance * (images - mean)
    return jnp.clip(grey(images) + saturation * (images - grey(images)), 0, 255)


def centre(images: jax.Array, statistics: Statistics, data: Data) -> jax.Array:
    """Pixels [n, height, width, 3], 0 to 255 -> float32 [n, S, S, 3], the central crop; half a pixel up and left
    where the spare pixels are odd. Raises UsageError as `train` does."""
    top, left = crops.centre(crops.spare(images, data.image_size))
    found = centred(images, statistics, data)[:, top:top + data.image_size, left:left + data.image_size]
    return found / data.pixel_scale
