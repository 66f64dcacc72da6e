"""Network in Network's counts and sizes as assertions, its author's recipes in our units, and its placement on several
devices."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lib import optimizers, trained
from lib.experiment import UsageError, diff
from lib.optimizers import learning_rate
from lib.tables import Table
from lib.task import count
from reproductions.nin import model as networks
from reproductions.nin import paper
from reproductions.nin.experiments import EXPERIMENTS, PAPER
from reproductions.nin.model import Dense, Dropout, MLPConv, Model, build
from tests import networks as checks


def shapes(experiment):
    return checks.shapes(build, experiment)


def sizes(experiment):
    side = experiment.data.image_size
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return {name: maps.shape[1:] for name, maps in
            jax.eval_shape(build(experiment).activations, shapes(experiment), image).items()}


@pytest.mark.parametrize('name', paper.COUNTS)
def test_parameters_sizes_and_multiply_adds(name):
    counts, params = paper.COUNTS[name], shapes(EXPERIMENTS[name])
    found = {layer: count({layer: params[layer]}) for layer in counts.parameters}
    assert found == counts.parameters and set(params) == set(found)
    assert sum(counts.parameters.values()) == counts.total
    maps = sizes(EXPERIMENTS[name])
    assert list(maps.items()) == list(counts.sizes.items())         # in the same order too
    assert sum(int(np.prod(maps[layer][:-1])) * params[layer]['kernel'].size for layer in params) \
        == counts.multiply_adds


def test_totals_are_the_authors():
    totals = {name: counts.total for name, counts in paper.COUNTS.items()}
    assert totals == {'paper': 966_986, 'cifar100': 984_356, 'svhn': 1_986_026, 'mnist': 349_674,
                      'imagenet': 7_595_176, 'flatten': 34_066_792, 'global_average_pooling': 7_053_200}


@pytest.mark.parametrize('name', paper.COUNTS)
def test_receptive_field_of_the_last_maps(name):
    """Each layer adds (window - 1) times the pixels between neighbours of what it reads."""
    seen, apart = 1, 1
    for layer in EXPERIMENTS[name].model.layers:
        match layer:
            case MLPConv():
                seen, apart = seen + (layer.size - 1) * apart, apart * layer.stride
            case networks.Pool():
                seen, apart = seen + 2 * apart, apart * 2
    assert seen == paper.COUNTS[name].receptive_field


@pytest.mark.parametrize('name, total', paper.VARIANT_TOTALS.items())
def test_parameters_of_ablations(name, total):
    assert count(shapes(EXPERIMENTS[name])) == total


def test_the_pair_has_its_totals_in_one_reading_only():
    """Pooling rounded up flattens 4x4 maps."""
    flatten = EXPERIMENTS['flatten']
    other = dataclasses.replace(flatten, model=dataclasses.replace(flatten.model, rounding='ceil'))
    assert sizes(other)['pool3'] == (4, 4, 256) and count(shapes(other)) == 41_406_824


def test_every_layer_but_a_last_dense_one_ends_in_a_relu():
    for name, wanted in {'paper': set(), 'linear_scores': {'cccp6'}, 'fully_connected': {'fc1'},
                         'global_average_pooling': {'fc1'}}.items():
        experiment = small(EXPERIMENTS[name])
        task, side = build(experiment), experiment.data.image_size
        x = jax.random.normal(jax.random.key(0), (4, side, side, 3))
        found = jax.jit(task.activations)(task.init(jax.random.key(1)), x)
        assert {layer for layer, maps in found.items() if maps.min() < 0 and 'pool' not in layer} == wanted, name


def test_grey_images_are_read_once():
    experiment = small(EXPERIMENTS['mnist'])
    task = build(experiment)
    params, x = task.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (2, 12, 12, 3))
    np.testing.assert_array_equal(task.predict(params, x), task.predict(params, x.at[..., 1:].set(0)))
    assert params['conv1']['kernel'].shape[2] == 1


def test_published_initialisation():
    def deviations(name):
        params = build(EXPERIMENTS[name]).init(jax.random.key(0))
        assert all(np.all(values['bias'] == 0) for values in params.values())
        return {layer: float(values['kernel'].std()) for layer, values in params.items()}

    cifar10, cifar100 = deviations('paper'), deviations('cifar100')
    own = {'conv1': 0.001, 'cccp1': 0.01, 'cccp2': 0.01}
    for layer in cifar10:
        assert cifar10[layer] == pytest.approx(0.05, rel=0.05), layer
        assert cifar100[layer] == pytest.approx(own.get(layer, 0.05), rel=0.05), layer
    imagenet = [layer.deviations for layer in EXPERIMENTS['imagenet'].model.layers if isinstance(layer, MLPConv)]
    assert imagenet == [(0.01, 0.05, 0.05), (), (0.01, 0.05, 0.05), (0.05, 0.05, 0.01)]


# epsW, epsB, epsW of the last layer, wc and coeff of the author's files.
AUTHORS = {'paper': (1, 2, 0.1, 1e-5, 0.1), 'svhn': (1, 2, 0.1, 1e-5, 0.1), 'cifar100': (0.01, 0.02, 0.01, 1e-3, 2)}


@pytest.mark.parametrize('name', AUTHORS)
def test_updates_are_those_of_the_authors_files(name):
    """v <- 0.9 v - epsW wc w - epsW coeff g, biases with epsB and without decay."""
    eps_w, eps_b, last_eps_w, wc, coeff = AUTHORS[name]
    draw = np.random.default_rng(0).standard_normal
    weights, gradients, velocity = ({layer: {'kernel': draw((2, 3)), 'bias': draw(3)} for layer in ('conv1', 'cccp6')}
                                    for _ in range(3))
    optimizer = EXPERIMENTS[name].optimizer
    with jax.enable_x64(True):
        _, after = optimizers.update(optimizer, optimizer.learning_rate, gradients, velocity, weights)
    for layer, own in (('conv1', eps_w), ('cccp6', last_eps_w)):
        w, g, v = (tree[layer] for tree in (weights, gradients, velocity))
        np.testing.assert_allclose(after[layer]['kernel'], 0.9 * v['kernel'] - own * wc * w['kernel']
                                   - own * coeff * g['kernel'], rtol=1e-12)
        np.testing.assert_allclose(after[layer]['bias'], 0.9 * v['bias'] - eps_b / eps_w * own * coeff * g['bias'],
                                   rtol=1e-12)


def test_rates_fall_when_the_author_says():
    cifar, imagenet = EXPERIMENTS['paper'], EXPERIMENTS['imagenet']
    epochs = [learning_rate(cifar, 50_000, cifar.steps_at(epoch, 50_000), ()) for epoch in (0, 199, 200, 229, 230, 259)]
    assert epochs == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001]) and cifar.epochs == 260
    steps = [learning_rate(imagenet, 1_281_167, step, ()) for step in (0, 199_999, 200_001, 399_999, 400_001)]
    assert steps == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001])
    assert imagenet.total_steps(1_281_167) == 450_000


def test_recipes_are_the_authors():
    data = PAPER.data
    assert (data.contrast, data.whiten, data.crop, data.reflect, PAPER.batch_size) == ('global', True, 'centre', False,
                                                                                     128)
    assert (EXPERIMENTS['svhn'].data.contrast, EXPERIMENTS['svhn'].data.whiten) == ('local', False)
    augmented = EXPERIMENTS['augmented'].data
    assert augmented.crop == 'random' and augmented.padding and augmented.reflect
    stack = PAPER.model.layers
    assert [isinstance(layer, Dropout) for layer in stack] == [False, False, True, False, False, True, False, False]
    assert PAPER.model.dropout == 0.5 and {layer.kind for layer in stack if isinstance(layer, networks.Pool)} == {'max'}
    assert networks.FULLY_CONNECTED_DROPOUT[-2:] == (Dropout(), Dense(10, unit=False))
    assert Dropout() not in networks.FULLY_CONNECTED[-2:]


# In small

SIZES = {networks.IMAGENET: 68, networks.FLATTEN: 211, networks.GLOBAL_AVERAGE_POOLING: 211}    # 16 for the others


def small(experiment, init='scaled'):
    """The same experiment with 8 maps in each layer, 10 in the last, on small images in batches of 8."""
    stack = list(experiment.model.layers)
    *_, last = (number for number, layer in enumerate(stack) if isinstance(layer, (MLPConv, Dense)))
    for number, layer in enumerate(stack):
        outputs = 10 if number == last else 8
        match layer:
            case MLPConv(widths=()):
                stack[number] = dataclasses.replace(layer, maps=outputs)
            case MLPConv():
                widths = (8,) * (len(layer.widths) - 1) + (outputs,)
                stack[number] = dataclasses.replace(layer, maps=8, widths=widths)
            case Dense():
                stack[number] = dataclasses.replace(layer, units=outputs)
    data = dataclasses.replace(experiment.data, image_size=SIZES.get(experiment.model.layers, 16))
    model = dataclasses.replace(experiment.model, layers=tuple(stack), init=init)
    return dataclasses.replace(experiment, model=model, data=data, batch_size=8)


@functools.cache
def two_steps(experiment):
    experiment = small(experiment)
    bigger = 4 if experiment.data.crop == 'random' and not experiment.data.padding else 0
    return checks.two_steps(build, experiment, experiment.data.image_size + bigger)


@pytest.mark.parametrize('name', [name for name in EXPERIMENTS if name != 'quarter_width'])
def test_every_experiment_trains_and_differs_from_its_published_recipe(name):
    experiment, published = EXPERIMENTS[name], EXPERIMENTS[EXPERIMENTS[name].published]
    found = two_steps(experiment)
    assert experiment is published or (diff(experiment, published) and found != two_steps(published))


def test_every_arm_trains_and_differs_from_the_others():
    checks.every_arm_differs(EXPERIMENTS['quarter_width'], two_steps)


def test_a_quarter_of_the_width_leaves_the_classes():
    maps = sizes(EXPERIMENTS['quarter_width'].base)
    found = {layer: maps[layer][-1] for layer in paper.COUNTS['paper'].parameters}
    full = {layer: paper.COUNTS['paper'].sizes[layer][-1] for layer in found}
    assert found == {layer: count // 4 for layer, count in full.items()} | {'cccp6': 10}


@pytest.mark.parametrize('name', ['paper', 'fully_connected_dropout'])
def test_placement_changes_nothing(name):
    experiment = small(EXPERIMENTS[name])
    gradient = checks.loss_and_gradient_on('data:2,model:2', build(experiment), experiment)
    assert gradient['conv2']['kernel'].sharding.shard_shape((5, 5, 8, 8)) == (5, 5, 8, 4)


def test_dropout_only_in_training_and_its_rate_is_the_models():
    experiment = small(PAPER)
    task, plain = build(experiment), build(small(EXPERIMENTS['no_dropout']))
    params, x = task.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    labels = jnp.zeros(2, int)
    first, second = (task.loss(params, x, labels, jax.random.key(k))[0] for k in (0, 1))
    assert first != second
    halved = {layer: values | {'kernel': values['kernel'] * (0.5 if layer in ('conv2', 'conv3') else 1)}
              for layer, values in params.items()}
    np.testing.assert_allclose(task.predict(params, x), plain.predict(halved, x), rtol=1e-5)
    assert plain.loss(params, x, labels, jax.random.key(0))[0] == plain.loss(params, x, labels, jax.random.key(1))[0]


def test_other_classes_begin_with_all_layers_but_the_one_that_makes_their_maps():
    """It is not the last of the network: pooling follows."""
    start, wanted = build(PAPER).init(jax.random.key(0)), EXPERIMENTS['cifar100']
    source = trained.Trained('paper', PAPER, build(PAPER), start, None, 'a run', None, None, None, None)
    taken, new, left = trained.beginning(source, build(wanted), wanted)
    assert new == ['cccp6'] and left == [] and set(taken) == set(start) - {'cccp6'}


@pytest.mark.parametrize('make, sentence', [
    (lambda: Model(dropout=1.0), 'model.dropout=1.0'), (lambda: Model(channels=2), 'model.channels=2'),
    (lambda: MLPConv(8, 3, (8,), deviations=(0.1,)), 'as many deviations')], ids=range(3))
def test_models_that_cannot_be_are_refused(make, sentence):
    with pytest.raises(UsageError, match=sentence):
        make()


# The tables

TABLES = [table for table in paper.TABLES if isinstance(table, Table)]


def test_rows_name_experiments_that_exist():
    rows = [row for table in TABLES for row in table.rows]
    named = {name for row in rows for name in (row.experiment, row.minus, *row.members) if name}
    assert sorted((named | set(paper.SEEN) | set(paper.COUNTS)) - set(EXPERIMENTS)) == []


def test_tables_are_of_the_data_of_their_experiments():
    for table in TABLES:
        for row in table.rows:
            if row.experiment:
                experiment = EXPERIMENTS[row.experiment]
                assert experiment.data.source == table.source, row.name
                assert row.protocol in (None, experiment.evaluation.protocol), row.name
                assert row.parameters in (None, count(shapes(experiment))), row.name
                assert table.epochs is None or table.epochs in (experiment.epochs, 22.48), row.name


def test_the_papers_own_numbers():
    own = {row.experiment: row.values[0] for table in TABLES for row in table.rows if row.experiment}
    assert own == {'paper': 10.41, 'augmented': 8.81, 'no_dropout': 14.51, 'cifar100': 35.68, 'svhn': 2.35,
                   'mnist': 0.47, 'fully_connected': 11.59, 'fully_connected_dropout': 10.88, 'imagenet': 40.64}
    assert all(row.memory == (row.experiment in ('fully_connected', 'fully_connected_dropout'))
               for table in TABLES for row in table.rows)
