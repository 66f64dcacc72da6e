"""GoogLeNet's counts and sizes as assertions, its experiments in small, its placement, and the numbers of its paper."""
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lib.experiment import UsageError, change_all, diff
from lib.optimizers import learning_rate
from lib.task import count
from reproductions.googlenet import paper
from reproductions.googlenet.experiments import EXPERIMENTS, PAPER
from reproductions.googlenet.model import INCEPTION, Inception, Model, build
from tests import networks

IMAGENET = 1_281_167


def shapes(experiment):
    return networks.shapes(build, experiment)


def outputs(experiment):
    """The shape of every layer's output for one image of 224 pixels, without the image's axis."""
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    found = jax.eval_shape(build(experiment).activations, shapes(experiment), image)
    return {name: maps.shape[1:] for name, maps in found.items()}


def multiply_adds(experiment):
    """Of each layer in a forward pass of one image: positions of the output times weights."""
    sizes = outputs(experiment)
    return {layer: math.prod(sizes[layer][:-1]) * values['kernel'].size
            for layer, values in shapes(experiment).items() if layer in sizes}


def test_parameters_of_every_layer_and_in_total():
    found = {layer: count({layer: params}) for layer, params in shapes(PAPER).items()}
    assert found == paper.PARAMETERS
    assert sum(found.values()) == paper.TOTAL == 13_378_280

    def together(prefix):
        return sum(number for layer, number in found.items() if layer.startswith(prefix))

    assert {name: together(name) for name in paper.HEAD_TOTALS} == paper.HEAD_TOTALS
    assert paper.TOTAL - together('aux') == paper.TOTAL_WITHOUT_HEADS == 6_998_552
    assert paper.TOTAL_WITHOUT_HEADS - found['linear'] == 5_973_552
    assert found['conv1'] == 9_472 and together('conv2') == 114_944
    for name, module in paper.TABLE_1.items():
        assert together(f'inception_{name}_') == module.parameters, name


@pytest.mark.parametrize('name', paper.VARIANT_TOTALS)
def test_parameters_of_variants(name):
    assert count(shapes(EXPERIMENTS[name])) == paper.VARIANT_TOTALS[name]


def test_feature_map_sizes_are_the_papers_and_norms_follow_pool1_and_conv2():
    found = outputs(PAPER)
    assert {name: size for name, size in found.items() if not name.startswith('norm')} == paper.SIZES
    own = [name for name in found if name.count('_') < 2]
    assert ' '.join(own) == ('conv1 pool1 norm1 conv2_reduce conv2 norm2 pool2 inception_3a inception_3b pool3 '
                             'inception_4a inception_4b inception_4c inception_4d inception_4e pool4 inception_5a '
                             'inception_5b pool5 linear')


def test_multiply_adds_are_those_of_table_1_but_for_two_of_its_rows():
    found = multiply_adds(PAPER)
    assert sum(found.values()) == paper.MULTIPLY_ADDS == 1_582_671_872
    modules = {name: sum(number for layer, number in found.items() if layer.startswith(f'inception_{name}_')) / 1e6
               for name in INCEPTION}
    assert [name for name, module in paper.TABLE_1.items() if abs(modules[name] - module.millions) >= 1] == ['5a']
    assert round((found['conv2_reduce'] + found['conv2']) / 1e6) == 360 and round(found['linear'] / 1e6) == 1
    assert round(found['conv1'] / 1e6) == 118       # 34M printed


def test_without_reductions_eight_times_the_multiply_adds_and_the_parameters():
    """Figure 2(a): the maps of the pooling branch add up from module to module."""
    naive = multiply_adds(EXPERIMENTS['without_reductions'])
    assert sum(naive.values()) == 12_568_061_056
    assert round(sum(naive.values()) / paper.MULTIPLY_ADDS, 1) == 7.9
    sizes = outputs(EXPERIMENTS['without_reductions'])
    maps = 192
    for name, module in paper.TABLE_1.items():
        maps += module.one + module.three + module.five
        assert sizes[f'inception_{name}'] == (module.side, module.side, maps)
    assert maps == 4_944


def test_receptive_field_of_the_last_module():
    """Along the widest branch, 5x5, of every module."""
    seen, step = 1, 1
    for window, stride in ((7, 2), (3, 2), (3, 1), (3, 2), *[(5, 1)] * 2, (3, 2), *[(5, 1)] * 5, (3, 2), *[(5, 1)] * 2):
        seen, step = seen + (window - 1) * step, step * stride
    assert seen == paper.COUNTS['paper'].receptive_field and step == 32


def test_the_papers_own_recipe():
    """A rate that falls 4 % every 8 epochs, momentum, an average of the parameters, crops of any area and shape."""
    rates = [learning_rate(PAPER, IMAGENET, PAPER.steps_at(epoch, IMAGENET), ()) for epoch in (0, 7.9, 8, 80, 249)]
    assert rates == pytest.approx([0.01, 0.01, 0.0096, 0.01 * 0.96**10, 0.01 * 0.96**31])
    assert PAPER.optimizer.momentum == 0.9 and PAPER.optimizer.averaging > 0
    assert (PAPER.data.crop, PAPER.data.reflect, PAPER.data.mean) == ('area', True, 'channel')
    assert PAPER.data.color_jitter > 0 and PAPER.evaluation.protocol == paper.CROPS_144
    model = PAPER.model
    assert (model.heads, model.heads_weight, model.heads_dropout, model.dropout) == (('4a', '4d'), 0.3, 0.7, 0.4)


def test_caffes_recipe():
    caffe = EXPERIMENTS['caffe']
    rates = [learning_rate(caffe, IMAGENET, caffe.steps_at(epoch, IMAGENET), ()) for epoch in (0, 15, 45)]
    assert rates == pytest.approx([0.01, 0.01 * 0.75**0.5, 0.005], rel=1e-4)
    assert (caffe.epochs, caffe.batch_size, caffe.optimizer.weight_decay) == (60, 32, 2e-4)
    assert caffe.optimizer.averaging == 0 and caffe.data.mean == (123, 117, 104)
    assert (caffe.model.lrn_k, caffe.model.lrn_alpha) == (1.0, pytest.approx(1e-4 / 5))


def test_initial_weights_are_uniform_with_variance_1_over_fan_in():
    wide = dataclasses.replace(PAPER.model, inception=tuple(INCEPTION.items())[2:3], heads=('4a',))
    params = jax.jit(build(dataclasses.replace(PAPER, model=wide)).init)(jax.random.key(0))
    for layer, values in params.items():
        kernel = np.asarray(values['kernel'])
        fan_in = math.prod(kernel.shape[:-1])
        assert abs(kernel.std() * fan_in**0.5 - 1) < 0.05, layer
        assert 0.98 < np.abs(kernel).max() * (fan_in / 3)**0.5 <= 1, layer
        np.testing.assert_array_equal(values['bias'], np.float32(0 if 'linear' in layer else 0.2))


def small(experiment, modules=('4a',)):
    """The same experiment with few modules and maps, and small images and batches. Images are the smallest on which the
    pooling of an auxiliary classifier fits, since no 3b with a pooling layer comes before 4a."""
    model = experiment.model
    rows = tuple((name, Inception(*(max(3, width // 32) for width in row)))
                 for name, row in model.inception if name in modules)
    model = dataclasses.replace(model, classes=8, stem=(4, 4, 6), inception=rows, heads_maps=4, fc_width=8,
                                heads=tuple(name for name in model.heads if name in modules))
    return change_all(experiment, {'model': model, 'data.image_size': 40, 'batch_size': 8, 'epochs': 100})


def two_steps(experiment):
    return networks.two_steps(build, experiment, 44)


@pytest.fixture(scope='module')
def paper_steps():
    return two_steps(small(PAPER))


@pytest.mark.parametrize('name', [name for name in EXPERIMENTS if name != 'paper'])
def test_every_experiment_trains_and_differs_from_the_paper(name, paper_steps):
    """An ablation that changes nothing is a mistake, and so is one in which a parameter never moves."""
    experiment = EXPERIMENTS[name]
    published = EXPERIMENTS[experiment.published]
    assert experiment is published or diff(experiment, published)
    if name in SAME_STEPS:
        for ours, theirs in zip(two_steps(small(experiment)), paper_steps, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-6)      # another program, which may order its sums otherwise
    else:
        assert two_steps(small(experiment)) != paper_steps


SAME_STEPS = {'no_averaging'}       # what is evaluated is another thing, not how it is trained


def test_auxiliary_classifiers_are_dropped_at_test_time():
    task = build(small(PAPER))
    params, images = task.init(jax.random.key(0)), 50 * jax.random.normal(jax.random.key(1), (2, 40, 40, 3))
    without = {layer: jax.tree.map(jnp.zeros_like, values) if 'aux' in layer else values
               for layer, values in params.items()}
    predict = jax.jit(task.predict)
    np.testing.assert_array_equal(predict(params, images), predict(without, images))
    assert build(small(EXPERIMENTS['without_auxiliary'])).own_loss is None and task.own_loss is not None


def test_placement_changes_nothing():
    """Where half a branch's maps are no whole number, they stay on both devices."""
    experiment = small(PAPER, modules=('4a', '4d'))
    gradient = networks.loss_and_gradient_on('data:2,model:2', build(experiment), experiment)
    split = {name: gradient[f'inception_4a_{name}']['kernel'].sharding.shard_shape(shape)
             for name, shape in (('3x3', (3, 3, 3, 6)), ('5x5', (5, 5, 3, 3)))}
    assert split == {'3x3': (3, 3, 3, 3), '5x5': (5, 5, 3, 3)}


@pytest.mark.parametrize('changes, sentence', [
    ({'heads': ('4a', '6a')}, 'must name modules of model.inception'),
    ({'heads': ('4a', '4a')}, 'each once'),
    ({'heads_weight': 0.0}, 'set model.heads to'),
    ({'inception': (('3c', (1,) * 6),), 'heads': ()}, 'maps of each module once, of 3a, 3b'),
    ({'stem': (0, 1, 1)}, 'must be at least 1'),
    ({'heads_dropout': 1.0}, 'below 1')])
def test_models_that_cannot_be_are_refused(changes, sentence):
    with pytest.raises(UsageError, match=sentence):
        Model(**changes)


# The tables.

def test_every_row_names_an_experiment_that_exists():
    named = {name for table in paper.TABLES for row in table.rows for name in (row.experiment, row.minus, *row.members)
             if name}
    assert sorted((named | set(paper.SEEN)) - set(EXPERIMENTS)) == []


def test_protocols_are_those_that_an_evaluation_has():
    protocols = [row.protocol for row in paper.TABLE_3.rows]
    assert protocols == ['centre', 'ten', PAPER.evaluation.protocol] * 2


def test_table_3_improves_with_crops_and_models_by_what_it_prints():
    values = [row.values[0] for row in paper.TABLE_3.rows]
    assert [round(10.07 - value, 2) for value in values] == [0, 0.92, 2.18, 1.98, 2.45, 3.40]
    assert [len(row.members) or 1 for row in paper.TABLE_3.rows] == [1, 1, 1, 7, 7, 7]
    assert [row.note.split()[0] for row in paper.TABLE_3.rows] == ['1', '10', '144', '7', '70', '1008']
    assert paper.TABLE_2.rows[-1].values == paper.TABLE_3.rows[-1].values


def test_rows_of_table_1_follow_each_other():
    inputs = 192
    for name, module in paper.TABLE_1.items():
        assert module.inputs == inputs and INCEPTION[name] == module[2:8]
        assert module.outputs == module.one + module.three + module.five + module.pool_proj
        inputs = module.outputs


def test_printed_parameters_follow_from_the_maps_but_for_two_rows():
    """Within 2 %, and counted in units of 1,024."""
    other = [name for name, module in paper.TABLE_1.items()
             if abs(module.parameters / 1024 / module.thousands - 1) > 0.02]
    assert other == ['4c', '5a']
