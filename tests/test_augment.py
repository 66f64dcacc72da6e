import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lib.data import augment
from lib.data.statistics import Statistics
from lib.experiment import Data, UsageError

KEY = jax.random.key(0)


def statistics(height=6, width=6, mean=None):
    vectors = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    mean = np.random.default_rng(2).uniform(0, 255, (height, width, 3)) if mean is None else mean
    return Statistics(mean.astype(np.float32), np.array([900, 100, 4], np.float32), vectors.astype(np.float32))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)


def test_without_crop_and_noise_only_the_mean_goes(images):
    data = Data('toy', 6, crop='random', pixel_scale=4.0)
    found = statistics()
    expected = (images.astype(np.float32) - found.mean) / 4
    np.testing.assert_allclose(augment.train(KEY, images, found, data), expected, rtol=1e-6)
    np.testing.assert_allclose(augment.centre(images, found, data), expected, rtol=1e-6)


def test_the_central_crop(images):
    found = statistics()
    expected = images[:, 1:4, 1:4].astype(np.float32) - found.mean[1:4, 1:4]     # 3 spare pixels: one before, two after
    np.testing.assert_allclose(augment.centre(images, found, Data('toy', 3)), expected)
    np.testing.assert_allclose(augment.train(KEY, images, found, Data('toy', 3)), expected)


def test_ten_crops_by_hand(images):
    found = statistics()
    centred = images.astype(np.float32) - found.mean
    five = [centred[:, :4, :4], centred[:, :4, 2:], centred[:, 2:, :4], centred[:, 2:, 2:], centred[:, 1:5, 1:5]]
    expected = np.stack(five + [crop[:, :, ::-1] for crop in five]) / 2
    crops = augment.ten(images, found, Data('toy', 4, pixel_scale=2.0))
    assert crops.shape == (10, 5, 4, 4, 3)
    np.testing.assert_allclose(crops, expected)


def places(crops, centred, size):
    """Which (row, column, mirrored) of each image a crop is."""
    found = []
    for crop, image in zip(crops, centred):
        spare = len(image) - size
        found.append([(r, c, m) for r in range(spare + 1) for c in range(spare + 1) for m in (False, True)
                      if np.array_equal(crop, image[r:r + size, c:c + size][:, ::-1 if m else 1])])
    assert all(len(place) == 1 for place in found)
    return [place[0] for place in found]


def test_random_crops_come_from_everywhere_with_their_own_mean():
    images = np.random.default_rng(0).integers(0, 256, (1800, 6, 6, 3), dtype=np.uint8)
    found = statistics()
    data = Data('toy', 4, crop='random', reflect=True)
    crops = np.asarray(augment.train(KEY, images, found, data))
    counts = {}
    for place in places(crops, images.astype(np.float32) - found.mean, 4):
        counts[place] = counts.get(place, 0) + 1
    assert len(counts) == 3 * 3 * 2
    assert 55 < min(counts.values()) and max(counts.values()) < 150        # 100 expected, deviation 9.7


def test_without_reflection_nothing_is_mirrored(images):
    found = statistics()
    crops = np.asarray(augment.train(KEY, images, found, Data('toy', 4, crop='random')))
    assert not any(mirrored for *_, mirrored in places(crops, images.astype(np.float32) - found.mean, 4))


def test_equal_keys_give_equal_images_and_others_do_not(images):
    data = Data('toy', 4, crop='random', reflect=True, color_noise=0.1)
    first, again, other = (augment.train(key, images, statistics(), data) for key in (KEY, KEY, jax.random.key(1)))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_compiled_function_is_the_same(images):
    data = Data('toy', 4, crop='random', reflect=True, color_noise=0.1)
    compiled = jax.jit(lambda key, images, found: augment.train(key, images, found, data))
    np.testing.assert_allclose(compiled(KEY, images, statistics()), augment.train(KEY, images, statistics(), data),
                               rtol=1e-5, atol=1e-4)


def test_colour_noise_is_one_vector_an_image(images):
    data = Data('toy', 6, color_noise=0.1)
    found = statistics(mean=np.zeros((6, 6, 3)))
    added = np.asarray(augment.train(KEY, images, found, data)) - images
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :1], added.shape), atol=1e-4)
    assert len(np.unique(added[:, 0, 0, 0].round(3))) == 5


@pytest.mark.parametrize('scale, multiples', [('deviation', [30, 10, 2]), ('eigenvalue', [900, 100, 4])])
def test_colour_noise_has_the_paper_s_distribution(scale, multiples):
    """Along eigenvector i it is normal with mean 0 and standard deviation 0.1 times the scale of i, independently."""
    found = statistics()
    data = Data('toy', 6, color_noise=0.1, color_noise_scale=scale)
    noise = np.asarray(augment.color_noise(KEY, 40000, found, data)) @ found.eigenvectors
    np.testing.assert_allclose(noise.std(axis=0), 0.1 * np.array(multiples), rtol=0.02)
    np.testing.assert_allclose(noise.mean(axis=0) / noise.std(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(np.corrcoef(noise.T), np.eye(3), atol=0.02)


def test_colour_noise_is_scaled_with_the_pixels():
    images = np.zeros((4, 6, 6, 3), np.uint8)
    found = statistics(mean=np.zeros((6, 6, 3)))
    full, half = (augment.train(KEY, images, found, Data('toy', 6, color_noise=0.1, pixel_scale=scale))
                  for scale in (1.0, 2.0))
    np.testing.assert_allclose(half, full / 2, rtol=1e-6)
    assert jnp.abs(half).max() > 0


@pytest.mark.parametrize('size', [7, 0])
def test_a_crop_that_does_not_fit_is_a_usage_error(images, size):
    with pytest.raises(UsageError, match=f'data.image_size={size} .* 6x6'):
        augment.centre(images, statistics(), Data('toy', size))
