import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lib.data import affine, augment, contrast, crops
from lib.data.statistics import Statistics
from lib.experiment import Data, UsageError

KEY = jax.random.key(0)
TRAIN, DEFORM = jax.jit(augment.train, static_argnames='data'), jax.jit(affine.deform, static_argnums=2)


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


def test_training_images_alone_are_deformed_less_their_mean(images):
    found, data = statistics(), Data('toy', 4, affine=(1.0, 0.1, 0.1, 0.2), pixel_scale=2.0)
    centred = images.astype(np.float32) - found.mean
    expected = np.asarray(DEFORM(jax.random.fold_in(KEY, 3), jnp.asarray(centred), data.affine))
    np.testing.assert_allclose(TRAIN(KEY, images, found, data), expected[:, 1:5, 1:5] / 2, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(augment.centre(images, found, data), centred[:, 1:5, 1:5] / 2)


def test_padding_is_zeros_around_what_has_lost_its_mean():
    images = np.random.default_rng(0).integers(0, 256, (900, 4, 4, 3), dtype=np.uint8)
    found, data = statistics(4, 4), Data('toy', 4, padding=1, crop='random', reflect=True)
    padded = np.pad(images.astype(np.float32) - found.mean, ((0, 0), (1, 1), (1, 1), (0, 0)))
    assert len(set(places(np.asarray(TRAIN(KEY, images, found, data)), padded, 4))) == 3 * 3 * 2
    np.testing.assert_array_equal(augment.centre(images, found, data), padded[:, 1:5, 1:5])


def test_corners_and_centre_are_equally_likely():
    images = np.random.default_rng(0).integers(0, 256, (1000, 6, 6, 3), dtype=np.uint8)
    found, data = statistics(), Data('toy', 3, crop='corners', reflect=True)
    chosen = places(np.asarray(TRAIN(KEY, images, found, data)), images.astype(np.float32) - found.mean, 3)
    counts = {place: chosen.count(place) for place in set(chosen)}
    assert {place[:2] for place in counts} == {(0, 0), (0, 3), (3, 0), (3, 3), (1, 1)}
    assert len(counts) == 10
    assert 70 < min(counts.values()) and max(counts.values()) < 130         # 100 expected, deviation 9.5


@pytest.mark.parametrize('crop', ['scaled', 'area'])
def test_a_resampled_crop_has_the_mean_of_its_own_place(crop):
    """An image that is the mean image stays zero; the others are resampled as crops.boxes says."""
    found, data = statistics(8, 8), Data('toy', 4, crop=crop, crop_scales=(4, 12), pixel_scale=2.0)
    found = found._replace(mean=np.rint(found.mean))
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    images[3] = found.mean
    seen = np.asarray(TRAIN(KEY, images, found, data))
    np.testing.assert_allclose(seen[3], 0, atol=1e-4)
    boxes = crops.boxes(jax.random.split(KEY, 3)[0], images, data)
    expected = crops.resample(jnp.asarray(images - found.mean), *boxes, 4) / 2
    np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('changes', [{'contrast': 'global'}, {'contrast': 'local'}, {'whiten': True},
                                     {'contrast': 'global', 'whiten': True}])
def test_contrast_and_whitening_come_before_the_crop_everywhere(images, changes):
    data = Data('toy', 4, pixel_scale=2.0, crop='random', **changes)
    matrix = np.random.default_rng(3).normal(size=(108, 108)).astype(np.float32)
    found = statistics()._replace(whitening=matrix + matrix.T)
    whole = np.asarray(contrast.normalize(images, data.contrast)) - found.mean
    if data.whiten:
        whole = (whole.reshape(5, 108) @ found.whitening).reshape(whole.shape)
    np.testing.assert_allclose(augment.centre(images, found, data), whole[:, 1:5, 1:5] / 2, rtol=1e-4, atol=0.1)
    corners = np.asarray(crops.places(jax.random.split(KEY, 3)[0], images, data))
    expected = np.stack([image[r:r + 4, c:c + 4] for image, (r, c) in zip(whole, corners)]) / 2
    np.testing.assert_allclose(TRAIN(KEY, images, found, data), expected, rtol=1e-4, atol=0.1)


def test_what_whitens_has_to_be_known(images):
    with pytest.raises(UsageError, match='train it here'):
        augment.centre(images, statistics(), Data('toy', 4, whiten=True))


def test_colour_jitter_by_hand(monkeypatch):
    """One grey pixel of 60 beside a coloured one, whose grey is 0.299 * 100 + 0.587 * 50 + 0.114 * 0 = 59.25."""
    images = np.array([[[[60, 60, 60], [100, 50, 0]]]], np.uint8)
    monkeypatch.setattr(jax.random, 'uniform', lambda *_, **__: jnp.array([1.2, 0.5, 1.5]).reshape(3, 1, 1, 1, 1))
    pixels = np.array([[60, 60, 60], [100, 50, 0]]) * 1.2
    mean = (60 + 59.25) / 2 * 1.2
    pixels = mean + 0.5 * (pixels - mean)
    grey = (pixels * [0.299, 0.587, 0.114]).sum(1, keepdims=True)
    expected = grey + 1.5 * (pixels - grey)
    np.testing.assert_allclose(augment.color_jitter(KEY, images, 0.5)[0, 0], expected, rtol=1e-5)


def test_colour_jitter_draws_three_factors_an_image():
    images = np.array([[[[100, 100, 100], [101, 99, 100]]]], np.uint8).repeat(2000, 0)
    jittered = np.asarray(augment.color_jitter(KEY, images, 0.25))[:, 0]
    brightness = jittered[:, 0, 0] / 100
    colour = (jittered[:, 1, 0] - jittered[:, 1, 1]) / 2        # brightness * contrast * saturation
    np.testing.assert_allclose([brightness.min(), brightness.max()], [0.75, 1.25], atol=0.01)
    assert abs(np.corrcoef(brightness, colour / brightness)[0, 1]) < 0.1
    np.testing.assert_allclose(np.var(colour / brightness), (1 + 0.25**2 / 3)**2 - 1, rtol=0.1)
    assert jittered.min() >= 0 and np.asarray(augment.color_jitter(KEY, 2 * images, 0.5)).max() == 255


@pytest.mark.parametrize('changes', [{}, {'affine': (1.0, 0.1, 0.1, 0.2)}, {'color_jitter': 0.3}])
def test_each_draw_has_a_key_of_its_own(images, changes):
    """Those of crop, reflection and noise are those of the runs whose results are committed."""
    found, data = statistics(), Data('toy', 4, crop='random', reflect=True, color_noise=0.1, **changes)
    whole, mean = jnp.asarray(images, jnp.float32), jnp.asarray(found.mean)
    if data.color_jitter:
        whole = augment.color_jitter(jax.random.fold_in(KEY, 4), images, 0.3)
    whole = whole - mean
    if data.affine:
        whole = DEFORM(jax.random.fold_in(KEY, 3), whole, data.affine)
    crop_key, mirror_key, color_key = jax.random.split(KEY, 3)
    corners = jax.random.randint(crop_key, (5, 2), 0, jnp.array([2, 2]) + 1)
    mirrored = jax.random.bernoulli(mirror_key, shape=(5, 1, 1, 1))[:, 0, 0, 0]
    expected = np.stack([image[r:r + 4, c:c + 4][:, ::-1 if m else 1] for image, (r, c), m in
                         zip(np.asarray(whole), corners, mirrored)])
    expected += np.asarray(augment.color_noise(color_key, 5, found, data))[:, None, None]
    np.testing.assert_allclose(TRAIN(KEY, images, found, data), expected, rtol=1e-5, atol=1e-4)
