"""Error over every example of a split, exactly once, as integer counts."""
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lib import mesh as meshes
from lib.data import augment, batches, crops
from lib.data.sources import Split
from lib.experiment import Crops, Data, Evaluation, require
from lib.task import Params, Task


class Errors(NamedTuple):
    """What a network got wrong on `seen` examples."""
    top1: int       # examples whose label is not the most likely class
    top5: int       # examples whose label is not among the five most likely classes
    seen: int
    loss: float     # mean over the examples of -log of the label's probability

    def percent(self, count: int) -> float:
        return 100 * count / self.seen

    def record(self) -> dict[str, float]:
        """As results.json has it: errors in %."""
        return {'top1': self.percent(self.top1), 'top5': self.percent(self.top5), 'seen': self.seen, 'loss': self.loss}


def evaluate(task: Task, params: Params, split: Split, statistics, data: Data, evaluation: Evaluation, mesh,
             *, each: Callable[[int], None] = lambda seen: None) -> Errors:
    """Counts the errors of a network. `each` is called with the number of examples seen after every batch.

    Raises:
      UsageError: as `require_possible` does.
    """
    found = probabilities(task, params, split, statistics, data, evaluation, mesh)
    return count(found, expected(split, evaluation), each)


def probabilities(task: Task, params: Params, split: Split, statistics, data: Data, evaluation: Evaluation,
                  mesh) -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
    """(probabilities [b, classes], labels [b], mask [b]) in batches over the examples of the split, each once and in
    order; where the mask is False an example only fills a batch up. Arguments and errors as in `evaluate`."""
    require_possible(task, data, evaluation)
    return _batches(task, params, split, statistics, data, evaluation, mesh)


def require_possible(task: Task, data: Data, evaluation: Evaluation) -> None:
    """Raises UsageError if `evaluation.crops` is dense and the network cannot read images of any size, or if
    `evaluation.scales` has a side from which no crop can be cut."""
    require('dense' not in evaluation.crops or task.dense is not None,
            f'evaluation.crops={evaluation.crops} is for networks that read images of any size, and this one does not: '
            'set it to centre, ten, twelve or fifty.')
    smallest = min(evaluation.scales, default=data.image_size)
    require(smallest >= data.image_size, f'evaluation.scales={list(evaluation.scales)} has a side below '
                                         f'data.image_size={data.image_size}: set sides of at least that.')


def _batches(task, params, split, statistics, data, evaluation, mesh):
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


@functools.partial(jax.jit, static_argnames=('task', 'data', 'kind', 'scales'))
def _probabilities(task, data, kind, scales, params, images, statistics):
    """The mean of the probabilities of all views; means are subtracted before an image is resized, each at its place.
    Stored images are resized as crops in training are."""
    images = augment.centred(images, statistics, data) / data.pixel_scale
    resized = [crops.resize(images, side) for side in scales] or [images]
    return sum(_at_one_scale(task, kind, data.image_size, params, images) for images in resized) / len(resized)


def _at_one_scale(task: Task, kind: Crops, size: int, params: Params, images: jax.Array) -> jax.Array:
    if kind == 'dense_and_fifty':
        return sum(_at_one_scale(task, one, size, params, images) for one in ('dense', 'fifty')) / 2
    if kind == 'dense':
        return jax.lax.map(lambda mirrored: task.dense(params, jnp.where(mirrored, images[:, :, ::-1], images)),
                           jnp.array([False, True])).mean(0)
    images, corners, mirrored = crops.views(images, kind, size)
    if len(corners) == 1:
        return task.predict(params, crops.view(images, corners[0], mirrored[0], size))
    return jax.lax.map(lambda view: task.predict(params, crops.view(images, *view, size)), (corners, mirrored)).mean(0)


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
