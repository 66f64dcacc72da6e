"""Changes of images that raise a network's loss: the fast gradient sign, iterated, and box-constrained L-BFGS.

The loss is the cross-entropy of the softmax of the last layer's outputs, whatever the network was trained with. Images
are pixels [n, S, S, 3], 0 to 255, of the central crop, and so are the sizes of changes; an epsilon that a user gives is
a part of that range, as in Goodfellow et al. (2014).
"""
import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np
import optax
from scipy import optimize
from threadpoolctl import threadpool_limits

from lib.data import augment
from lib.layers import at_least_float32
from lib.visualize import free
from lib.visualize.request import Request

RANGE = 255         # pixels
Kind = Literal['fgsm', 'iterative']


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _losses(activations, last, data, params, statistics, pixels, change, classes):
    """Each image's loss [n], and its gradient in `change` [n, S, S, 1 or 3], which is added to the pixels."""
    def total(change):
        logits = activations(params, augment.centre(pixels + change, statistics, data))[last]
        losses = optax.softmax_cross_entropy_with_integer_labels(at_least_float32(logits), classes)
        return losses.sum(), losses

    gradients, losses = jax.grad(total, has_aux=True)(change)
    return losses, gradients


def losses(request: Request, pixels: np.ndarray, change: np.ndarray, classes: np.ndarray) -> \
        tuple[jax.Array, jax.Array]:
    """Each image's loss [n] with a change [n, S, S, 1 or 3] added, and the gradient in that change."""
    return _losses(request.network.task.activations, request.layers[-1], request.data, request.params, request.cropped,
                   pixels, change, classes)


def as_image(pixels: np.ndarray, eight_bits: bool = True) -> np.ndarray:
    """float32 [n, S, S, 3]: pixels as an image file can hold them, clipped to 0 to 255 and rounded, or as they are."""
    pixels = np.asarray(pixels, np.float32)
    return np.clip(np.rint(pixels), 0, RANGE) if eight_bits else pixels


def attack(request: Request, kind: Kind, pixels: np.ndarray, classes: np.ndarray, epsilons: Sequence[float],
           towards: bool = False, step: float = 1 / RANGE, eight_bits: bool = True) -> list[np.ndarray]:
    """float32 [n, S, S, 3] for every epsilon, none of whose pixels differs by more than that from the image's,
    but for the rounding to 8 bits.

    'fgsm': epsilon times the sign of the gradient (Goodfellow et al. 2014, section 4). 'iterative': steps of such
    signs, each brought back into the epsilon and the range of pixels (Kurakin et al. 2016); so many of them that
    they walk min(epsilon + 4, 1.25 epsilon) levels of 255, which is their number of steps from memory.

    Args:
      classes: [n], whose loss is raised or, `towards` them, lowered.
      epsilons: parts of the range of pixels, and so is `step`.
      eight_bits: the results are clipped to 0 to 255 and rounded, which Goodfellow et al. do not do.
    """
    pixels, inside = np.asarray(pixels, np.float32), free.inside(request)
    grey = free.channels(request, pixels)
    sign = -1 if towards else 1

    def direction(change):
        return sign * inside * np.sign(losses(request, pixels, change, classes)[1])

    still = np.zeros((*pixels.shape[:3], grey), np.float32)
    if kind == 'fgsm':
        first = direction(still)
        return [as_image(pixels + epsilon * RANGE * first, eight_bits) for epsilon in epsilons]
    found = []
    for epsilon in epsilons:
        level, change = epsilon * RANGE, still
        dark, bright = room(pixels, grey)
        low, high = np.maximum(-level, -dark), np.minimum(level, bright)
        for _ in range(iterations(epsilon, step)):
            change = np.clip(change + step * RANGE * direction(change), low, high)
        found.append(as_image(pixels + change, eight_bits))
    return found


def room(pixels: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """How far each value of pixels [..., 3] is from 0 and from 255; of a change that all three share, the least."""
    if channels == 3:
        return pixels, RANGE - pixels
    return pixels.min(-1, keepdims=True), RANGE - pixels.max(-1, keepdims=True)


def iterations(epsilon: float, step: float) -> int:
    level = epsilon * RANGE
    return max(1, int(np.ceil(min(level + 4, 1.25 * level) / (step * RANGE))))


def noise(request: Request, pixels: np.ndarray, epsilon: float, seed: int | Sequence[int],
          eight_bits: bool = True) -> np.ndarray:
    """What `attack` gives, with random signs, which say what a change of that size does without the gradient."""
    shape = (*pixels.shape[:3], free.channels(request, pixels))
    signs = np.random.default_rng(seed).integers(0, 2, shape) * 2 - 1
    return as_image(pixels + epsilon * RANGE * signs * free.inside(request), eight_bits)


class Minimum(NamedTuple):
    """What L-BFGS found for one image."""
    pixels: np.ndarray          # float32 [S, S, 3], whole numbers
    c: float | None             # the weight of the distortion with which the class is reached; None if it is not


def lbfgs(request: Request, image: np.ndarray, target: int, searches: int, iterations: int) -> Minimum:
    """The smallest change found that makes the network see the class `target` in an image [S, S, 3] after rounding to 8
    bits (Szegedy et al. 2013, section 4.1): r minimises c |r|^2 + loss(x + r, target), in parts of the range, where
    x + r is kept in it.

    The paper has c |r|, which is not smooth at 0. It looks for the c by line search without saying where; here it
    starts at 1, goes by tens until there is one with which the class is reached and one with which it is not, and then
    halves the distance of their logarithms. Every minimisation starts from the image itself.
    """
    pixels = np.asarray(image, np.float32)[None]
    shape, inside = (1, *pixels.shape[1:3], free.channels(request, pixels)), free.inside(request)
    dark, bright = room(pixels, shape[-1])
    low, high = -dark * inside, bright * inside
    box = optimize.Bounds(*(np.broadcast_to(bound, shape).ravel() / RANGE for bound in (low, high)))
    repeats = 3 // shape[-1]            # a grey change is made in three channels

    def objective(flat, c):
        change = (RANGE * flat).reshape(shape).astype(np.float32)
        loss, gradient = losses(request, pixels, change, np.array([target]))
        return c * repeats * flat @ flat + float(loss[0]), \
            2 * c * repeats * flat + RANGE * np.asarray(gradient, np.float64).ravel()

    reached, missed, best, c = None, None, pixels, 1.0
    for _ in range(searches):
        with threadpool_limits(1):      # SciPy's threads and JAX's wait for each other: measured ten times slower
            found = optimize.minimize(objective, np.zeros(np.prod(shape)), (c,), 'L-BFGS-B', jac=True, bounds=box,
                                      options={'maxiter': iterations})
        candidate = np.rint(pixels + (RANGE * found.x).reshape(shape).astype(np.float32))
        if int(np.argmax(request.predict(candidate))) == target:
            if reached is None or distortion(pixels, candidate) <= distortion(pixels, best):
                best = candidate
            reached = c
        else:
            best, missed = candidate if reached is None else best, c
        c = c * 10 if missed is None else c / 10 if reached is None else (reached * missed) ** 0.5
    return Minimum(best[0], reached)


def distortion(before: np.ndarray, after: np.ndarray, inside: np.ndarray | bool = True) -> np.ndarray:
    """sqrt(sum (x' - x)^2 / n) of each image, the range of pixels taken as 1 (Szegedy et al. 2013, section 4.2), over
    the pixels `inside`, [S, S, 1]."""
    squares = np.square((np.asarray(after, np.float64) - before) / RANGE)
    return np.sqrt(squares.mean((1, 2, 3), where=np.broadcast_to(inside, squares.shape)))
