"""ZFNet's counts, sizes, tables and recipes as assertions, its training in small, and imgclsmob's weights."""
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lib import mesh as meshes
from lib import train, trained
from lib.data.statistics import Statistics
from lib.experiment import UsageError, change_all, diff
from lib.importers import Saved
from lib.tables import Table
from lib.task import count
from lib.trained import Trained
from reproductions.zfnet import paper
from reproductions.zfnet.experiments import EXPERIMENTS, FEATURES, PAPER, WIDE
from reproductions.zfnet.model import KRIZHEVSKY, ZFNET, Conv, Dense, Model, Norm, Pool, ZFNet, build, changed
from reproductions.zfnet.weights import NAMES, convert
from tests import networks

# ----------------------------------------------------------------------------------------------- counts and sizes


def shapes(experiment):
    return networks.shapes(build, experiment)


def test_parameters_of_every_layer_of_figure_3():
    assert {layer: count({layer: params}) for layer, params in shapes(PAPER).items()} == paper.PARAMETERS
    assert sum(paper.PARAMETERS.values()) == 62_357_608 and sum(paper.WIDE_PARAMETERS.values()) == 107_627_624


@pytest.mark.parametrize('name, total', (paper.TOTALS | {
    'krizhevsky_two_groups': paper.TWO_GROUPS_TOTAL, 'imgclsmob': 62_357_608, 'imgclsmob_b': 107_627_624}).items())
def test_parameters_of_all_architectures(name, total):
    assert count(shapes(EXPERIMENTS[name])) == total


def test_all_architectures_of_table_3_grow_out_of_two_tuples():
    """The layers that are there and their widths, as the table words them."""
    def described(name):
        return {layer.name: layer.width for layer in EXPERIMENTS[name].model.layers if isinstance(layer, (Conv, Dense))}

    base = described('paper')
    assert base == described('krizhevsky') == {
        'conv1': 96, 'conv2': 256, 'conv3': 384, 'conv4': 384, 'conv5': 256, 'fc6': 4096, 'fc7': 4096}
    for name, gone in {'krizhevsky_without_3_4': ('conv3', 'conv4'), 'krizhevsky_without_7': ('fc7',),
                       'krizhevsky_without_6_7': ('fc6', 'fc7'),
                       'krizhevsky_without_3_4_6_7': ('conv3', 'conv4', 'fc6', 'fc7')}.items():
        assert described(name) == {layer: width for layer, width in base.items() if layer not in gone}
    for name, new in {'krizhevsky_fc_2048': dict(fc6=2048, fc7=2048), 'krizhevsky_fc_8192': dict(fc6=8192, fc7=8192),
                      'fc_2048': dict(fc6=2048, fc7=2048), 'fc_8192': dict(fc6=8192, fc7=8192),
                      'conv_512_1024_512': WIDE,
                      'conv_512_1024_512_fc_8192': WIDE | dict(fc6=8192, fc7=8192)}.items():
        assert described(name) == base | new


@pytest.mark.parametrize('name', paper.COUNTS)
def test_sizes_and_multiply_adds(name):
    counts, experiment = paper.COUNTS[name], EXPERIMENTS[name]
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    found = jax.eval_shape(build(experiment).activations, shapes(experiment), image)
    assert [(layer, maps.shape[1:]) for layer, maps in found.items()] == list(counts.sizes.items())
    weights = {layer: number - counts.sizes[layer][-1] for layer, number in counts.parameters.items()}
    assert sum(math.prod(counts.sizes[layer][:-1]) * number for layer, number in weights.items()) == \
        counts.multiply_adds


def windows(name):
    """The first and last row, of 224, that the first and the last of 110 windows of conv1 read."""
    first, *_ = EXPERIMENTS[name].model.layers
    network = ZFNet(Model(layers=(dataclasses.replace(first, width=1),), classes=1), 224, nnx.Rngs(params=0))
    assert network.fc8.kernel.shape[0] == 110 * 110

    def read_by(place):
        gradient = jax.grad(lambda x: network.conv1(x)[0, place, place, 0])(jnp.ones((1, 224, 224, 3)))
        rows = np.flatnonzero(np.abs(gradient).sum((0, 2, 3)))
        return int(rows.min()), int(rows.max())

    return [read_by(0), read_by(109)]


def test_the_pixel_that_is_missing_for_110_windows_is_at_the_end_or_in_imgclsmob_at_the_beginning():
    assert windows('paper') == [(0, 6), (218, 223)]
    assert windows('imgclsmob') == [(0, 5), (217, 223)]


# ---------------------------------------------------------------------------------------------- tables and recipes

TABLES = [table for table in paper.TABLES if isinstance(table, Table)]
NAMED = {name for table in TABLES for row in table.rows for name in (row.experiment, *row.members) if name}


def test_every_row_names_an_experiment_that_exists_and_every_architecture_has_its_row():
    assert sorted(NAMED - set(EXPERIMENTS)) == [] and sorted(set(paper.SEEN) - set(EXPERIMENTS)) == []
    assert [row.experiment for row in paper.TABLE_3.rows] == list(paper.TOTALS)
    assert {name for name in EXPERIMENTS if name.startswith('caltech')} <= NAMED


def test_tables_agree_with_each_other():
    third = {row.experiment: row.values[1:] for row in paper.TABLE_3.rows}
    for row in paper.TABLE_2.rows:
        if row.experiment:
            assert row.values[:2] == third[row.experiment]
    for table in TABLES:
        for row in table.rows:
            values = {(column.split, column.metric): value for column, value in zip(table.columns, row.values)}
            top1, top5 = values.get(('validation', 'top1')), values.get(('validation', 'top5'))
            assert top1 is None or top5 is None or top5 < top1
    assert round(np.mean(list(paper.PASCAL.values())), 1) == 79.0
    assert [row.values for row in paper.TABLE_4[1].rows] == [(18.6,), (15.7,), (53.5,), (13.5,)]


def test_recipe_of_section_3():
    data, optimizer = PAPER.data, PAPER.optimizer
    assert (data.resize, data.image_size, data.mean, data.crop, data.reflect) == (256, 224, 'pixel', 'corners', True)
    assert (optimizer.learning_rate, optimizer.momentum, optimizer.schedule) == (0.01, 0.9, 'plateau')
    assert (optimizer.max_filter_rms, optimizer.weight_decay) == (0.1, 0.0)
    assert (PAPER.batch_size, PAPER.epochs, PAPER.model.dropout, PAPER.model.deviation) == (128, 70, 0.5, 0.01)


def test_published_initialisation():
    for layer, values in build(small(PAPER, deviation=0.01)).init(jax.random.key(0)).items():
        assert np.all(values['bias'] == 0), layer
        assert abs(float(values['kernel'].std()) / 0.01 - 1) < 0.15, layer


# ------------------------------------------------------------------------------------------------------- in small

def small(experiment, deviation=0.1):
    """The same experiment with few maps, small images and batches, and initial weights that let a signal through so
    few maps."""
    narrow = {48: 8, 64: 8, 96: 8, 256: 12, 384: 12, 512: 16, 1024: 20, 2048: 24, 4096: 32, 8192: 40}
    widths = {layer.name: narrow[layer.width] for layer in experiment.model.layers if isinstance(layer, (Conv, Dense))}
    return change_all(dataclasses.replace(experiment, batch_size=8), {
        'model.layers': changed(experiment.model.layers, 'width', **widths), 'model.classes': 10,
        'model.deviation': deviation, 'data.image_size': 64})


@functools.cache
def two_steps(experiment):
    return networks.two_steps(build, experiment, 72, FEATURES if experiment.starts_from else ())


def what_a_step_needs(experiment):
    """The experiment in small, without what makes no difference to a step: many have the same."""
    return change_all(dataclasses.replace(small(experiment), summary='', source='', published='', seed=0), {
        'data.source': '', 'data.train_split': '', 'data.validation_split': '', 'data.train_per_class': None,
        'data.validation_per_class': None, 'data.mean': 'pixel', 'evaluation': PAPER.evaluation, 'starts_with': None})


# The same layers as another experiment here, in other widths.
SLOW = ('krizhevsky_fc_2048', 'krizhevsky_fc_8192', 'fc_2048', 'fc_8192', 'conv_512_1024_512_fc_8192', 'imgclsmob_b')


@pytest.mark.parametrize('name', [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
                                  for name in EXPERIMENTS if name not in ('paper', 'first_layers')])
def test_every_experiment_trains_and_differs_from_the_paper(name):
    """All parameters move, and of a transfer those of the new softmax alone."""
    experiment = EXPERIMENTS[name]
    published = EXPERIMENTS[experiment.published]
    assert experiment is published or diff(experiment, published)
    assert two_steps(what_a_step_needs(experiment)) != two_steps(what_a_step_needs(PAPER))


def test_every_arm_trains_and_differs_from_the_other():
    networks.every_arm_differs(EXPERIMENTS['first_layers'], lambda experiment: two_steps(what_a_step_needs(experiment)))


def test_both_first_layers_lead_to_maps_of_seven_by_seven_places():
    comparison = EXPERIMENTS['first_layers']
    for arm in comparison.arms:
        experiment = comparison.experiment(arm)
        image = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
        maps = jax.eval_shape(build(experiment).activations, shapes(experiment), image)
        assert [maps[f'conv{n}'].shape[1:] for n in (3, 4, 5)] == [(7, 7, 96), (7, 7, 96), (7, 7, 64)]


def step_once(experiment, rate):
    """Parameters before and after one step on random images."""
    task = build(experiment)
    state = train.init(task, experiment, meshes.make('data:1'))
    before = jax.device_get(state['params'])
    images = np.random.default_rng(0).integers(0, 255, (8, 72, 72, 3), np.uint8)
    statistics = Statistics(np.full((72, 72, 3), 128, np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32))
    state, _, _ = train.make_step(task, experiment)(state, images, np.arange(8), statistics, np.uint32(0),
                                                    np.float32(rate))
    return before, jax.device_get(state['params'])


def test_filters_are_scaled_down_to_the_limit_and_others_are_left():
    """Section 3: a filter is the weights of one map, and only those of convolutions are limited."""
    def rms(params):
        return {layer: np.sqrt(np.mean(np.square(values['kernel']), axis=(0, 1, 2))) for layer, values in
                params.items() if layer.startswith('conv')}

    experiment = small(PAPER)
    before, after = step_once(experiment, 1e-6)
    for layer, found in rms(after).items():
        old = rms(before)[layer]
        over = old > 0.1
        np.testing.assert_allclose(found[over], 0.1, rtol=1e-5)
        np.testing.assert_allclose(found[~over], old[~over], rtol=1e-4)
    assert 0 < sum((found > 0.1).sum() for found in rms(before).values()) < sum(map(len, rms(before).values()))
    assert np.sqrt(np.mean(np.square(after['fc6']['kernel']), axis=0)).max() > 0.1
    free = step_once(small(EXPERIMENTS['no_filter_limit']), 1e-6)[1]
    np.testing.assert_allclose(rms(free)['conv1'], rms(before)['conv1'], rtol=1e-4)


@pytest.mark.parametrize('name', ['caltech101_15', 'pascal2012'])
def test_transfer_takes_layers_1_to_7_and_a_new_softmax(name):
    experiment, source = small(EXPERIMENTS[name]), small(PAPER)     # with as many classes: the softmax is new even so
    task = build(source)
    network = Trained('paper', source, task, task.init(jax.random.key(1)), None, 'paper', None, 1, 1.0, None)
    taken, new, left = trained.beginning(network, build(experiment), experiment)
    assert (tuple(taken), new, left) == (FEATURES, ['fc8'], ['fc8'])
    assert EXPERIMENTS[name].optimizer.max_filter_rms is None       # which would move layers that are kept
    with pytest.raises(UsageError, match='starts from a run of paper'):
        trained.beginning(network._replace(name='krizhevsky'), build(experiment), experiment)


def test_placement_changes_nothing():
    experiment = small(PAPER)
    gradient = networks.loss_and_gradient_on('data:2,model:2', build(experiment), experiment)
    assert gradient['conv3']['kernel'].sharding.shard_shape((3, 3, 12, 12)) == (3, 3, 12, 6)


def test_dropout_is_of_the_fully_connected_layers_before_the_last():
    for name, varies in {'paper': True, 'krizhevsky_without_6_7': False}.items():
        task = build(small(EXPERIMENTS[name]))
        params, x, loss = jax.jit(task.init)(jax.random.key(0)), jnp.ones((2, 64, 64, 3)), jax.jit(task.loss)
        losses = {float(loss(params, x, jnp.zeros(2, int), jax.random.key(k))[0]) for k in range(3)}
        assert (len(losses) > 1) == varies


def test_order_of_pooling_and_normalisation():
    assert [type(layer) for layer in ZFNET if layer.name in ('norm1', 'pool1')] == [Pool, Norm]
    assert [type(layer) for layer in KRIZHEVSKY if layer.name in ('norm1', 'pool1')] == [Norm, Pool]


def test_layers_of_one_name_are_refused():
    with pytest.raises(UsageError, match='different names'):
        Model(layers=(*ZFNET, Dense('fc7', 5)))


# -------------------------------------------------------------------------------------------- imgclsmob's weights

def saved(path, conv3=12, drop=(), fc6=72):
    widths = {'conv1': 4, 'conv2': 4, 'conv3': conv3, 'conv4': conv3, 'conv5': 2, 'fc6': 6, 'fc7': 5, 'fc8': 3}
    rng, arrays, inputs = np.random.default_rng(0), {}, 3
    sizes = {'conv1': 7, 'conv2': 5, 'conv3': 3, 'conv4': 3, 'conv5': 3}
    for layer, width in widths.items():
        inputs = fc6 if layer == 'fc6' else inputs
        shape = (width, inputs, sizes[layer], sizes[layer]) if layer in sizes else (width, inputs)
        arrays[f'{NAMES[layer]}.weight'] = rng.standard_normal(shape).astype(np.float32)
        arrays[f'{NAMES[layer]}.bias'] = rng.standard_normal(width).astype(np.float32)
        inputs = width
    return Saved(path, 'torch state dict', {name: array for name, array in arrays.items() if name not in drop})


def test_weights_of_another_network_are_refused():
    with pytest.raises(UsageError, match="has the weights of no ZFNet known here: .* imgclsmob's zfnet and zfnetb"):
        convert(saved('x.pth', drop=(f'{NAMES["fc7"]}.bias',)))
    with pytest.raises(UsageError, match=r'x.pth does not fit ZFNet: the weights and biases of fc6'):
        convert(saved('x.pth', fc6=50))


def test_weights_choose_their_experiment():
    name, experiment, params = convert(saved('x.pth'))
    assert name == 'imgclsmob' and experiment.model.classes == 3
    assert experiment.summary == "imgclsmob's zfnet (4-4-12-12-2-6-5-3)"
    assert experiment.data.mean == pytest.approx((123.675, 116.28, 103.53)) and set(params) == set(NAMES)
