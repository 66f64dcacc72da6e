import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lib.data import affine, augment
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


def gradient(side=9):
    """An image whose value is a different linear function of row and column in each channel, so that interpolation is
    exact within it."""
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    return np.stack([rows, columns, 3 * rows + 5 * columns], axis=2)


def deformed(image, down=0.0, right=0.0, scale=0.0, squeeze=0.0, shear=0.0):
    return np.asarray(affine._deform(jnp.asarray(image), jnp.array([down, right, scale, squeeze, shear])))


def test_a_translation_moves_pixels_and_repeats_the_edge():
    image = np.random.default_rng(0).normal(size=(6, 6, 3)).astype(np.float32)
    found = deformed(image, down=2.0, right=-1.0)
    np.testing.assert_allclose(found[2:, :5], image[:4, 1:], rtol=1e-6)
    np.testing.assert_allclose(found[:2, :5], np.stack([image[0, 1:]] * 2), rtol=1e-6)
    np.testing.assert_allclose(found[2:, 5], image[:4, 5], rtol=1e-6)
    half = deformed(image, right=0.5)
    np.testing.assert_allclose(half[:, 1:], (image[:, :-1] + image[:, 1:]) / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('draw, source', [
    ({'shear': 0.25}, lambda y, x: (y, x - 0.25 * y)),
    ({'scale': 0.25}, lambda y, x: (y / 1.25, x / 1.25)),
    ({'squeeze': 0.25}, lambda y, x: (y / 1.25, x * 1.25)),
    ({'scale': 0.6, 'squeeze': 0.25, 'shear': -0.5, 'down': 0.5, 'right': 0.25},
     lambda y, x: ((y - 0.5) / 2, (x - 0.25 + 0.5 * (y - 0.5) / 2) / (1.6 / 1.25)))])
def test_a_deformation_by_hand(draw, source):
    """Rows and columns counted from the centre, which stays where it is."""
    y, x = np.mgrid[-4:5, -4:5].astype(float)
    y, x = source(y, x)
    expected = np.stack([4 + y, 4 + x, 32 + 3 * y + 5 * x], axis=2)
    inside = (np.abs(y) <= 4) & (np.abs(x) <= 4)
    assert inside.sum() > 50
    np.testing.assert_allclose(deformed(gradient(), **draw)[inside], expected[inside], rtol=1e-5, atol=1e-4)


def test_deformations_are_drawn_between_plus_and_minus_their_limits():
    """Of one image a thousand times, near its centre, where no edge is seen."""
    images = np.broadcast_to(gradient(33), (1000, 33, 33, 3))

    def moved(limits):
        changes = np.asarray(affine.deform(KEY, jnp.asarray(images), limits)) - images
        return changes[:, 16, 16, :2], changes[:, 24, 16, :2], changes[:, 16, 24, :2]

    centre, below, beside = moved((3.0, 0.0, 0.0, 0.0))
    for axis in range(2):
        assert -3 <= centre[:, axis].min() < -2.9 and 2.9 < centre[:, axis].max() <= 3
    assert abs(np.corrcoef(centre.T)[0, 1]) < 0.1
    np.testing.assert_allclose(below, centre, atol=1e-4)
    centre, below, beside = moved((0.0, 0.25, 0.0, 0.0))
    assert np.abs(centre).max() < 1e-4
    np.testing.assert_allclose([below[:, 0].min(), below[:, 0].max()], [8 / 1.25 - 8, 8 / 0.75 - 8], atol=0.05)
    centre, below, beside = moved((0.0, 0.0, 0.25, 0.0))
    np.testing.assert_allclose([beside[:, 1].min(), beside[:, 1].max()], [-2, 2], atol=0.05)
    centre, below, beside = moved((0.0, 0.0, 0.0, 0.25))
    np.testing.assert_allclose([below[:, 1].min(), below[:, 1].max()], [-2, 2], atol=0.05)
    np.testing.assert_allclose(beside, 0, atol=1e-4)


def test_training_images_alone_are_deformed_less_their_mean(images):
    found, data = statistics(), Data('toy', 4, affine=(1.0, 0.1, 0.1, 0.2), pixel_scale=2.0)
    centred = images.astype(np.float32) - found.mean
    expected = np.asarray(affine.deform(jax.random.fold_in(KEY, 3), jnp.asarray(centred), data.affine))
    np.testing.assert_allclose(augment.train(KEY, images, found, data), expected[:, 1:5, 1:5] / 2, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(augment.centre(images, found, data), centred[:, 1:5, 1:5] / 2)
