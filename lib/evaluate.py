"""Error over every example of a split, exactly once, as integer counts."""
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lib import mesh as meshes
from lib.data import augment, batches
from lib.data.sources import Split
from lib.experiment import Data, Evaluation
from lib.task import Params, Task


class Errors(NamedTuple):
    """What a network got wrong on `seen` examples."""
    top1: int       # examples whose label is not the most likely class
    top5: int       # examples whose label is not among the five most likely classes
    seen: int
    loss: float     # mean over the examples of -log of the label's probability

    def percent(self, count: int) -> float:
        return 100 * count / self.seen


def evaluate(task: Task, params: Params, split: Split, statistics, data: Data, evaluation: Evaluation, mesh,
             *, each: Callable[[int], None] = lambda seen: None) -> Errors:
    """Counts the errors of a network. `each` is called with the number of examples seen after every batch.

    Raises:
      UsageError: if `evaluation.crops` is dense and the network cannot read images of any size.
    """
    found = probabilities(task, params, split, statistics, data, evaluation, mesh)
    return count(found, expected(split, evaluation), each)


def probabilities(task: Task, params: Params, split: Split, statistics, data: Data, evaluation: Evaluation,
                  mesh) -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
    """(probabilities [b, classes], labels [b], mask [b]) in batches over the examples of the split, each once and in
    order; where the mask is False an example only fills a batch up. Arguments as in `evaluate`."""
    for batch in batches.evaluation(split, evaluation.batch_size, evaluation.examples):
        images, labels, mask = (jax.device_put(array, meshes.images(mesh)) for array in batch)
        yield _probabilities(task, data, evaluation.crops, evaluation.scales, params, images, statistics), labels, mask


def count(found: Iterable[tuple[jax.Array, jax.Array, jax.Array]], examples: int,
          each: Callable[[int], None] = lambda seen: None) -> Errors:
    """The errors in batches of `probabilities`, which have to hold so many examples."""
    top1 = top5 = seen = 0
    loss = 0.0
    for batch in found:
        counts = jax.device_get(_count(*batch))
        top1, top5, seen = top1 + int(counts[0]), top5 + int(counts[1]), seen + int(counts[2])
        loss += float(counts[3])
        each(seen)
    assert seen == examples, f'evaluated {seen} examples of {examples}'
    return Errors(top1, top5, seen, loss / seen)


def expected(split: Split, evaluation: Evaluation) -> int:
    """The number of examples that an evaluation has to see."""
    return len(split) if evaluation.examples is None else min(evaluation.examples, len(split))


@functools.partial(jax.jit, static_argnames=('task', 'data', 'crops', 'scales'))
def _probabilities(task, data, crops, scales, params, images, statistics):
    if crops == 'ten':
        return jax.lax.map(lambda crop: task.predict(params, crop), augment.ten(images, statistics, data)).mean(0)
    return task.predict(params, augment.centre(images, statistics, data))


@jax.jit
def _count(probabilities, labels, mask):
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
