"""Contrast normalisation: an image's own mean and spread are taken out of it."""
import jax
import jax.numpy as jnp

NORM = 55.0         # of an image after global normalisation
WINDOW = 7          # pixels a side of the window of local normalisation, a Gaussian
DEVIATION = 2.0     # of that, in pixels
LEAST = 1e-4        # local spread that counts as such


def normalize(images: jax.Array, kind: str) -> jax.Array:
    """[n, height, width, c] -> float32, each image by itself; `kind` is that of `data.contrast`."""
    return {'none': jnp.asarray, 'global': _global, 'local': _local}[kind](jnp.asarray(images, jnp.float32))


def _global(images: jax.Array) -> jax.Array:
    """The mean over all pixels and channels is subtracted, and the norm made 55: what pylearn2's
    global_contrast_normalize does with scale=55 (the preprocessing of Maxout Networks, Goodfellow et al. 2013, section
    5.2, which Network in Network follows). An image without contrast becomes zeros."""
    images -= images.mean((1, 2, 3), keepdims=True)
    norms = jnp.sqrt(jnp.square(images).sum((1, 2, 3), keepdims=True)) / NORM
    return images / jnp.where(norms < 1e-8, 1, norms)


def _local(images: jax.Array) -> jax.Array:
    """v = x - (w * x), then v / max(s, mean of s over the image) with s = sqrt(w * v^2), where w is a Gaussian window
    of weight 1 (Jarrett et al. 2009).

    The papers that normalise SVHN so (Zeiler and Fergus 2013, Goodfellow et al. 2013, section 5.4) give no window: 7x7
    pixels with a standard deviation of 2, and each channel by itself, are pylearn2's. At the edges the weights of the
    pixels that there are sum to 1.
    """
    centred = images - _blur(images)
    spread = jnp.sqrt(_blur(jnp.square(centred)))
    return centred / jnp.maximum(jnp.maximum(spread, spread.mean((1, 2), keepdims=True)), LEAST)


def _blur(images: jax.Array) -> jax.Array:
    rows, columns = (_window(side) for side in images.shape[1:3])
    return jnp.einsum('ij,kl,njlc->nikc', rows, columns, images, precision='highest')


def _window(side: int) -> jax.Array:
    """[side, side]: the weight of each place in the mean at each place."""
    distance = jnp.arange(side)[:, None] - jnp.arange(side)
    weights = jnp.where(jnp.abs(distance) <= WINDOW // 2, jnp.exp(-distance**2 / (2 * DEVIATION**2)), 0)
    return weights / weights.sum(1, keepdims=True)
