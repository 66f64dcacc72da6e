"""Every example once, ties and numbers that are none, crops and scales averaged."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lib import mesh as meshes
from lib.data import augment, statistics
from lib.data.sources import Split
from lib.evaluate import evaluate, probabilities, rank
from lib.experiment import Data, Evaluation, UsageError
from lib.task import Task

DATA = Data(source='test', image_size=4)


def split(n: int, size: int = 4) -> Split:
    """Images whose first pixel is their number; labels are number modulo 10."""
    images = np.zeros((n, size, size, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(n)
    return Split('test', images, (np.arange(n) % 10).astype(np.int32), tuple('abcdefghij'))


def zero_mean(size: int = 4):
    return statistics.Statistics(jnp.zeros((size, size, 3)), jnp.ones(3), jnp.eye(3))


def wrong_at(*places):
    """A predictor that puts the image's label at the given place for image number i = place index, else first."""
    table = np.zeros(256, int)
    for number, place in enumerate(places):
        table[number] = place

    def predict(params, images):
        number = images[:, 0, 0, 0].astype(int)
        order = (jnp.arange(10) - number[:, None] % 10 + jnp.asarray(table)[number][:, None]) % 10
        return jax.nn.softmax(-order.astype(jnp.float32))
    return Task(None, None, predict, None)


@pytest.mark.parametrize('n, batch', [(1, 8), (7, 8), (8, 8), (9, 8), (31, 8), (16, 8)])
@pytest.mark.parametrize('shape', ['data:1', 'data:2'])
def test_each_example_counts_once_whatever_the_batch(n, batch, shape):
    mesh = meshes.make(shape)
    with jax.set_mesh(mesh):
        errors = evaluate(wrong_at(1, 5, 4), {}, split(n), zero_mean(), DATA, Evaluation(batch_size=batch),
                          mesh)
    assert (errors.top1, errors.top5, errors.seen) == (min(n, 3), min(max(n - 1, 0), 1), n)


@pytest.mark.parametrize('wanted, seen', [(3, 3), (10, 10), (11, 11), (12, 11), (10_000, 11)])
def test_examples_limits_the_split_exactly(wanted, seen):
    mesh = meshes.make('data:1')
    with jax.set_mesh(mesh):
        errors = evaluate(wrong_at(1), {}, split(11), zero_mean(), DATA, Evaluation(batch_size=4, examples=wanted),
                          mesh)
    assert errors.seen == seen and errors.percent(errors.top1) == pytest.approx(100 / seen)


def test_equal_scores_are_no_better_than_chance():
    np.testing.assert_array_equal(rank(jnp.ones((10, 10)), jnp.arange(10)), np.arange(10))


def test_a_label_whose_score_is_no_number_comes_last():
    scores = jnp.ones((2, 10)).at[0, 3].set(jnp.nan)
    np.testing.assert_array_equal(rank(scores, jnp.array([3, 0])), [10, 0])


def test_ten_crops_average_the_softmax():
    """On 6x6 images with 4x4 crops: the brightness of each crop's first pixel decides, averaged over the ten."""
    images = split(5, size=6)
    images.images[:] = np.random.default_rng(0).integers(0, 255, images.images.shape)
    data = Data(source='test', image_size=4)

    def predict(params, crops):
        return jax.nn.softmax(crops[:, 0, 0, :1] / 255 * jnp.arange(10.0), -1)

    pixels = images.images[..., 0].astype(float)
    corners = [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]
    firsts = [pixels[:, r, c] for r, c in corners] + [pixels[:, r, c + 3] for r, c in corners]
    scores = np.stack([first[:, None] / 255 * np.arange(10.0) for first in firsts])
    softmax = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    own = softmax.mean(0)[np.arange(5), images.labels]
    mesh = meshes.make('data:1')
    with jax.set_mesh(mesh):
        errors = evaluate(Task(None, None, predict, None), {}, images, zero_mean(6), data,
                          Evaluation(batch_size=2, crops='ten'), mesh)
    assert errors.loss == pytest.approx(-np.log(own).mean(), rel=1e-5)


def predict(params, images):
    """Probabilities that differ from crop to crop and tell left from right."""
    ramp = jnp.linspace(-1, 1, images.shape[1] * images.shape[2]).reshape(1, *images.shape[1:3], 1)
    return jax.nn.softmax((images * ramp).mean((1, 2, 3))[:, None] / 20 * jnp.arange(10.0), -1)


def dense(params, images):
    return jax.nn.softmax(images[:, ::2, ::3, 1].mean((1, 2))[:, None] / 20 * jnp.arange(10.0) + images[:, :1, 1, 0])


def seen(kind, scales=()):
    """Means over a protocol's views, by explicit loops, of five images with a mean image; and what evaluation finds."""
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    known = zero_mean(8)._replace(mean=jnp.asarray(np.random.default_rng(1).uniform(0, 255, (8, 8, 3)), jnp.float32))
    data, found = Data(source='test', image_size=4, pixel_scale=2.0), []
    for side in scales or (8,):
        whole = (images - known.mean) / 2
        whole = whole if side == 8 else jax.image.resize(whole, (5, side, side, 3), 'linear')
        place = [0, (side - 4) // 2, side - 4]
        five = [(0, 0), (0, place[2]), (place[2], 0), (place[2], place[2]), (place[1], place[1])]
        grid = [(top, left) for top in np.rint(np.linspace(0, side - 4, 5)).astype(int)
                for left in np.rint(np.linspace(0, side - 4, 5)).astype(int)]
        cut = {'centre': five[4:], 'ten': five, 'twelve': five, 'fifty': grid, 'dense': [], 'dense_and_fifty': grid}
        views = [whole[:, top:top + 4, left:left + 4] for top, left in cut[kind]]
        if kind == 'twelve':
            views.append(jax.image.resize(whole, (5, 4, 4, 3), 'linear'))
        views += [view[:, :, ::-1] for view in views] if kind != 'centre' else []
        scores = [predict({}, view) for view in views]
        everywhere = (dense({}, whole) + dense({}, whole[:, :, ::-1])) / 2
        mean = sum(scores) / len(scores) if scores else everywhere
        found.append((mean + everywhere) / 2 if kind == 'dense_and_fifty' else mean)
    mesh = meshes.make('data:1')
    split = Split('test', images, np.zeros(5, np.int32), tuple('abcdefghij'))
    evaluation = Evaluation(batch_size=3, crops=kind, scales=scales)
    task = Task(None, None, predict, None, dense=dense)
    with jax.set_mesh(mesh):
        batches = [scores[mask] for scores, _, mask in probabilities(task, {}, split, known, data, evaluation, mesh)]
    return sum(found) / len(found), np.concatenate(batches)


@pytest.mark.parametrize('kind, scales', [
    ('centre', ()), ('centre', (6,)), ('ten', ()), ('twelve', ()), ('twelve', (4, 7)), ('fifty', ()), ('dense', ()),
    ('dense', (6, 9)), ('dense_and_fifty', (6, 8, 11))])
def test_views_and_scales_are_averaged(kind, scales):
    expected, found = seen(kind, scales)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('evaluation, words', [
    (Evaluation(crops='dense'), 'evaluation.crops=dense is for networks that read images of any size'),
    (Evaluation(crops='dense_and_fifty', scales=(8,)), 'set it to centre, ten, twelve or fifty'),
    (Evaluation(scales=(8, 3)), r'evaluation.scales=\[8, 3\] has a side below data.image_size=4')])
def test_what_cannot_be_judged_is_said_before_anything_is_compiled(evaluation, words, monkeypatch):
    monkeypatch.setattr(augment, 'centred', None)
    with pytest.raises(UsageError, match=words):
        probabilities(wrong_at(1), {}, split(3), zero_mean(), DATA, evaluation, meshes.make('data:1'))
