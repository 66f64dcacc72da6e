"""Squares that are cut from images: one of each in training, at random; several in a test, at fixed places."""
import jax
import jax.numpy as jnp
import numpy as np

from lib.experiment import Data, UsageError, require

AREAS = (0.08, 1.0)         # of the stored image: the crops of data.crop='area'
ASPECT = 4 / 3              # and the greatest ratio of their sides


def spare(images: jax.Array, size: int) -> tuple[int, int]:
    """Pixels that a crop of `size` pixels leaves over, down and right.

    Raises:
      UsageError: if the images are smaller.
    """
    _, height, width, _ = images.shape
    if not 1 <= size <= min(height, width):
        raise UsageError(f'data.image_size={size} cannot be cut from stored images of {height}x{width} '
                         f'pixels: set data.image_size to at most {min(height, width)}, or a larger data.resize.')
    return height - size, width - size


def centre(spare: tuple[int, int]) -> tuple[int, int]:
    """The corner of the central crop: half a pixel up and left where the spare pixels are odd."""
    return spare[0] // 2, spare[1] // 2


def five(spare: tuple[int, int]) -> list[tuple[int, int]]:
    """Corners: top left, top right, bottom left, bottom right and central crop."""
    down, right = spare
    return [(0, 0), (0, right), (down, 0), (down, right), centre(spare)]


def places(key: jax.Array, images: jax.Array, data: Data) -> jax.Array:
    """int32 [n, 2]: the upper left corners of the training crops, with `data.crop` 'centre', 'random' or 'corners'."""
    left_over = spare(images, data.image_size)
    if data.crop == 'random':
        return jax.random.randint(key, (len(images), 2), 0, jnp.array(left_over) + 1)
    if data.crop == 'corners':
        return jnp.array(five(left_over))[jax.random.randint(key, (len(images),), 0, 5)]
    return jnp.tile(jnp.array(centre(left_over)), (len(images), 1))


def cut(images: jax.Array, corners: jax.Array, size: int) -> jax.Array:
    """[n, size, size, 3]: of each image the square below and right of its corner; one image [h, w, 3] serves all."""
    def one(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (size, size, 3))

    return jax.vmap(one, (0 if images.ndim == 4 else None, 0))(images, corners)


def boxes(key: jax.Array, images: jax.Array, data: Data) -> tuple[jax.Array, jax.Array]:
    """float32 [n, 2] and [n, 2]: the upper left corners and the heights and widths, in pixels and parts of them, of
    training crops that are then resampled, with `data.crop` 'scaled' or 'area'. Images are squares.

    'scaled': the image is resized to a side drawn from the whole numbers in `data.crop_scales`, and a square of
    `data.image_size` cut from it (scale jitter, section 3.1 of the VGG paper).
    'area': 8 % to 100 % of the image, every area as likely (section 6 of the GoogLeNet paper). The ratio of width to
    height is between 3/4 and 4/3; the paper does not say how it is drawn: its logarithm uniformly, so that wide and
    high are alike, among those ratios with which this area fits into the image.

    Raises:
      UsageError: if an image so resized were smaller than the crop.
    """
    side = images.shape[1]
    shape_key, place_key = jax.random.split(key)
    if data.crop == 'scaled':
        least, greatest = data.crop_scales
        require(least >= data.image_size, f'data.crop_scales={list(data.crop_scales)} begins below data.image_size='
                                          f'{data.image_size}: set it to at least that.')
        scales = jax.random.randint(shape_key, (len(images), 1), least, greatest + 1)
        shapes = jnp.tile(side * data.image_size / scales, 2)
    else:
        area_key, ratio_key = jax.random.split(shape_key)
        areas = jax.random.uniform(area_key, (len(images),), minval=AREAS[0], maxval=AREAS[1])
        limits = jnp.minimum(jnp.log(ASPECT), -jnp.log(areas))
        ratios = jnp.exp(limits * jax.random.uniform(ratio_key, (len(images),), minval=-1, maxval=1))
        shapes = side * jnp.stack([jnp.sqrt(areas / ratios), jnp.sqrt(areas * ratios)], 1)
    return jax.random.uniform(place_key, (len(images), 2)) * (side - shapes), shapes


def resample(images: jax.Array, corners: jax.Array, shapes: jax.Array, size: int) -> jax.Array:
    """[n, size, size, 3] from float32 [n, h, w, 3]: of each image its own box, as `boxes` gives them, interpolated
    bilinearly, over as many pixels as one of the result covers."""
    def one(image: jax.Array, corner: jax.Array, shape: jax.Array) -> jax.Array:
        scale = size / shape
        return jax.image.scale_and_translate(image, (size, size, 3), (0, 1), scale, -corner * scale, 'linear')

    return jax.vmap(one)(images, corners, shapes)


def resize(images: jax.Array, side: int) -> jax.Array:
    """[n, side, side, 3] from float32 [n, h, w, 3], interpolated as in `resample`."""
    return jax.image.resize(images, (len(images), side, side, 3), 'linear')


def views(images: jax.Array, kind: str, size: int) -> tuple[jax.Array, np.ndarray, np.ndarray]:
    """What a test looks at: images [n, h, w', 3], and for each of k views its corner, int [k, 2], and whether it is
    mirrored, bool [k]. `view` cuts them, one at a time, since together they are large.

    'centre': one. 'ten': the four corners and the centre, then their reflections in the same order (section 4.1 of the
    AlexNet paper). 'twelve': the whole image made as small as a crop besides (GoogLeNet paper, section 7). It takes
    three squares of an image, left, central and right; stored images are their central squares, so that its 144 crops
    are 48 here, these twelve at four scales. 'fifty': 5x5 places at equal distances, and reflections (the VGG paper,
    section 3.2).

    Raises:
      UsageError: if the images are smaller than `size`.
    """
    left_over = spare(images, size)
    if kind == 'centre':
        return images, np.array([centre(left_over)]), np.array([False])
    if kind == 'fifty':
        down, right = (np.rint(np.linspace(0, pixels, 5)).astype(int) for pixels in left_over)
        corners = [(top, left) for top in down for left in right]
    else:
        corners = five(left_over)
    if kind == 'twelve':        # the small image lies to the right of the large one
        corners.append((0, images.shape[2]))
        below = ((0, 0), (0, left_over[0]), (0, 0), (0, 0))
        images = jnp.concatenate([images, jnp.pad(resize(images, size), below)], 2)
    return images, np.array(corners * 2), np.repeat([False, True], len(corners))


def view(images: jax.Array, corner: jax.Array, mirrored: jax.Array, size: int) -> jax.Array:
    """[n, size, size, 3]: one of `views`."""
    found = jax.lax.dynamic_slice(images, (0, corner[0], corner[1], 0), (len(images), size, size, 3))
    return jnp.where(mirrored, found[:, :, ::-1], found)
