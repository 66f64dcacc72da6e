import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lib.data import affine

KEY = jax.random.key(0)
ONE, MANY = jax.jit(affine._deform), jax.jit(affine.deform, static_argnums=2)


def gradient(side=9):
    """An image whose value is a different linear function of row and column in each channel, so that interpolation is
    exact within it."""
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    return np.stack([rows, columns, 3 * rows + 5 * columns], axis=2)


def deformed(image, down=0.0, right=0.0, scale=0.0, squeeze=0.0, shear=0.0):
    return np.asarray(ONE(jnp.asarray(image), jnp.array([down, right, scale, squeeze, shear])))


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
        changes = np.asarray(MANY(KEY, jnp.asarray(images), limits)) - images
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
