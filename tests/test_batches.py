import itertools
import threading

import numpy as np
import pytest

from lib.data import batches
from lib.data.sources import Split


def split(n):
    images = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    return Split('toy', images, np.arange(n, dtype=np.int32), tuple(map(str, range(n))))


@pytest.mark.parametrize('examples, batch_size', [(12, 4), (10, 4), (7, 3), (3, 8), (1, 2)])
def test_the_batches_are_one_permutation_after_the_other(examples, batch_size):
    row = np.concatenate([batches.indices(0, step, examples, batch_size) for step in range(3 * examples)])
    epochs = row.reshape(-1, examples)
    assert len(epochs) == 3 * batch_size
    for epoch in epochs:
        assert sorted(epoch) == list(range(examples))
    assert row.dtype == np.int64


def test_epochs_and_seeds_are_shuffled_differently():
    rows = [batches.indices(seed, step, 100, 100).tolist() for seed in (0, 1, -1) for step in (0, 1)]
    assert len({tuple(row) for row in rows}) == 6
    assert rows[0] != sorted(rows[0])


def test_a_batch_depends_on_seed_and_step_alone():
    forward = [batches.indices(3, step, 10, 4).tolist() for step in range(8)]
    batches._permutation.cache_clear()
    backward = [batches.indices(3, step, 10, 4).tolist() for step in reversed(range(8))]
    assert backward[::-1] == forward


def test_a_batch_can_be_changed_without_changing_the_next():
    first = batches.indices(3, 0, 10, 10)
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(batches.indices(3, 0, 10, 10), kept)


def test_training_goes_on_from_any_step():
    stream = batches.training(split(10), 5, 4, 0)
    whole = list(itertools.islice(stream, 12))
    stream.close()
    stream = batches.training(split(10), 5, 4, 7)
    resumed = list(itertools.islice(stream, 5))
    stream.close()
    assert [step for step, *_ in whole] == list(range(12))
    for (step, images, labels), (again, same_images, same_labels) in zip(whole[7:], resumed):
        assert step == again
        np.testing.assert_array_equal(images, same_images)
        np.testing.assert_array_equal(labels, same_labels)
        np.testing.assert_array_equal(labels, batches.indices(5, step, 10, 4))
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels)


class Watched:
    """Images that count how often they are read, and fail at the third time if asked to."""
    def __init__(self, images, fail=False):
        self.images, self.fail, self.reads, self.read = images, fail, 0, threading.Semaphore(0)

    def __getitem__(self, at):
        self.reads += 1
        self.read.release()
        if self.fail and self.reads == 3:
            raise OSError('the disk is gone')
        return self.images[at]


def watched(**keywords):
    toy = split(10)
    return Split(toy.name, Watched(toy.images, **keywords), toy.labels, toy.class_names)


def test_training_reads_ahead_in_a_thread_that_ends():
    toy = watched()
    stream = batches.training(toy, 0, 4, 0)
    next(stream)
    for _ in range(3):
        assert toy.images.read.acquire(timeout=10)
    assert any(thread.name.startswith('batches') for thread in threading.enumerate())
    stream.close()
    assert toy.images.reads == 3
    assert not any(thread.name.startswith('batches') for thread in threading.enumerate())


def test_an_error_of_the_thread_reaches_the_consumer():
    stream = batches.training(watched(fail=True), 0, 4, 0)
    next(stream)
    next(stream)
    with pytest.raises(OSError, match='the disk is gone'):
        next(stream)
    assert not any(thread.name.startswith('batches') for thread in threading.enumerate())


@pytest.mark.parametrize('size, batch_size, examples, seen', [
    (10, 4, None, 10), (8, 4, None, 8), (3, 8, None, 3), (10, 3, 7, 7), (10, 4, 4, 4), (10, 4, 11, 10), (10, 4, 1, 1)])
def test_evaluation_gives_each_example_once_and_in_order(size, batch_size, examples, seen):
    found = list(batches.evaluation(split(size), batch_size, examples))
    assert len(found) == -(-seen // batch_size)
    for images, labels, mask in found:
        assert images.shape == (batch_size, 2, 2, 3) and labels.shape == mask.shape == (batch_size,)
        assert mask.dtype == bool
        np.testing.assert_array_equal(images[:, 1, 1, 2], labels)
        assert set(labels[~mask]) <= {seen - 1}
    assert np.concatenate([labels[mask] for _, labels, mask in found]).tolist() == list(range(seen))
