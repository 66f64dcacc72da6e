"""Every layer against a literal loop or a sum by hand."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from lib import layers
from lib.experiment import UsageError


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('size, kernel, stride, padding, rounding, expected', [
    (224, 11, 4, 0, 'ceil', 55), (224, 11, 4, 0, 'floor', 54), (227, 11, 4, 0, 'floor', 55),
    (224, 11, 4, 2, 'floor', 55), (55, 3, 2, 0, 'ceil', 27), (27, 3, 2, 0, 'ceil', 13), (13, 3, 2, 0, 'ceil', 6),
    (32, 3, 2, 0, 'ceil', 16), (32, 3, 2, 0, 'floor', 15), (24, 3, 2, 0, 'ceil', 12), (27, 5, 1, 2, 'ceil', 27),
    (2, 1, 3, 1, 'ceil', 1)])   # Caffe drops the window that would begin in the right border
def test_output_size(size, kernel, stride, padding, rounding, expected):
    assert layers.output_size(size, kernel, stride, padding, rounding) == expected


def test_window_larger_than_image_is_refused():
    with pytest.raises(UsageError, match='data.image_size'):
        layers.output_size(5, 11, 4)


def test_convolution_overhangs_by_zeros_at_bottom_and_right():
    x, module = random(1, 24, 24, 3), layers.Conv(3, 4, 11, stride=4, rngs=nnx.Rngs(params=0))
    wide = np.pad(x, ((0, 0), (0, 3), (0, 3), (0, 0)))
    expected = lax.conv_general_dilated(wide, module.kernel[...], (4, 4), 'VALID',
                                        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    assert expected.shape == (1, 5, 5, 4)
    np.testing.assert_allclose(module(x), expected, atol=1e-6)


def test_groups_read_their_own_maps_only():
    x, kernel = random(2, 5, 5, 4), random(3, 3, 2, 6)
    padding = ((1, 1), (1, 1))
    halves = [layers.convolution(x[..., 2 * g:2 * g + 2], kernel[..., 3 * g:3 * g + 3], 1, padding) for g in (0, 1)]
    np.testing.assert_allclose(layers.grouped_convolution(x, kernel, 1, padding, 2), np.concatenate(halves, -1),
                               atol=1e-5)


def test_local_response_norm_is_the_papers_formula():
    x, n, k, alpha, beta = 10 * random(2, 3, 3, 8), 5, 2.0, 1e-2, 0.75
    expected = np.empty_like(x)
    for i in range(8):
        around = x[..., max(0, i - n // 2):min(7, i + n // 2) + 1]
        expected[..., i] = x[..., i] / (k + alpha * (around**2).sum(-1))**beta
    np.testing.assert_allclose(layers.local_response_norm(x, n, k, alpha, beta), expected, rtol=1e-5)


def test_local_response_norm_stays_within_its_group():
    x = 10 * random(2, 3, 3, 8)
    halves = [layers.local_response_norm(half, alpha=1e-2) for half in (x[..., :4], x[..., 4:])]
    np.testing.assert_allclose(layers.local_response_norm(x, alpha=1e-2, groups=2), np.concatenate(halves, -1),
                               rtol=1e-6)


@pytest.mark.parametrize('beta', [0.75, 0.5])
def test_same_map_response_norm_against_a_loop(beta):
    x, expected = 10 * random(1, 4, 5, 2), np.empty((1, 4, 5, 2))
    for r in range(4):
        for c in range(5):
            around = x[:, max(0, r - 1):r + 2, max(0, c - 1):c + 2]
            expected[:, r, c] = x[:, r, c] / (1 + 1e-2 * (around**2).sum((1, 2)))**beta
    np.testing.assert_allclose(layers.same_map_response_norm(x, 3, 1.0, 1e-2, beta), expected, rtol=1e-5)


def pool_by_loop(x, gradient, size, stride, padding, rounding):
    """Values, and the gradient given to the first maximum of every window."""
    rows, columns = (layers.output_size(s, size, stride, padding, rounding) for s in x.shape[1:3])
    values, back = np.empty((x.shape[0], rows, columns, x.shape[3])), np.zeros(x.shape)
    for n, r, c, m in np.ndindex(values.shape):
        places = [(i, j) for i in range(r * stride - padding, r * stride - padding + size)
                  for j in range(c * stride - padding, c * stride - padding + size)
                  if 0 <= i < x.shape[1] and 0 <= j < x.shape[2]]
        first = max(places, key=lambda place: x[n, *place, m])
        values[n, r, c, m] = x[n, *first, m]
        back[n, *first, m] += gradient[n, r, c, m]
    return values, back


@pytest.mark.parametrize('size, stride, padding, rounding', [
    (3, 2, 0, 'ceil'), (3, 2, 0, 'floor'), (2, 2, 0, 'ceil'), (3, 1, 1, 'ceil'), (3, 3, 0, 'ceil'), (2, 3, 0, 'ceil'),
    (5, 3, 2, 'floor')])
@pytest.mark.parametrize('shape', [(2, 7, 8, 3), (1, 6, 5, 2)])
@pytest.mark.parametrize('kind', ['different', 'ties', 'constant'])
def test_max_pool_values_and_first_maximum(size, stride, padding, rounding, shape, kind):
    x = {'different': random(*shape), 'ties': np.round(random(*shape)), 'constant': np.ones(shape, np.float32)}[kind]
    values, pull = jax.vjp(lambda x: layers.max_pool(x, size, stride, padding, rounding), x)
    gradient = random(*values.shape, seed=1)
    expected, back = pool_by_loop(x, gradient, size, stride, padding, rounding)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_allclose(pull(gradient)[0], back, atol=1e-6)


def test_max_pool_passes_on_what_is_not_a_number():
    x = np.ones((1, 3, 3, 1), np.float32)
    x[0, 1, 1, 0] = np.nan
    assert np.isnan(layers.max_pool(x, 3, 2)).all()


def test_min_pool_is_the_smallest_and_its_first_owner():
    x = np.round(random(1, 5, 5, 2))
    values, pull = jax.vjp(lambda x: layers.min_pool(x, 3, 2), x)
    gradient = random(*values.shape, seed=1)
    expected, back = pool_by_loop(-x, gradient, 3, 2, 0, 'ceil')
    np.testing.assert_array_equal(values, -expected)
    np.testing.assert_allclose(pull(gradient)[0], back, atol=1e-6)


def test_average_pool_divides_a_clipped_window_by_its_clipped_area():
    x = random(1, 4, 4, 1)
    pooled = layers.average_pool(x, 3, 2)
    assert pooled.shape == (1, 2, 2, 1)
    np.testing.assert_allclose(pooled[0, :, :, 0], [[x[0, :3, :3].mean(), x[0, :3, 2:].mean()],
                                                    [x[0, 2:, :3].mean(), x[0, 2:, 2:].mean()]], rtol=1e-5)


def test_average_pool_leaves_padding_out():
    np.testing.assert_allclose(layers.average_pool(np.ones((1, 5, 5, 2), np.float32), 3, 2, 1), 1, rtol=1e-6)


def test_local_layer_has_weights_of_its_own_at_every_place():
    module = layers.Local(4, 2, 5, 3, padding=1, rngs=nnx.Rngs(params=0))
    module.bias[...] = jnp.asarray(random(4, 4, 5, seed=2))
    x = random(2, 4, 4, 2)
    padded, kernel = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), np.asarray(module.kernel[...])
    expected = np.empty((2, 4, 4, 5))
    for r in range(4):
        for c in range(4):
            window = padded[:, r:r + 3, c:c + 3].reshape(2, -1)
            expected[:, r, c] = window @ kernel[r, c] + module.bias[...][r, c]
    np.testing.assert_allclose(module(x), expected, atol=1e-5)


def test_dropout_keeps_half_in_training_and_scales_at_test_time():
    x = np.ones((100, 100), np.float32)
    kept = layers.dropout(x, 0.3, jax.random.key(0))
    assert set(np.unique(kept)) == {0, 1}
    assert abs(kept.mean() - 0.7) < 0.02
    np.testing.assert_allclose(layers.dropout(x, 0.3, None), 0.7, rtol=1e-6)


def test_initial_weights_have_the_stated_deviation():
    key, shape = jax.random.key(0), (100, 1000)
    assert abs(float(layers.normal(0.01)(key, shape, 100).std()) - 0.01) < 1e-4
    assert abs(float(layers.scaled(2.0)(key, shape, 50).std()) - 0.2) < 2e-3
