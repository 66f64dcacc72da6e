"""Error over every example of a split, exactly once, as integer counts."""
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lib import mesh as meshes
from lib.data import augment, batches
from lib.data.sources import Split
from lib.experiment import Data, Evaluation


class Errors(NamedTuple):
    """What a network got wrong on `seen` examples."""
    top1: int       # examples whose label is not the most likely class
    top5: int       # examples whose label is not among the five most likely classes
    seen: int
    loss: float     # mean over the examples of -log of the label's probability

    def percent(self, count: int) -> float:
        return 100 * count / self.seen


def evaluate(predict: Callable, params, split: Split, statistics, data: Data, evaluation: Evaluation, crops: str, mesh,
             *, each: Callable[[int], None] = lambda seen: None) -> Errors:
    """Counts the errors of `predict(params, images)`, which gives probabilities [n, classes].

    `crops` is 'centre' (one central crop) or 'ten' (AlexNet section 4.1: four corners, the centre and their
    reflections, the softmax averaged). `each` is called with the number of examples seen after every batch.
    """
    top1 = top5 = seen = 0
    loss = 0.0
    for batch in batches.evaluation(split, evaluation.batch_size, evaluation.examples):
        images, labels, mask = (jax.device_put(array, meshes.images(mesh)) for array in batch)
        counts = jax.device_get(_count(predict, data, crops, params, images, labels, mask, statistics))
        top1, top5, seen = top1 + int(counts[0]), top5 + int(counts[1]), seen + int(counts[2])
        loss += float(counts[3])
        each(seen)
    expected = len(split) if evaluation.examples is None else min(evaluation.examples, len(split))
    assert seen == expected, f'evaluated {seen} examples of {expected}'
    return Errors(top1, top5, seen, loss / seen)


@functools.partial(jax.jit, static_argnames=('predict', 'data', 'crops'))
def _count(predict, data, crops, params, images, labels, mask, statistics):
    if crops == 'ten':
        probabilities = jax.lax.map(lambda crop: predict(params, crop), augment.ten(images, statistics, data)).mean(0)
    else:
        probabilities = predict(params, augment.centre(images, statistics, data))
    own = jnp.take_along_axis(probabilities, labels[:, None], 1)
    places = rank(probabilities, labels)
    return ((mask & (places >= 1)).sum(), (mask & (places >= 5)).sum(), mask.sum(),
            -jnp.where(mask, jnp.log(own[:, 0]), 0).sum())


def rank(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """The number of classes placed before the label, [n] from scores [n, classes]. Of equal scores the first class
    leads, so a constant network is no better than chance; a label whose score is not a number comes last."""
    own = jnp.take_along_axis(scores, labels[:, None], 1)
    before = (scores > own) | ((scores == own) & (jnp.arange(scores.shape[1]) < labels[:, None]))
    return jnp.where(jnp.isfinite(own[:, 0]), before.sum(1), scores.shape[1])
