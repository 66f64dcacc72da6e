"""Places and resampling of crops, against slices and jax.image.resize."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lib.data import crops
from lib.experiment import Data, UsageError

KEY = jax.random.key(0)


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype(np.float32)


def looks(images, kind, size):
    found, corners, mirrored = crops.views(jnp.asarray(images), kind, size)
    return np.stack([crops.view(found, *which, size) for which in zip(corners, mirrored)])


def with_reflections(views):
    return np.stack(views + [view[:, :, ::-1] for view in views])


def test_the_central_view(images):
    np.testing.assert_array_equal(looks(images, 'centre', 5), images[None, :, 1:6, 1:6])    # 3 spare pixels


def test_ten_and_twelve_views(images):
    five = [images[:, :5, :5], images[:, :5, 3:], images[:, 3:, :5], images[:, 3:, 3:], images[:, 1:6, 1:6]]
    np.testing.assert_array_equal(looks(images, 'ten', 5), with_reflections(five))
    small = np.asarray(jax.image.resize(images, (5, 5, 5, 3), 'linear'))
    np.testing.assert_allclose(looks(images, 'twelve', 5), with_reflections([*five, small]), rtol=1e-6)


def test_fifty_views_lie_on_a_grid(images):
    """Of 8 pixels a crop of 2 leaves 6: places 0, 1.5, 3, 4.5 and 6, of which halves go to the even neighbour."""
    grid = [images[:, top:top + 2, left:left + 2] for top in (0, 2, 3, 4, 6) for left in (0, 2, 3, 4, 6)]
    np.testing.assert_array_equal(looks(images, 'fifty', 2), with_reflections(grid))


def test_a_small_image_is_the_mean_of_the_pixels_it_covers():
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    found = np.asarray(crops.resize(jnp.asarray(images), 4))
    weights = np.array([1, 3, 3, 1]) / 8            # a triangle of four pixels, antialiased
    np.testing.assert_allclose(found[:, 1, 2], np.einsum('nijc,i,j->nc', images[:, 1:5, 3:7], weights, weights),
                               rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('scale', [8, 12, 6])
def test_a_resampled_box_is_a_square_of_the_resized_image(images, scale):
    """From an image resized to `scale`, 4x4 pixels at (1, 2)."""
    resized = np.asarray(crops.resize(jnp.asarray(images), scale))
    corners = np.tile(np.float32([1, 2]) * 8 / scale, (5, 1))
    found = crops.resample(jnp.asarray(images), corners, np.full((5, 2), 4 * 8 / scale, np.float32), 4)
    np.testing.assert_allclose(found, resized[:, 1:5, 2:6], rtol=1e-4, atol=1e-5)


def test_a_box_may_be_wide(images):
    corners, shapes = (np.tile(np.float32(box), (5, 1)) for box in ([3, 0], [4, 8]))
    found = crops.resample(jnp.asarray(images), corners, shapes, 4)
    np.testing.assert_allclose(found, jax.image.resize(images, (5, 8, 4, 3), 'linear')[:, 3:7], rtol=1e-4, atol=1e-5)


def test_scale_jitter_draws_every_scale_and_place():
    images = np.zeros((6000, 8, 8, 3), np.uint8)
    corners, shapes = crops.boxes(KEY, images, Data('toy', 4, crop='scaled', crop_scales=(5, 7)))
    scales = 8 * 4 / np.asarray(shapes)
    np.testing.assert_array_equal(scales[:, 0], scales[:, 1])
    assert set(scales[:, 0].round(3)) == {5, 6, 7}
    assert np.bincount(scales[:, 0].round().astype(int)).min(initial=2100, where=np.arange(8) > 4) > 1850
    inside = np.asarray(corners) / (8 - shapes)
    assert 0 <= inside.min() < 0.01 and 0.99 < inside.max() <= 1
    assert abs(np.corrcoef(inside.T)[0, 1]) < 0.05
    with pytest.raises(UsageError, match='data.crop_scales=.3, 7. begins below data.image_size=4'):
        crops.boxes(KEY, images, Data('toy', 4, crop='scaled', crop_scales=(3, 7)))


def test_crops_of_an_area_are_evenly_distributed_and_fit():
    images = np.zeros((20000, 10, 10, 3), np.uint8)
    corners, shapes = (np.asarray(array) for array in crops.boxes(KEY, images, Data('toy', 4, crop='area')))
    areas, ratios = shapes.prod(1) / 100, shapes[:, 1] / shapes[:, 0]
    np.testing.assert_allclose(np.quantile(areas, [0, 0.25, 0.5, 0.75, 1]), [0.08, 0.31, 0.54, 0.77, 1], atol=0.01)
    assert 3 / 4 - 1e-4 < ratios.min() < 0.76 and 1.32 < ratios.max() < 4 / 3 + 1e-4
    small = np.log(ratios[areas < 0.7])
    np.testing.assert_allclose([small.mean(), small.std()], [0, np.log(4 / 3) / 3**0.5], atol=0.005)
    assert shapes.max() <= 10 + 1e-4 and corners.min() >= 0 and (corners + shapes).max() <= 10 + 1e-4
    assert (corners + shapes).max() > 9.99 and corners.min() < 0.01
