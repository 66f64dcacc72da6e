"""Planar affine deformations of images."""
import jax
import jax.numpy as jnp


def deform(key: jax.Array, images: jax.Array, limits: tuple[float, float, float, float]) -> jax.Array:
    """float32 [n, side, side, c] -> the same, each image deformed about its centre by a draw of its own.

    The deformations of LeNet-5's training ("translations, scaling, squeezing, horizontal shearing", section III.A of
    that paper, which does not say how great). `limits` are the greatest translation in pixels, change of scale, squeeze
    and shear; each is drawn uniformly between plus and minus that, the translation for both directions. A scale of 0.1
    enlarges by 1.1, a squeeze of 0.1 makes it 1.1 times as high and as narrow, a shear of 0.1 moves a row by a tenth of
    its distance from the centre. Pixels are interpolated bilinearly; what comes from outside is the nearest edge pixel.
    """
    translation, scale, squeeze, shear = limits
    greatest = jnp.array([translation, translation, scale, squeeze, shear])
    draws = jax.random.uniform(key, (len(images), 5), minval=-1, maxval=1) * greatest
    return jax.vmap(_deform)(images, draws)


def _deform(image: jax.Array, draw: jax.Array) -> jax.Array:
    """The image, deformed by (translation down, translation to the right, scale, squeeze, shear)."""
    down, right, scale, squeeze, shear = draw
    last = image.shape[0] - 1
    offsets = jnp.arange(last + 1) - last / 2
    # Each pixel of the result looks for the place it came from: its row depends on its row only, so that whole rows are
    # interpolated first.
    y = (offsets - down) / ((1 + scale) * (1 + squeeze))
    x = (offsets - right - shear * y[:, None]) * (1 + squeeze) / (1 + scale)
    top, below = _between(y + last / 2, last)
    left, beyond = _between(x + last / 2, last)
    rows = image[top] * (1 - below)[:, None, None] + image[top + 1] * below[:, None, None]
    row = jnp.arange(last + 1)[:, None]
    return rows[row, left] * (1 - beyond)[..., None] + rows[row, left + 1] * beyond[..., None]


def _between(place: jax.Array, last: int) -> tuple[jax.Array, jax.Array]:
    """The pixel before a place within [0, last], and how far the place is beyond it, 0 to 1."""
    place = jnp.clip(place, 0, last)
    before = jnp.minimum(place.astype(jnp.int32), last - 1)
    return before, place - before
