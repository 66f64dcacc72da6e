"""The kernels of a network: what is counted and measured of them, by hand, and how they are drawn."""
import json

import numpy as np
import pytest
from matplotlib import image

from lib.experiment import UsageError
from lib.visualize import MARGIN, SHARPNESS, activations, compare, kernels, pooling
from lib.visualize.kernels import Options
from tests.random_networks import SMALL, request


def test_colour_share_of_grey_coloured_and_random_kernels():
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.normal(size=(5, 5, 1, 1)), 3, axis=2)
    coloured = rng.normal(size=(5, 5, 3, 1))
    coloured -= coloured.mean(axis=2, keepdims=True)
    yellow = np.zeros((5, 5, 3, 1))
    yellow[2, 3, :2] = -0.7         # 2 (1 - 2/3)^2 + (2/3)^2 of 2
    both = grey + coloured
    found = kernels.colour_share(np.concatenate([grey, coloured, yellow, both, np.zeros((5, 5, 3, 1))], axis=3))
    share = np.square(coloured).sum() / (np.square(grey).sum() + np.square(coloured).sum())
    np.testing.assert_allclose(found, [0, 1, 1 / 3, share, 0], atol=1e-12)
    random = kernels.colour_share(rng.normal(scale=0.01, size=(11, 11, 3, 2000)).astype(np.float32))
    assert abs(random.mean() - 2 / 3) < 0.002 and (random > 0.5).mean() > 0.99


def test_kernels_of_one_channel_are_grey_and_have_no_colour(tmp_path):
    weights = np.random.default_rng(0).standard_normal((5, 5, 1, 6))
    assert 'no colour' in kernels.statement(kernels.measure(weights))
    kernels.draw(weights, 1, 'Kernels', [], tmp_path / 'kernels.png')
    drawn = image.imread(tmp_path / 'kernels.png')[..., :3]
    assert np.ptp(drawn, axis=2).max() < 0.01


def test_colour_is_measured_by_group_and_said_beside_that_of_random_kernels():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(5, 5, 3, 6))
    weights[..., :2] = weights[..., :2].mean(axis=2, keepdims=True)
    found = json.loads(json.dumps(kernels.measure(weights, groups=2)))
    first, second = (group['colour'] for group in found['groups'])
    np.testing.assert_allclose(first['of_each'] + second['of_each'], kernels.colour_share(weights))
    assert first['median'] == pytest.approx(0) and first['mean'] == pytest.approx(first['of_each'][2] / 3)
    assert (first['below'], second['below']) == (2, 0) and found['random']['colour'] == pytest.approx(2 / 3, abs=0.01)
    said = kernels.statement(found)
    assert f'group 1: 3 kernels, 0 dead, 0 near-duplicates, colour {first["mean"]:.2f} (0.66; 2 below)' in said
    assert 'group' not in kernels.statement(kernels.measure(weights))


def gabor(angle, period, side=11):
    y, x = np.mgrid[:side, :side] - side // 2
    wave = np.cos(2 * np.pi / period * (x * np.cos(angle) + y * np.sin(angle)))
    return wave * np.exp(-(x**2 + y**2) / 18)


def test_gratings_have_an_orientation_and_blobs_and_noise_have_none():
    y, x = np.mgrid[:11, :11] - 5
    blob, noise = np.exp(-(x**2 + y**2) / 8), np.random.default_rng(0).normal(size=(11, 11))
    pictures = [gabor(0, 5), gabor(1, 5), gabor(0, 5) + gabor(np.pi / 2, 5), blob, noise]
    weights = np.stack([np.repeat(one[:, :, None], 3, axis=2) for one in pictures], -1)
    wave, tilted, plaid, round_, random = kernels.orientation(weights)
    assert min(wave, tilted) > 0.8 and max(plaid, round_) < 0.05 and random < 0.3
    low, middle, high = kernels.bands(np.stack([np.ones((11, 11, 3)), weights[..., 0], gabor(0, 2.2)[..., None] +
                                                np.zeros(3)], -1))
    np.testing.assert_allclose(low + middle + high, 1)
    assert low[0] > 0.9 and middle[1] > 0.5 and high[2] > 0.8


def test_dead_kernels_and_near_duplicates_are_counted():
    weights = np.random.default_rng(1).normal(size=(5, 5, 3, 8))
    weights[..., 3] *= 1e-3
    weights[..., 5] = -2 * weights[..., 1] + 0.05 * weights[..., 0] + 3        # turned around, brighter
    weights[..., 7] = weights[..., 5]
    weights[..., 6] *= 100                      # of which the median takes no notice
    found = kernels.measure(weights, groups=2)
    assert [group['dead'] for group in found['groups']] == [[3], []]
    pairs = [(pair['kernel'], pair['earlier'], np.sign(pair['correlation'])) for group in found['groups']
             for pair in group['duplicates']]
    assert pairs == [(5, 1, -1), (7, 5, 1)]
    assert kernels.dead(weights, 1e-6) == [] and kernels.duplicates(weights, 1.0 + 1e-9) == []


@pytest.mark.parametrize('layer, said', [
    ('conv2', 'conv2: 4 kernels'), ('fc6', 'fc6: 8 kernels')])
def test_kernels_of_later_layers_are_shown_slice_by_slice(layer, said, tmp_path):
    asked = request('alexnet', 'quickstart', SMALL, layer=layer, unit=(1,))
    found, statement = kernels.look(asked, Options(), tmp_path / 'kernels.png')
    assert statement.startswith(said) and found['units'] == [1]
    weights, _ = kernels.of_layer(asked, layer)
    kernel = asked.network.params[layer]['kernel']
    assert weights.shape[-1] == kernel.shape[-1] and weights.size == kernel.size
    assert image.imread(tmp_path / 'kernels.png').std() > 0.05


def test_slices_of_a_table_of_connections_are_at_the_maps_they_read():
    asked = request('lenet5', 'paper')
    weights, _ = kernels.of_layer(asked, 'C3')
    connections = asked.network.params['C3']['kernel']
    assert weights.shape == (5, 5, 6, 16) and (weights != 0).any((0, 1)).sum() == connections.shape[-1] == 60
    np.testing.assert_array_equal(weights[:, :, 4, 1], 0)           # Table I: map 1 reads 1, 2 and 3
    np.testing.assert_array_equal(weights[:, :, [1, 2, 3], 1], connections[:, :, 3:6])


@pytest.mark.parametrize('layer', ['pool1', 'fc7'])
def test_layers_without_kernels_that_make_a_picture_are_refused(layer, tmp_path):
    with pytest.raises(UsageError, match='choose one of conv1, conv2, conv3, conv4, conv5, fc6.$'):
        kernels.look(request('alexnet', 'quickstart', SMALL, layer=layer), Options(), tmp_path / 'kernels.png')


def test_kernels_are_scaled_around_grey_and_set_apart_by_group(tmp_path):
    weights = np.zeros((11, 11, 3, 40), np.float32)     # a row of 16 and a row of 4 in each group
    weights[0, 0, :, 0] = 2.0
    weights[0, 0, :, 1], weights[1, 0, :, 1] = -0.5, 0.25
    weights[10, 10, 0, [16, 20]] = 1.0
    kernels.draw(weights, 2, 'Kernels', ['by hand'], tmp_path / 'kernels.png')
    picture = image.imread(tmp_path / 'kernels.png')[..., :3]
    grey = (abs(picture - 0.5) < 0.01).all(axis=2)     # zero, of which the kernels are full
    rows, columns = (np.nonzero(grey.sum(axis=axis) > 200)[0] for axis in (1, 0))
    top, below, left = rows[0], rows[np.diff(rows).argmax() + 1], columns[0]
    size = SHARPNESS * 6
    assert left == SHARPNESS * MARGIN and len(rows) == 4 * SHARPNESS * 66
    assert (picture[top:top + size, left:left + size] == 1).all()
    assert not grey[top + 2:top + size - 2, left + 142:left + 150].any()
    assert (picture[top + 1:top + size - 1, left + 141:left + 139 + size] == 0).all()
    assert abs(picture[top + size + 1:top + 2 * size - 1, left + 141:left + 139 + size] - 0.75).max() < 0.01
    for row in (top + SHARPNESS * 70, below):
        corner = picture[row + 10 * size + 1:row + 11 * size - 1, left + 10 * size + 1:left + 11 * size - 1]
        assert (corner[..., 0] == 1).all() and abs(corner[..., 1:] - 0.5).max() < 0.01


def test_groups_must_divide_the_kernels():
    with pytest.raises(ValueError, match='9 kernels do not make 2 equal groups'):
        kernels.measure(np.zeros((3, 3, 3, 9)), groups=2)


# ------------------------------------------------------------------------------------- two networks, maps, pools

def test_two_networks_are_compared_each_with_its_own_counts(tmp_path):
    asked = request('alexnet', 'quickstart', SMALL, other=request('lenet5', 'paper').network)
    asked.network.params['conv1']['kernel'][..., 2] = 0
    found, said = compare.look(asked, compare.Options(), tmp_path / 'compare.png')
    assert said.startswith('conv1: 11x11 at stride 4: of 4 kernels 1 dead and 0 near-duplicates')
    assert 'C1: 5x5 at stride 1: of 6 kernels 0 dead' in said
    assert [len(row) for row in found['table']['rows']] == [len(found['table']['columns'])] * 5
    with pytest.raises(UsageError, match='Name the network to compare with'):
        compare.look(request('lenet5', 'paper'), compare.Options(), tmp_path / 'compare.png')


def test_activations_are_those_of_the_layer_and_silent_maps_are_counted(tmp_path):
    asked = request('alexnet', 'quickstart', SMALL, layer='conv1', images=2)
    asked.network.params['conv1']['bias'][:] = [-1e6, 0, 500, 0]
    found, said = activations.look(asked, activations.Options(maps=3), tmp_path / 'activations.png')
    outputs = np.asarray(asked.activations('conv1', asked.judged.images))
    assert found['silent'] == (outputs.max((1, 2)) == 0).sum(1).tolist() and min(found['silent']) >= 1
    assert [best[0] for best in found['strongest']] == [2, 2] and 'conv1 has 4 maps of 11 x 11' in said
    one = asked.judged.images[:1]
    vector, _ = activations.look(request('alexnet', 'quickstart', SMALL, layer='fc7'), activations.Options(),
                                 tmp_path / 'vector.png')
    assert vector['size'] == [8] and one.shape == (1, 48, 48, 3)


def test_what_pooling_keeps_is_the_squared_correlation_with_what_is_spread_out_again():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 9, 3))
    assert pooling.kept(x, 5 - 2 * x) == pytest.approx(1) and pooling.kept(x, np.ones_like(x)) == 0
    other = rng.normal(size=x.shape)
    each = [np.corrcoef(x[i, ..., c].ravel(), other[i, ..., c].ravel())[0, 1]**2 for i in range(2) for c in range(3)]
    assert pooling.kept(x, other) == pytest.approx(np.mean(each))


def test_pooled_pictures_are_spread_out_again():
    x = np.zeros((1, 6, 6, 1), np.float32)
    x[0, 0, 0] = 1
    small, again = pooling.pooled(x, pooling.KINDS['max'], pooling.Options(size=2, stride=2, times=1))
    np.testing.assert_array_equal(small[0, ..., 0], [[1, 0, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(again[0, ..., 0], np.kron(small[0, ..., 0], np.ones((2, 2))))
    _, again = pooling.pooled(x, pooling.KINDS['average'], pooling.Options(size=3, stride=2, times=1))
    np.testing.assert_allclose(again[0, :3, :3, 0], np.array([[1, 1, .5], [1, 1, .5], [.5, .5, .25]]) / 9, rtol=1e-6)


def test_pooling_says_how_the_three_differ_and_refuses_what_is_too_small(tmp_path):
    found, said = pooling.look(request('lenet5', 'paper'), pooling.Options(), tmp_path / 'pooling.png')
    means = [float(row[1]) for row in found['table']['rows']]
    none, largest, average, smallest = means
    assert largest > average > smallest and abs(average - none) < 5 and 'max pooling keeps' in said
    with pytest.raises(UsageError, match='too small for 2 poolings of 3'):
        pooling.look(request('lenet5', 'paper', layer='S4'), pooling.Options(), tmp_path / 'pooling.png')
    with pytest.raises(UsageError, match='has no places'):
        pooling.look(request('lenet5', 'paper', layer='F6'), pooling.Options(), tmp_path / 'pooling.png')
