"""Which examples make up a batch. Batch k depends on the seed and k alone, so a run resumes by starting at its step."""
import collections
import functools
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lib.data.sources import Split

AHEAD = 2                   # batches that are read while the network works on one


def indices(seed: int, step: int, examples: int, batch_size: int) -> np.ndarray:
    """int64 [batch_size]: the examples of batch `step`, a pure function of its arguments.

    The batches cut an endless row into pieces; the row is one permutation of all the examples after the other, one an
    epoch. So no example is left out, and a batch may hold the end of an epoch and the beginning of the next.
    """
    first, end = step * batch_size, (step + 1) * batch_size
    epochs = range(first // examples, (end - 1) // examples + 1)
    return np.concatenate([
        _permutation(seed, epoch, examples)[max(0, first - epoch * examples):end - epoch * examples]
        for epoch in epochs])


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, examples: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64([seed % 2**64, epoch])).permutation(examples)


def training(split: Split, seed: int, batch_size: int,
             first_step: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(step, images uint8 [batch_size, size, size, 3], labels int32 [batch_size]) from `first_step` on, without end.

    A thread reads ahead. It ends when the iterator is closed; an exception in it is raised here.
    """
    def read(step: int) -> tuple[int, np.ndarray, np.ndarray]:
        at = indices(seed, step, len(split), batch_size)
        return step, split.images[at], split.labels[at]

    with ThreadPoolExecutor(1, 'batches') as reader:
        ahead = collections.deque(reader.submit(read, first_step + k) for k in range(AHEAD))
        for step in itertools.count(first_step + AHEAD):
            ahead.append(reader.submit(read, step))
            yield ahead.popleft().result()


def evaluation(split: Split, batch_size: int,
               examples: int | None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(images uint8 [batch_size, size, size, 3], labels int32 [batch_size], mask bool [batch_size]) over the first
    `examples` of the split (all, if None or more than there are): each exactly once and in order. The last batch is
    filled up with copies of its last example, where the mask is False.
    """
    count = len(split) if examples is None else min(examples, len(split))
    for start in range(0, count, batch_size):
        at = np.arange(start, start + batch_size)
        mask = at < count
        at = np.minimum(at, count - 1)
        yield split.images[at], split.labels[at], mask
