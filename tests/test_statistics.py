import dataclasses

import numpy as np
import pytest

from lib.data import contrast, statistics
from lib.data.sources import Split
from lib.experiment import Data, UsageError, override

DATA = Data('toy', 4)


def split(images, name='toy 1.0.0 train'):
    return Split(name, images, np.zeros(len(images), np.int32), ('a',))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (37, 5, 5, 3), dtype=np.uint8)


def test_the_mean_image_by_hand(tmp_path):
    images = np.zeros((3, 2, 2, 3), np.uint8)
    images[:, 0, 0] = [[3, 0, 0], [6, 0, 0], [255, 0, 0]]
    images[:, 1, 0, 2] = [1, 2, 2]
    mean = statistics.compute(split(images), DATA, tmp_path).mean
    expected = np.zeros((2, 2, 3))
    expected[0, 0] = [88, 0, 0]
    expected[1, 0, 2] = 5 / 3
    np.testing.assert_allclose(mean, expected, rtol=1e-6)
    assert mean.dtype == np.float32


def test_one_mean_a_channel(tmp_path, images):
    mean = statistics.compute(split(images), Data('toy', 4, mean='channel'), tmp_path).mean
    np.testing.assert_allclose(mean, np.broadcast_to(images.mean(axis=(0, 1, 2)), (5, 5, 3)), rtol=1e-6)


def test_three_given_means(tmp_path, images):
    data = override(DATA, ['mean=[123.7,116.3,103]'])
    assert data.mean == (123.7, 116.3, 103.0)
    found, own = (statistics.compute(split(images), setting, tmp_path) for setting in (data, DATA))
    np.testing.assert_array_equal(found.mean, np.broadcast_to(np.float32([123.7, 116.3, 103]), (5, 5, 3)))
    assert found.mean.dtype == np.float32
    for left, right in zip(found[1:], own[1:]):
        np.testing.assert_array_equal(left, right)


def test_three_given_means_without_a_training_set():
    found = statistics.fixed((123.7, 116.3, 103.5), 6)
    np.testing.assert_array_equal(found.mean, np.broadcast_to(np.float32([123.7, 116.3, 103.5]), (6, 6, 3)))
    np.testing.assert_array_equal(found.eigenvalues, np.zeros(3))
    np.testing.assert_array_equal(found.eigenvectors, np.eye(3))
    assert {array.dtype for array in found} == {np.dtype(np.float32)}


@pytest.mark.parametrize('mean', ['pixels', '[1,2]', '[1,2,3,4]', '[1,2,"a"]', '[-1,2,3]', '[1,2,256]', '[1,2,1e999]'])
def test_other_means_are_refused(mean):
    with pytest.raises(UsageError, match='pixel, channel or '):
        override(DATA, [f'mean={mean}'])


@pytest.mark.parametrize('mean', ['', 3, (1, 2), [1, 2, 3]])
def test_other_means_are_refused_in_code(mean):
    with pytest.raises(UsageError, match='must be pixel, channel or'):
        dataclasses.replace(DATA, mean=mean)


def test_the_colours_are_those_of_the_covariance_over_all_pixels(tmp_path, images):
    images[..., 1] = images[..., 0] // 2 + images[..., 1] // 4
    found = statistics.compute(split(images), DATA, tmp_path)
    covariance = np.cov(images.reshape(-1, 3).T.astype(float), bias=True)
    assert found.eigenvalues[0] > found.eigenvalues[1] > found.eigenvalues[2] > 0
    vectors = found.eigenvectors
    np.testing.assert_allclose(vectors @ np.diag(found.eigenvalues) @ vectors.T, covariance, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-6)
    assert (vectors[np.abs(vectors).argmax(axis=0), range(3)] > 0).all()


def test_known_colours(tmp_path):
    """Pixels that vary by 30 along red, by 20 along (0, 1, 1) and not at all along (0, 1, -1)."""
    images = np.full((4, 1, 1, 3), 100, np.uint8)
    images[:, 0, 0, 0] += np.array([30, 30, 0, 0], np.uint8)
    images[:, 0, 0, 1:] += np.array([20, 0, 20, 0], np.uint8)[:, None]
    found = statistics.compute(split(images), DATA, tmp_path)
    np.testing.assert_allclose(found.eigenvalues, [15**2, 2 * 10**2, 0], atol=1e-3)
    np.testing.assert_allclose(found.eigenvectors[:, 0], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found.eigenvectors[:, 1], [0, 0.5**0.5, 0.5**0.5], atol=1e-6)


def test_chunks_change_nothing(tmp_path, images, monkeypatch):
    whole = statistics.compute(split(images), DATA, tmp_path / 'a')
    monkeypatch.setattr(statistics, 'CHUNK_BYTES', 5 * images[0].nbytes)
    for left, right in zip(whole, statistics.compute(split(images), DATA, tmp_path / 'b')):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


@pytest.fixture
def computations(monkeypatch):
    calls = []
    original = statistics._compute
    monkeypatch.setattr(statistics, '_compute', lambda train: calls.append(train) or original(train))
    return calls


def test_the_result_is_kept_for_the_same_images_only(tmp_path, images, computations):
    first = statistics.compute(split(images), DATA, tmp_path)
    second = statistics.compute(split(images), DATA, tmp_path)
    assert len(computations) == 1
    for left, right in zip(first, second):
        np.testing.assert_array_equal(left, right)
    statistics.compute(split(images, 'toy 1.0.0: train'), DATA, tmp_path)
    statistics.compute(split(images.reshape(37, 25, 1, 3)), DATA, tmp_path)
    statistics.compute(split(images[:-1]), DATA, tmp_path)
    changed = images.copy()
    changed[-1, 0, 0, 0] ^= 1
    statistics.compute(split(changed), DATA, tmp_path)
    assert len(computations) == 5


@pytest.mark.parametrize('damage', ['flip', 'cut', 'replace'])
def test_a_damaged_file_is_computed_again_and_said_so(tmp_path, images, computations, capsys, damage):
    first = statistics.compute(split(images), DATA, tmp_path)
    path, = (tmp_path / 'statistics').iterdir()
    if damage == 'flip':
        content = bytearray(path.read_bytes())
        content[content.index(b'mean.npy') + 300] ^= 1
        path.write_bytes(content)
    elif damage == 'cut':
        path.write_bytes(path.read_bytes()[:-50])
    else:
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **arrays | {'eigenvalues': arrays['eigenvalues'] + 1})
    again = statistics.compute(split(images), DATA, tmp_path)
    assert len(computations) == 2
    assert capsys.readouterr().err.count('is damaged') == 1
    np.testing.assert_array_equal(again.eigenvalues, first.eigenvalues)
    statistics.compute(split(images), DATA, tmp_path)
    assert len(computations) == 2


def test_a_directory_that_cannot_be_made_is_named(tmp_path, images):
    (tmp_path / 'statistics').touch()
    with pytest.raises(UsageError, match='choose another directory'):
        statistics.compute(split(images), DATA, tmp_path)


def test_saved_statistics_come_back_as_they_were(tmp_path, images):
    saved = statistics.compute(split(images), DATA, tmp_path)
    path = tmp_path / 'run' / 'statistics.npz'
    statistics.save(path, statistics.fixed((1.0, 2.0, 3.0), 4))
    statistics.save(path, saved)
    for left, right in zip(statistics.load(path), saved):
        np.testing.assert_array_equal(left, right)
        assert left.dtype == right.dtype
    assert [file.name for file in path.parent.iterdir()] == ['statistics.npz']


@pytest.mark.parametrize('damage', ['missing', 'flip', 'cut', 'replace', 'version', 'text'])
def test_saved_statistics_that_cannot_be_read_are_a_usage_error(tmp_path, images, damage):
    path = tmp_path / 'statistics.npz'
    if damage != 'missing':
        statistics.save(path, statistics.compute(split(images), DATA, tmp_path))
        content = bytearray(path.read_bytes())
        if damage == 'flip':
            content[content.index(b'mean.npy') + 300] ^= 1
        elif damage == 'cut':
            del content[-50:]
        elif damage == 'version':
            content[content.index(b'PK\1\2') + 6] = 255      # the version of zip that the first file needs
        elif damage == 'text':
            content = b'text'
        path.write_bytes(content)
    if damage == 'replace':
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **arrays | {'eigenvalues': arrays['eigenvalues'] + 1})
    with pytest.raises(UsageError, match=f'{path} is {"missing" if damage == "missing" else "damaged"}: start the run'):
        statistics.load(path)


def whitening(images, kind, bias=0.1):
    """(the mean, and the matrix whose square is the inverse of the covariance of pixels with so much more variance),
    by a singular value decomposition."""
    flat = np.asarray(contrast.normalize(images, kind), np.float64).reshape(len(images), -1)
    mean = flat.mean(0)
    _, values, rows = np.linalg.svd(flat - mean)
    variances = np.zeros(len(mean))
    variances[:len(values)] = values**2 / len(flat)
    return mean, rows.T @ np.diag((variances + bias)**-0.5) @ rows


@pytest.mark.parametrize('kind', ['none', 'global', 'local'])
def test_whitening_by_hand(tmp_path, images, kind, monkeypatch):
    monkeypatch.setattr(statistics, 'WHITENED', 10)         # so that the images come in four pieces
    found = statistics.compute(split(images), Data('toy', 4, contrast=kind, whiten=True, mean='channel'), tmp_path)
    mean, matrix = whitening(images, kind)
    np.testing.assert_allclose(found.mean.ravel(), mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.whitening, matrix, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(found.eigenvalues, statistics.compute(split(images), DATA, tmp_path).eigenvalues)
    assert {array.dtype for array in found} == {np.dtype(np.float32)}


def test_whitened_pixels_are_uncorrelated(tmp_path):
    """Their covariance is the identity where there is variance to speak of: v / (v + 0.1)."""
    smooth = np.random.default_rng(0).integers(0, 90, (400, 3, 3, 3)).cumsum(axis=2).astype(np.uint8)
    data = Data('toy', 3, contrast='global', whiten=True)
    found = statistics.compute(split(smooth), data, tmp_path)
    flat = np.asarray(contrast.normalize(smooth, 'global')).reshape(400, -1)
    before = np.cov(flat.T, bias=True)
    assert np.abs(np.corrcoef(flat.T) - np.eye(27)).max() > 0.5
    after = np.linalg.eigvalsh(np.cov((flat - found.mean.ravel()) @ found.whitening, rowvar=False, bias=True))
    values = np.maximum(np.linalg.eigvalsh(before), 0)
    np.testing.assert_allclose(after, values / (values + 0.1), rtol=1e-3, atol=1e-3)
    assert (after[1:] > 0.98).all() and after[0] < 0.01     # one direction, the mean of an image, has none
    np.testing.assert_allclose(found.whitening, found.whitening.T, atol=1e-5)


def test_contrast_without_whitening_leaves_no_mean_to_subtract(tmp_path, images):
    found = statistics.compute(split(images), Data('toy', 4, contrast='global'), tmp_path)
    np.testing.assert_array_equal(found.mean, np.zeros((5, 5, 3), np.float32))
    assert found.whitening.shape == (0, 0)


def test_each_preprocessing_has_a_file_of_its_own_that_is_read_again(tmp_path, images, computations):
    settings = [DATA, Data('toy', 4, contrast='global', whiten=True), Data('toy', 4, whiten=True)]
    first = [statistics.compute(split(images), data, tmp_path) for data in settings]
    assert len(computations) == len(list((tmp_path / 'statistics').iterdir())) == 3
    for data, expected in zip(settings, first):
        for left, right in zip(statistics.compute(split(images), data, tmp_path), expected):
            np.testing.assert_array_equal(left, right)
    assert len(computations) == 3
    statistics.save(tmp_path / 'run.npz', first[1])
    np.testing.assert_array_equal(statistics.load(tmp_path / 'run.npz').whitening, first[1].whitening)


def test_images_that_are_too_large_to_be_whitened(tmp_path):
    large = split(np.zeros((2, 65, 65, 3), np.uint8))
    with pytest.raises(UsageError, match='at most 64 pixels and these have 65: set data.resize=64'):
        statistics.compute(large, Data('toy', 4, whiten=True), tmp_path)


def test_a_file_from_before_there_was_whitening_is_read(tmp_path, images):
    saved, path = statistics.compute(split(images), DATA, tmp_path), tmp_path / 'statistics.npz'
    statistics.save(path, saved)
    with np.load(path) as file:
        arrays = dict(file)
    del arrays['whitening']
    np.savez(path, **arrays)
    for left, right in zip(statistics.load(path), saved):
        np.testing.assert_array_equal(left, right)


def test_a_file_whose_whitening_was_lost_is_damaged(tmp_path, images):
    path = tmp_path / 'statistics.npz'
    statistics.save(path, statistics.compute(split(images), Data('toy', 4, whiten=True), tmp_path))
    with np.load(path) as file:
        arrays = dict(file)
    del arrays['whitening']
    np.savez(path, **arrays)
    with pytest.raises(UsageError, match='is damaged'):
        statistics.load(path)
