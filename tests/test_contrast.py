"""Contrast normalisation against plain NumPy."""
import numpy as np
import pytest

from lib.data import contrast


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3), dtype=np.uint8)


def test_global_contrast_by_hand(images):
    images[2] = 7                                   # without contrast
    flat = images.reshape(4, -1).astype(float)
    flat -= flat.mean(1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    expected = 55 * flat / np.where(norms == 0, 1, norms)
    found = np.asarray(contrast.normalize(images, 'global')).reshape(4, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [55, 55, 0, 55], rtol=1e-5)


def test_local_contrast_by_hand(images):
    """A window of 7x7 with the weights of a Gaussian of deviation 2, of which only what lies in the image counts."""
    def blurred(image):
        result = np.zeros_like(image)
        for y in range(9):
            for x in range(9):
                near = [(i, j) for i in range(9) for j in range(9) if max(abs(i - y), abs(j - x)) <= 3]
                weights = np.array([np.exp(-((i - y)**2 + (j - x)**2) / 8) for i, j in near])
                result[y, x] = sum(w * image[i, j] for w, (i, j) in zip(weights / weights.sum(), near))
        return result

    image = images[1].astype(float)
    centred = image - blurred(image)
    spread = np.sqrt(blurred(centred**2))
    expected = centred / np.maximum(spread, spread.mean((0, 1)))
    assert (spread < spread.mean((0, 1))).any() and (spread > spread.mean((0, 1))).any()
    np.testing.assert_allclose(contrast.normalize(images, 'local')[1], expected, rtol=1e-3, atol=1e-4)


def test_an_image_of_one_colour_has_no_local_contrast():
    found = np.asarray(contrast.normalize(np.full((1, 9, 9, 3), 200, np.uint8), 'local'))
    np.testing.assert_allclose(found, 0, atol=1)


def test_without_normalisation_pixels_stay(images):
    np.testing.assert_array_equal(contrast.normalize(images, 'none'), images.astype(np.float32))
