"""Deconvnet and guided projections against numbers worked by hand."""
import collections

import jax
import numpy as np
import pytest
from matplotlib import image

from lib import backward, layers
from lib.backward import DECONVNET, GRADIENT, GUIDED
from lib.experiment import UsageError
from lib.visualize import deconvnet
from lib.visualize.deconvnet import Options
from tests.random_networks import SMALL, request

# A network of two layers by hand, on 4 x 4 pixels: a 1x1 convolution with weights 1 and -1 and a ReLU, 2x2 max pooling,
# and a sum with weights 3 and -2 over the two maps of a place, with a ReLU.
PIXELS = np.array([[2, 2, -1, -5],
                   [1, 2, -4, -3],
                   [0, 6, 1, -2],
                   [5, 6, -2, 1]], np.float32)
#   maps of conv1: PIXELS and -PIXELS where they are positive
#   pool1 of the first:   2 at (0, 0), the first of three | 0, the four are silent
#                         6 at (2, 1), the first of two   | 1 at (2, 2), the first of two
#   pool1 of the second:  0, the four are silent          | 5 at (0, 3)
#                         0, the four are silent          | 2 at (2, 3), the first of two
#   conv2, 3 a - 2 b:     6 | -10, silent;  18 | 3 - 4 = -1, silent


def activations(params, x):
    conv1 = layers.relu(x @ params['conv1'])
    pool1 = layers.max_pool(conv1, 2, 2)
    return collections.OrderedDict(conv1=conv1, pool1=pool1, conv2=layers.relu(pool1 @ params['conv2']))


PARAMS = {'conv1': np.array([[1, -1]], np.float32), 'conv2': np.array([[3], [-2]], np.float32)}


def project(rule, layer, signal):
    pixels = PIXELS[None, :, :, None]
    return np.asarray(backward.project(activations, layer, rule, PARAMS, pixels, np.float32(signal)))[0, :, :, 0]


def place(row, column, value, maps=1):
    signal = np.zeros((1, 2, 2, maps), np.float32)
    signal[0, row, column] = value
    return signal


def test_the_network_is_the_one_worked_by_hand():
    found = activations(PARAMS, PIXELS[None, :, :, None])
    np.testing.assert_array_equal(found['pool1'][0], [[[2, 0], [0, 5]], [[6, 0], [1, 2]]])
    np.testing.assert_array_equal(found['conv2'][0, :, :, 0], [[6, 0], [18, 0]])


def test_the_first_maximum_owns_the_switch_and_negative_signals_end_at_a_relu():
    # 18 at (1, 0): 54 to the first map, whose switch is (2, 1), the first 6 in its row; -36 to the second, which ends.
    expected = np.zeros((4, 4))
    expected[2, 1] = 54
    np.testing.assert_array_equal(project(DECONVNET, 'conv2', place(1, 0, 18)), expected)
    # 2 and 2 are equal in the first row, and again in the second: the first in order owns the switch.
    expected = np.zeros((4, 4))
    expected[0, 0] = 7
    np.testing.assert_array_equal(project(DECONVNET, 'pool1', place(0, 0, [7, 0], maps=2)), expected)


def test_the_rules_differ_where_a_unit_is_silent_or_a_signal_negative():
    # Signal 4 at (0, 1), where conv2 is silent: the deconvnet passes it, 12 to the first map, whose four entries are
    # silent and the switch the first of these, and -8 to the second, which ends. The others end at once.
    expected = np.zeros((4, 4))
    expected[0, 2] = 12
    np.testing.assert_array_equal(project(DECONVNET, 'conv2', place(0, 1, 4)), expected)
    np.testing.assert_array_equal(project(GUIDED, 'conv2', place(0, 1, 4)), 0)
    np.testing.assert_array_equal(project(GRADIENT, 'conv2', place(0, 1, 4)), 0)
    # Signals 4 and -3 at the two maps of pool1 (1, 1), which are 1 at (2, 2) and 2 at (2, 3): down to conv1 the
    # gradient passes both, times 1 and -1; the others the first alone.
    down = place(1, 1, [4, -3], maps=2)
    expected = np.zeros((4, 4))
    expected[2, 2] = 4
    np.testing.assert_array_equal(project(DECONVNET, 'pool1', down), expected)
    np.testing.assert_array_equal(project(GUIDED, 'pool1', down), expected)
    expected[2, 3] = 3
    np.testing.assert_array_equal(project(GRADIENT, 'pool1', down), expected)


@pytest.mark.parametrize('normalise', [
    lambda x: layers.local_response_norm(x, n=3, k=1, alpha=0.5, beta=0.75),
    lambda x: layers.same_map_response_norm(x, n=3, k=1, alpha=0.5, beta=0.75)])
def test_response_normalisation_lets_the_signal_pass_unchanged_in_a_deconvnet_alone(normalise):
    rng = np.random.default_rng(0)
    x, signal = (rng.normal(size=(2, 4, 4, 6)).astype(np.float32) for _ in range(2))

    def normalised(params, x):
        return {'norm1': normalise(x)}

    np.testing.assert_allclose(normalised({}, x)['norm1'], normalise(x))
    with backward.under(DECONVNET):
        np.testing.assert_allclose(normalise(x), jax.jit(normalise)(x), rtol=1e-6)     # the values stay normalised
    np.testing.assert_array_equal(backward.project(normalised, 'norm1', DECONVNET, {}, x, signal), signal)
    plain = backward.project(normalised, 'norm1', GRADIENT, {}, x, signal)
    assert abs(np.asarray(plain) - signal).max() > 0.1
    np.testing.assert_array_equal(backward.project(normalised, 'norm1', GUIDED, {}, x, signal), plain)


def test_a_projection_is_the_activation_alone_brought_down_to_the_pixels():
    changes = (*SMALL, 'data.image_size=64', 'data.resize=64')      # wider than the field
    asked = request('alexnet', 'quickstart', changes, images=4, layer='conv2', unit=(1,))
    numbers, ((down, seen),) = deconvnet.measure(asked, Options(count=3))
    field = asked.geometry['conv2']

    def outputs(pixels):
        with backward.under(DECONVNET):
            return asked.network.task.activations(asked.params, asked.enter(pixels))['conv2']

    bring = jax.jit(lambda pixels, signal: jax.vjp(outputs, pixels)[1](signal)[0])
    assert len(down) == len(seen) == len(numbers['found'][0]['patches']) > 0
    for one, patch in zip(down, numbers['found'][0]['patches']):
        pixels = asked.pixels(asked.judged, np.array([patch['image']])).astype(np.float32)
        found = asked.activations('conv2', pixels)
        assert found[0, patch['row'], patch['column'], 1] == found[0, ..., 1].max() > 0
        signal = np.zeros(found.shape, np.float32)
        signal[0, patch['row'], patch['column'], 1] = patch['activation']
        whole = np.asarray(bring(pixels, signal))[0]
        corner = [field.start + field.jump * i for i in (patch['row'], patch['column'])]
        expected = np.zeros_like(one)
        for i, j in np.ndindex(one.shape[:2]):
            row, column = corner[0] + i, corner[1] + j
            if 0 <= row < asked.size and 0 <= column < asked.size:
                expected[i, j] = whole[row, column]
        np.testing.assert_allclose(one, expected, atol=1e-4 * abs(whole).max())
        assert np.abs(whole).sum() == pytest.approx(np.abs(one).sum(), rel=1e-4)       # nothing lies outside the field


@pytest.mark.parametrize('rule', ['deconvnet', 'guided'])
def test_a_network_without_relus_is_refused_in_one_sentence(rule, tmp_path):
    asked = request('lenet5', 'paper', layer='C3')
    with pytest.raises(UsageError, match=f'no ReLUs, through which a {rule} .* --set deconvnet.rule=gradient') as error:
        deconvnet.look(asked, Options(rule=rule), tmp_path / 'refused.png')
    assert str(error.value).count('. ') == 0 and not list(tmp_path.iterdir())


def test_the_gradient_of_a_network_without_relus_is_drawn_in_grey(tmp_path):
    asked = request('lenet5', 'paper', layer='C3', unit=(0, 5))
    numbers, said = deconvnet.look(asked, Options(rule='gradient', count=2), tmp_path / 'down.png')
    assert said.startswith('Gradients of the 2 greatest activations of 2 units of C3 in 3 images')
    assert [row[0] for row in numbers['table']['rows']] == [0, 5]
    drawn = image.imread(tmp_path / 'down.png')[..., :3]
    left = drawn[:, :drawn.shape[1] // 3]
    assert np.ptp(left, axis=2).max() < 0.01 and ((left > 0.1) & (left < 0.4)).mean() > 0.01


def test_projections_that_nothing_comes_down_to_are_counted_and_said(tmp_path):
    asked = request('lenet5', 'paper', layer='F6', unit=(0, 1))
    asked.network.params['F6']['bias'][0] = 1e3         # its tanh is flat there
    numbers, said = deconvnet.look(asked, Options(rule='gradient', count=2), tmp_path / 'down.png')
    assert [unit['blank'] for unit in numbers['found']] == [2, 0]
    assert ' 2 projections are blank: no signal comes down' in said


def test_likeness_is_the_mean_cosine_of_pairs():
    one = np.array([1.0, -1, 0, 0])
    assert deconvnet.resemblance([one, 2 * one + 5]) == pytest.approx(1)
    assert deconvnet.resemblance([one, one, -one]) == pytest.approx(-1 / 3)
    assert deconvnet.resemblance([one]) is None and deconvnet.resemblance([one, 0 * one]) is None
