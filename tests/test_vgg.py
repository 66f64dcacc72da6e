"""VGG: counts and sizes as assertions, its recipes, where they start, dense evaluation, placement, and its tables."""
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lib import layers, trained
from lib import mesh as meshes
from lib.data.statistics import Statistics
from lib.experiment import Data, Optimizer, UsageError, change, diff, in_words
from lib.task import count
from lib.trained import Trained
from reproductions.vgg import paper
from reproductions.vgg.experiments import EXPERIMENTS, FROM_A, PAPER
from reproductions.vgg.model import CONFIGURATIONS, Model, build, convolutions
from tests import networks

COLUMNS = {name: column for column, name in paper.EXPERIMENT.items()}


def shapes(experiment):
    return networks.shapes(build, experiment)


# Counts

@pytest.mark.parametrize('name', paper.COUNTS)
def test_parameters_sizes_and_multiply_adds_are_those_of_table_1(name):
    counts, params = paper.COUNTS[name], shapes(EXPERIMENTS[name])
    assert {layer: count({layer: own}) for layer, own in params.items()} == counts.parameters
    assert count(params) == sum(counts.parameters.values()) == counts.total == paper.TOTALS[COLUMNS[name]]
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    found = jax.eval_shape(build(EXPERIMENTS[name]).activations, params, image)
    sizes = {layer: maps.shape[1:] for layer, maps in found.items() if layer != 'norm1'}
    assert list(sizes.items()) == list(counts.sizes.items())
    assert ('norm1' in found) == (name == 'A_LRN')
    weights = {layer: math.prod(own['kernel'].shape) for layer, own in params.items()}
    assert sum(math.prod(sizes[layer][:-1]) * own for layer, own in weights.items()) == counts.multiply_adds
    assert round(counts.total / 1e6) == paper.MILLIONS[COLUMNS[name]]
    assert len(params) == paper.WEIGHT_LAYERS[COLUMNS[name]]


def test_parameters_of_d_by_layer_and_of_the_shallow_network():
    assert paper.COUNTS['paper'].parameters == paper.PARAMETERS_D
    assert count(shapes(EXPERIMENTS['B_5x5'])) == paper.TOTAL_5X5


@pytest.mark.parametrize('name', paper.COUNTS)
def test_receptive_field_of_the_last_maps(name):
    params, field, stride = shapes(EXPERIMENTS[name]), 1, 1
    for layer in paper.COUNTS[name].sizes:
        if layer.startswith('conv'):
            field += (params[layer]['kernel'].shape[0] - 1) * stride
        elif layer.startswith('pool'):
            field, stride = field + stride, 2 * stride
    assert (field, stride) == (paper.COUNTS[name].receptive_field, 32)


def test_the_shallow_network_sees_as_far_as_b():
    def seen(configuration):
        return [sum(window - 1 for window in windows) for windows in CONFIGURATIONS[configuration]]
    assert seen('B_5x5') == seen('B') == [4] * 5


# Recipes

def small(experiment, **model):
    """The same experiment with few maps, units and classes, and images of 32 pixels, whose last maps are of one."""
    own = dict(widths=(4, 4, 6, 6, 8), fc_width=16, classes=10) | model
    experiment = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, **own), batch_size=8)
    return change(change(experiment, 'data.image_size', 32), 'data.crop_scales', (36, 48))


def begin_with(experiment, **model):
    return jax.jit(build(small(experiment, **model)).init)(jax.random.key(0))


def two_steps(experiment):
    return networks.two_steps(build, small(experiment), 40)


@pytest.fixture(scope='module')
def paper_steps():
    return two_steps(PAPER)


LIKE_OTHERS = {'C_384', 'E_384', 'C_jitter', 'D_jitter', 'torchvision_B', 'torchvision_D', 'torchvision_E'}


@pytest.mark.parametrize('name', [pytest.param(name, marks=pytest.mark.slow) if name in LIKE_OTHERS else name
                                  for name in EXPERIMENTS if name != 'paper'])
def test_every_experiment_trains_and_differs_from_the_paper(name, paper_steps):
    experiment = EXPERIMENTS[name]
    assert experiment is EXPERIMENTS[experiment.published] or diff(experiment, EXPERIMENTS[experiment.published])
    assert two_steps(experiment) != paper_steps


def test_the_recipe_is_that_of_section_3():
    published = Optimizer(learning_rate=0.01, momentum=0.9, weight_decay=5e-4, schedule='plateau', drop_factor=10,
                          drops=3)
    seen = Data(source='imagenet2012', image_size=224, mean='channel', crop='random', reflect=True, color_noise=0.1)
    for name in ('paper', 'A', 'A_LRN', 'B', 'B_5x5', 'C', 'E', 'D_glorot', 'A_glorot'):
        recipe = EXPERIMENTS[name]
        assert (recipe.batch_size, recipe.epochs, recipe.model.dropout) == (256, 74, 0.5)
        assert recipe.optimizer == published and recipe.data == dataclasses.replace(seen, resize=256)
    assert 370_000 * 256 / paper.IMAGES == pytest.approx(74, abs=0.1)
    for configuration in 'CDE':
        fixed, jitter = EXPERIMENTS[f'{configuration}_384'], EXPERIMENTS[f'{configuration}_jitter']
        assert fixed.data == dataclasses.replace(seen, resize=384)
        assert jitter.data == dataclasses.replace(seen, resize=512, crop='scaled', crop_scales=(256, 512))
        assert fixed.optimizer == jitter.optimizer == dataclasses.replace(published, learning_rate=0.001)


def test_initial_weights():
    for layer, values in begin_with(EXPERIMENTS['A'], widths=(16,) * 5, fc_width=64).items():
        assert not np.any(values['bias']), layer
        assert abs(float(values['kernel'].std()) / 0.1 - 1) < 0.2, layer
    assert {EXPERIMENTS[name].model.deviation for name in ('A', 'A_LRN', 'B', 'B_5x5', 'C', 'paper', 'E')} == {0.1}
    assert EXPERIMENTS['A_small_weights'].model.deviation == 0.01
    params = begin_with(EXPERIMENTS['A_glorot'], widths=(16,) * 5, fc_width=64)
    assert not any(np.any(values['bias']) for values in params.values())
    for layer, fans in (('conv1_1', 9 * (3 + 16)), ('conv3_2', 9 * (16 + 16)), ('fc6', 16 + 64), ('fc8', 64 + 10)):
        kernel = params[layer]['kernel']
        assert float(kernel.var()) == pytest.approx(2 / fans, rel=0.15), layer
        assert 0.95 < float(jnp.abs(kernel).max()) / (6 / fans) ** 0.5 <= 1, layer


def test_glorots_fans_of_a_rectangular_layer():
    kernel = layers.glorot()(jax.random.key(0), (3, 3, 10, 50), 90)
    assert float(kernel.std()) == pytest.approx((2 / (90 + 450)) ** 0.5, rel=0.03)


# Where trainings start

def source(name):
    experiment = small(EXPERIMENTS[name])
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), shapes(experiment))
    nothing = Statistics(*(np.zeros(0, np.float32),) * len(Statistics._fields))
    return Trained(name, experiment, build(experiment), params, nothing, f'a run of {name}', None, 0, 0.0, None)


def begin(name, start):
    experiment = small(EXPERIMENTS[name])
    return trained.beginning(source(start), build(experiment), experiment)


@pytest.mark.parametrize('name', ['B', 'C', 'paper', 'E'])
def test_deeper_networks_take_four_convolutions_and_the_last_three_layers_of_a(name):
    taken, new, left = begin(name, 'A')
    assert tuple(taken) == FROM_A == ('conv1_1', 'conv2_1', 'conv3_1', 'conv3_2', 'fc6', 'fc7', 'fc8')
    assert FROM_A[:4] == tuple(convolutions('A'))[:4]
    assert sorted([*taken, *new]) == sorted(shapes(EXPERIMENTS[name]))
    assert left == ['conv4_1', 'conv4_2', 'conv5_1', 'conv5_2']
    np.testing.assert_array_equal(taken['conv3_2']['kernel'], source('A').params['conv3_2']['kernel'])
    with pytest.raises(UsageError, match='starts from a run of A'):
        begin(name, 'A_LRN')


@pytest.mark.parametrize('configuration', 'CDE')
def test_larger_scales_go_on_from_smaller_ones_with_every_layer(configuration):
    first = 'paper' if configuration == 'D' else configuration
    for name, start in ((f'{configuration}_384', first), (f'{configuration}_jitter', f'{configuration}_384')):
        taken, new, left = begin(name, start)
        assert set(taken) == set(shapes(EXPERIMENTS[name])) and (new, left) == ([], [])
        with pytest.raises(UsageError, match=f'starts from a run of {start}'):
            begin(name, 'A')


def test_layers_to_start_with_that_are_missing_or_do_not_fit_are_refused():
    start = source('A')

    def begin(*layers, **model):
        experiment = dataclasses.replace(small(EXPERIMENTS['B'], **model), starts_with=layers)
        return trained.beginning(start, build(experiment), experiment)

    for layer in ('conv1_2', 'conv9_9'):        # in B only, in neither
        with pytest.raises(UsageError, match=f'starts_with names {layer}: name layers that are both here and in a run'):
            begin('conv1_1', layer)
    with pytest.raises(UsageError, match='fc6 has a bias of 16 .* and a bias of 12 .* here'):
        begin('conv1_1', 'fc6', fc_width=12)
    taken, new, left = begin('conv1_1', fc_width=12)
    assert list(taken) == ['conv1_1'] and 'fc6' in new and 'fc6' in left
    taken, new, _ = begin('fc7', 'fc8', classes=5)
    assert list(taken) == ['fc7'] and 'fc8' in new


# Dense evaluation

DENSE = small(PAPER, configuration='A', init='glorot')


def test_dense_on_an_image_of_the_size_of_training_is_the_network():
    experiment = change(DENSE, 'data.image_size', 64)       # so that fc6 reads 2x2 places
    task = build(experiment)
    params, x = jax.jit(task.init)(jax.random.key(0)), 50 * jax.random.normal(jax.random.key(1), (2, 64, 64, 3))
    found, expected = jax.jit(task.dense)(params, x), jax.jit(task.predict)(params, x)
    assert float(expected.max() - expected.min()) > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    with pytest.raises(UsageError, match='too small for a dense evaluation: set evaluation.scales'):
        jax.eval_shape(task.dense, params, x[:, :32, :32])


def test_devices_change_nothing():
    gradient = networks.loss_and_gradient_on('data:2,model:2', build(small(EXPERIMENTS['A_LRN'], init='glorot')), DENSE)
    assert gradient['conv1_1']['kernel'].sharding.shard_shape((3, 3, 3, 4)) == (3, 3, 3, 2)


def test_devices_change_nothing_in_a_dense_evaluation():
    task, mesh = build(DENSE), meshes.make('data:2,model:2')
    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: a.astype(jnp.float64), jax.jit(task.init)(jax.random.key(0)))
        x = 50 * jax.random.normal(jax.random.key(1), (4, 64, 96, 3), jnp.float64)
        alone = jax.jit(task.dense)(params, x)
        with jax.set_mesh(mesh):
            placed = jax.device_put(params, meshes.placement(params, mesh))
            together = jax.jit(task.dense)(placed, jax.device_put(x, meshes.images(mesh)))
    alone, together = np.asarray(alone), np.asarray(together)
    assert np.abs(alone - 1 / 10).max() > 0.01
    np.testing.assert_allclose(together, alone, rtol=1e-12)


# Tables

def rows(*tables):
    return [row for table in tables or paper.TABLES for row in table.rows]


def test_every_row_names_experiments_that_exist():
    named = {name for row in rows() for name in (row.experiment, row.minus, *row.members) if name}
    assert sorted((named | set(paper.SEEN) | set(paper.COUNTS)) - set(EXPERIMENTS)) == []


def test_table_3_is_measured_as_its_experiments_are_by_themselves():
    for row in paper.TABLE_3.rows:
        assert row.protocol == EXPERIMENTS[row.experiment].evaluation.protocol
        data = EXPERIMENTS[row.experiment].data
        lowest, highest = data.crop_scales if data.crop == 'scaled' else (data.resize, data.resize)
        assert row.protocol == f'dense@{(lowest + highest) // 2}'


def test_three_scales_lie_around_that_of_training():
    for row in paper.TABLE_4.rows:
        data = EXPERIMENTS[row.experiment].data
        lowest, highest = data.crop_scales if data.crop == 'scaled' else (data.resize - 32, data.resize + 32)
        assert row.protocol == f'dense@{lowest}+{(lowest + highest) // 2}+{highest}'


def test_every_protocol_can_be_asked_for():
    for row in (row for row in rows() if row.protocol):
        crops, _, scales = row.protocol.partition('@')
        sides = tuple(int(side) for side in scales.split('+')) if scales else ()
        evaluation = dataclasses.replace(PAPER.evaluation, crops=crops, scales=sides)
        assert evaluation.protocol == row.protocol and in_words(row.protocol)


def test_a_row_counts_the_trainings_that_its_network_started_from():
    def before(name):
        start = EXPERIMENTS[name].starts_from
        return 0 if start is None else before(start) + EXPERIMENTS[start].epochs * paper.IMAGES

    for row in rows(*paper.TABLES[:-1]):
        if not row.why:
            assert row.pretraining == sum(before(name) for name in row.members or
                                          filter(None, (row.experiment, row.minus))), row.name


def test_top_5_is_below_top_1_and_more_looks_are_no_worse():
    for row in rows():
        if len(row.values) > 1 and None not in row.values[:2]:
            assert row.values[1] < row.values[0]
    one = {row.experiment: row.values for row in paper.TABLE_3.rows}
    for row in paper.TABLE_4.rows:
        assert row.values <= one[row.experiment]
    dense = {row.experiment: row.values for row in paper.TABLE_4.rows}
    assert all(row.values == dense[row.experiment] for row in paper.TABLE_5.rows if row.protocol == paper.WIDE)


def test_parameters_of_rows_are_those_of_their_networks():
    for row in rows():
        if row.parameters:
            assert row.parameters == count(shapes(EXPERIMENTS[row.experiment])), row.name


@pytest.mark.parametrize('change, sentence', [
    (dict(dropout=1.0), 'model.dropout=1.0 must'), (dict(deviation=0.0), 'model.deviation=0.0 must'),
    (dict(widths=(1, 1, 0, 1, 1)), 'model.widths must be at least 1')])
def test_impossible_models_are_refused(change, sentence):
    with pytest.raises(UsageError, match=sentence):
        Model(**change)
