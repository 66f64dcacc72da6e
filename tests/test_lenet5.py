"""LeNet-5's counts, connections, loss and curvature as the paper has them; its experiments train."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lib import importers, optimizers, train
from lib.data.statistics import Statistics
from lib.experiment import UsageError, change, diff
from lib.tables import Table
from lib.task import count
from reproductions.lenet5 import paper
from reproductions.lenet5.experiments import EXPERIMENTS, PAPER
from reproductions.lenet5.model import (
    TABLE_I,
    Convolution,
    LeNet5,
    Model,
    Subsampling,
    build,
    curvature,
    loss,
    slope,
    squash,
)
from reproductions.lenet5.prototypes import HEIGHT, PROTOTYPES, WIDTH
from reproductions.lenet5.weights import convert
from tests import caffe, networks


@pytest.mark.parametrize('name', paper.COUNTS)
def test_parameters_and_sizes_of_every_layer(name):
    experiment, counts = EXPERIMENTS[name], paper.COUNTS[name]
    params = networks.shapes(build, experiment)
    assert {layer: count({layer: values}) for layer, values in params.items()} == counts.parameters
    assert sum(counts.parameters.values()) == count(params) == counts.total
    side = experiment.data.image_size
    found = jax.eval_shape(build(experiment).activations, params, jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
    assert {layer: maps.shape[1:] for layer, maps in found.items()} == counts.sizes


def test_connections_are_those_of_section_2b():
    """A unit has one for each of its inputs and one for its bias; those of S2 and S4 read four units of one map, with
    one coefficient, and the RBF units have no bias."""
    network = LeNet5(Model(), 32, nnx.Rngs(params=0))
    found = {}
    for name in ('C1', 'S2', 'C3', 'S4', 'C5', 'F6'):
        height, width, _ = (*paper.SIZES[name], 1, 1)[:3] if name != 'F6' else (1, 1, 84)
        layer = getattr(network, name)
        own = layer.kernel.size * (4 if isinstance(layer, Subsampling) else 1) + layer.bias.size
        found[name] = height * width * own
    found['output'] = PROTOTYPES.size
    assert found == paper.CONNECTIONS
    assert sum(found.values()) == paper.TOTAL_CONNECTIONS == 340_908


def test_maps_of_c3_read_the_maps_that_table_1_names():
    """Six contiguous subsets of three, six of four, three with a gap, and all: section II.B."""
    contiguous = [{(start + k) % 6 for k in range(size)} for size in (3, 4) for start in range(6)]
    gaps = [{start % 6, (start + 1) % 6, (start + 3) % 6, (start + 4) % 6} for start in range(3)]
    assert list(map(set, TABLE_I)) == [*contiguous, *gaps, set(range(6))]
    layer = Convolution(6, 16, TABLE_I, init=lambda key, shape, fan_in: jnp.ones(shape), rngs=nnx.Rngs(params=0))
    one_map_each = jnp.eye(6)[:, None, None, :] * jnp.ones((6, 5, 5, 6))
    reads = np.asarray(layer(one_map_each))[:, 0, 0, :] > 0            # [source, target]
    assert [tuple(np.flatnonzero(column)) for column in reads.T] == list(TABLE_I)


def test_subsampling_is_a_sum_with_a_coefficient_and_a_bias_a_map():
    layer = Subsampling(2, init=lambda key, shape, fan_in: jnp.array([2.0, -1.0]), rngs=nnx.Rngs(params=0))
    layer.bias[...] = jnp.array([0.5, 0.0])
    x = jnp.arange(32.0).reshape(1, 4, 4, 2)
    first, second = (np.arange(32.0).reshape(4, 4, 2)[..., m].reshape(2, 2, 2, 2).sum((1, 3)) for m in (0, 1))
    np.testing.assert_allclose(layer(x)[0, :, :, 0], 2 * first + 0.5)
    np.testing.assert_allclose(layer(x)[0, :, :, 1], -second)


def test_squash_has_its_greatest_curvature_at_one_and_its_slope_from_its_value():
    x = jnp.linspace(-2, 2, 401)
    np.testing.assert_allclose(squash(1.0), 1, atol=1e-4)
    np.testing.assert_allclose(slope(squash(x)), jax.vmap(jax.grad(squash))(x), atol=1e-6)
    second = jnp.abs(jax.vmap(jax.grad(jax.grad(squash)))(x))
    assert abs(abs(float(x[second.argmax()])) - 1) < 0.02


def test_input_has_the_papers_scale():
    paper_white, ink = ((value - PAPER.data.mean[0]) / PAPER.data.pixel_scale for value in (0, 255))
    assert (paper_white, ink) == pytest.approx((-0.1, 1.175))


def test_drawings_are_ten_different_bitmaps():
    assert PROTOTYPES.shape == (10, 84) and WIDTH * HEIGHT == 84 and set(PROTOTYPES.ravel()) == {-1, 1}
    differing = (PROTOTYPES[:, None] != PROTOTYPES[None]).sum(-1)
    assert differing[~np.eye(10, dtype=bool)].min() >= 5


def test_loss_is_equation_9():
    each, _ = loss(rubbish=0.7)
    penalties = np.array([[3.0, 0.2, 1.5], [0.1, 4.0, 2.0]])
    expected = [penalties[0, 2] + np.log(np.exp(-0.7) + np.exp(-penalties[0]).sum()),
                penalties[1, 0] + np.log(np.exp(-0.7) + np.exp(-penalties[1]).sum())]
    np.testing.assert_allclose(each(jnp.array(-penalties), jnp.array([2, 0])), expected, rtol=1e-6)


def test_outputs_are_negative_distances_to_the_drawings():
    network = LeNet5(Model(penalty=0.25), 32, nnx.Rngs(params=0))
    found = {}
    x = jax.random.normal(jax.random.key(0), (3, 32, 32, 3))
    logits = network(x, tap=lambda name, value: found.setdefault(name, value))
    expected = -0.25 * np.square(np.asarray(found['F6'])[:, None] - PROTOTYPES).sum(-1)
    np.testing.assert_allclose(logits, expected, rtol=1e-5)


def test_only_the_first_channel_is_read():
    network = LeNet5(Model(), 32, nnx.Rngs(params=0))
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    np.testing.assert_array_equal(network(x), network(x.at[..., 1:].set(9)))


def test_curvature_is_that_of_appendix_c():
    """Unit by unit in NumPy: h of a sum is its slope squared times the sum over its readers of weight^2 h; h of a
    weight is h of its sum times its input squared, over all the sums that share it, mean over images."""
    model = Model(penalty=0.3, init='scaled')
    with jax.enable_x64(True):
        network = LeNet5(model, 32, nnx.Rngs(params=1))
        params = jax.tree.map(lambda a: np.asarray(a, np.float64), nnx.to_pure_dict(nnx.state(network)))
        network = nnx.merge(nnx.graphdef(network), params)
        x = np.random.default_rng(0).standard_normal((2, 32, 32, 3))
        values = {}
        network(x, tap=lambda name, value: values.setdefault(name, np.asarray(value)))
        found = jax.tree.map(np.asarray, curvature(network, x))
    values['input'] = x[..., :1]
    slopes = {name: np.asarray(slope(value)) for name, value in values.items()}
    expected = {layer: {kind: np.zeros_like(array) for kind, array in kinds.items()} for layer, kinds in params.items()}

    h = slopes['F6']**2 * 2 * model.penalty                             # [n, 84], of the sums of F6
    c5 = values['C5'].reshape(2, 120)
    expected['F6'] = {'kernel': np.einsum('no,ni->io', h, c5**2) / 2, 'bias': h.sum(0) / 2}
    h = (h @ params['F6']['kernel'].T**2).reshape(2, 1, 1, 120) * slopes['C5']**2

    def back_through_convolution(name, below, h):
        kernel, pairs = params[name]['kernel'], getattr(network, name).connections
        dense = kernel if pairs is None else np.zeros(network_shape(name))
        if pairs is not None:
            dense[:, :, pairs[0], pairs[1]] = kernel
        squares, of_kernel = values[below]**2, np.zeros_like(dense)
        to_below = np.zeros_like(squares)
        for i in range(h.shape[1]):
            for j in range(h.shape[2]):
                of_kernel += np.einsum('nhwi,no->hwio', squares[:, i:i + 5, j:j + 5], h[:, i, j])
                to_below[:, i:i + 5, j:j + 5] += np.einsum('hwio,no->nhwi', dense**2, h[:, i, j])
        expected[name]['kernel'] = (of_kernel if pairs is None else of_kernel[:, :, pairs[0], pairs[1]]) / 2
        expected[name]['bias'] = h.sum((0, 1, 2)) / 2
        return to_below

    def back_through_subsampling(name, below, h):
        windows = values[below].reshape(2, h.shape[1], 2, h.shape[2], 2, -1).sum((2, 4))
        expected[name] = {'kernel': (h * windows**2).sum((0, 1, 2)) / 2, 'bias': h.sum((0, 1, 2)) / 2}
        return (params[name]['kernel']**2 * h).repeat(2, 1).repeat(2, 2)

    def network_shape(name):
        return {'C1': (5, 5, 1, 6), 'C3': (5, 5, 6, 16), 'C5': (5, 5, 16, 120)}[name]

    h = back_through_convolution('C5', 'S4', h) * slopes['S4']**2
    h = back_through_subsampling('S4', 'C3', h) * slopes['C3']**2
    h = back_through_convolution('C3', 'S2', h) * slopes['S2']**2
    h = back_through_subsampling('S2', 'C1', h) * slopes['C1']**2
    back_through_convolution('C1', 'input', h)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), found, expected)


def test_each_example_is_a_step_at_the_rate_of_its_parameter():
    """A batch of three is three updates w <- w - rate / (damping + h) g, one after the other."""
    experiment = dataclasses.replace(PAPER, batch_size=3)
    task = build(experiment)
    params = task.init(jax.random.key(0))
    h = jax.tree.map(lambda a: jnp.abs(a) + 0.5, params)
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), np.uint8)
    facts = Statistics(np.full((32, 32, 3), 20, np.float32), np.zeros(3, np.float32), np.eye(3, dtype=np.float32))
    expected = params
    for number in range(3):
        x = (images[number:number + 1].astype(np.float32) - 20) / 200
        gradient = jax.grad(lambda p, x=x, number=number: task.loss(p, x, jnp.array([number]), jax.random.key(0))[0])
        expected = jax.tree.map(lambda w, g, h: w - 0.001 / (0.02 + h) * g, expected, gradient(expected), h)
    state = {'params': params, 'velocity': jax.tree.map(jnp.zeros_like, params), 'curvature': h}
    state, _, _ = train.make_step(task, experiment)(jax.tree.map(jnp.copy, state), images, np.arange(3), facts,
                                                    np.uint32(0), np.float32(0.001))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state['params'], expected)
    jax.tree.map(np.testing.assert_array_equal, state['curvature'], h)


def test_rates_fall_as_published():
    at_pass = [optimizers.learning_rate(PAPER, 60_000, 120 * k, ()) for k in range(20)]
    assert at_pass == pytest.approx([5e-4] * 2 + [2e-4] * 3 + [1e-4] * 3 + [5e-5] * 4 + [1e-5] * 8)
    assert (PAPER.optimizer.damping, PAPER.optimizer.curvature, PAPER.optimizer.update_batch) == (0.02, 500, 1)


def test_published_initialisation():
    params = build(PAPER).init(jax.random.key(0))
    fan_in = {'C1': 25, 'S2': 4, 'C5': 400, 'F6': 120, 'S4': 4}
    for layer, inputs in fan_in.items():
        largest = np.abs(params[layer]['kernel']).max()
        assert 0.6 * 2.4 / inputs < largest <= 2.4 / inputs and not np.any(params[layer]['bias'])
    c3, starts = np.abs(params['C3']['kernel']).max((0, 1)), np.cumsum([0] + [len(sources) for sources in TABLE_I])
    for sources, start, end in zip(TABLE_I, starts, starts[1:]):
        assert 0.8 * 2.4 / (25 * len(sources)) < c3[start:end].max() <= 2.4 / (25 * len(sources))


@pytest.mark.parametrize('name', [name for name in EXPERIMENTS if name != 'training_sizes'])
def test_every_experiment_trains_and_differs_from_the_published_one(name):
    experiment = EXPERIMENTS[name]
    published = EXPERIMENTS[experiment.published]
    steps = networks.two_steps(build, dataclasses.replace(experiment, batch_size=8), experiment.data.image_size)
    if experiment is not published:
        assert diff(experiment, published)
        assert steps != networks.two_steps(build, dataclasses.replace(published, batch_size=8), 32)


def test_every_arm_has_other_training_images():
    def outcome(experiment):
        assert diff(experiment, PAPER).keys() == {'data.train_split'}
        return experiment.data.train_split

    networks.every_arm_differs(EXPERIMENTS['training_sizes'], outcome)


@pytest.mark.parametrize('name', ['paper', 'caffe'])
def test_placement_changes_nothing(name):
    experiment = EXPERIMENTS[name]
    gradient = networks.loss_and_gradient_on('data:2,model:2', build(experiment), experiment, scale=1.0)
    assert gradient['C3']['bias'].sharding.shard_shape(gradient['C3']['bias'].shape)[0] * 2 == \
        len(gradient['C3']['bias'])


def test_every_row_names_an_experiment_that_exists():
    for table in (table for table in paper.TABLES if isinstance(table, Table)):
        assert {row.experiment for row in table.rows if row.experiment} <= set(EXPERIMENTS)
    assert set(paper.SEEN) <= set(EXPERIMENTS) and set(paper.COUNTS) <= set(EXPERIMENTS)


def test_images_too_small_for_c5_are_refused():
    with pytest.raises(UsageError, match='at least 32'):
        networks.shapes(build, change(PAPER, 'data.image_size', 28))


# lenet_iter_10000.caffemodel

def caffe_layers(widths=(3, 5, 7), classes=4):
    rng = np.random.default_rng(0)
    first, second, units = widths

    def pair(*shape):
        weight = rng.standard_normal(shape).astype(np.float32) / np.prod(shape[1:])**0.5
        return weight, rng.standard_normal(shape[0]).astype(np.float32)

    return [caffe.convolution('conv1', *pair(first, 1, 5, 5)), caffe.pooling('pool1', 'MAX', 2, 2),
            caffe.convolution('conv2', *pair(second, first, 5, 5)), caffe.pooling('pool2', 'MAX', 2, 2),
            caffe.inner_product('ip1', *pair(units, 16 * second)), caffe.Layer('relu1', 'ReLU'),
            caffe.inner_product('ip2', *pair(classes, units))]


def read(tmp_path, content):
    (tmp_path / 'file').write_bytes(content)
    return importers.read(tmp_path / 'file')


@pytest.mark.parametrize('old', [True, False], ids=['V1', 'new'])
def test_caffes_file_gives_opencvs_logits(old, tmp_path):
    pytest.importorskip('cv2', reason='needs opencv: install requirements-peer.txt')
    layers = caffe_layers()
    content = caffe.caffemodel(layers, old, 'LeNet')
    name, experiment, params = convert(read(tmp_path, content))
    assert name == 'caffe' and '3-5-7-4' in experiment.summary
    assert (experiment.data.mean, experiment.data.pixel_scale) == ((0.0, 0.0, 0.0), 256.0)
    images = np.random.default_rng(1).integers(0, 256, (3, 28, 28, 1)).astype(np.float32) / 256
    theirs = caffe.opencv_output(layers, content, images)
    task = build(experiment)
    ours = task.activations(params, jnp.asarray(images.repeat(3, 3)))['F6']
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, networks.shapes(build, experiment))


def test_weights_of_other_networks_are_refused(tmp_path):
    layers = caffe_layers()
    with pytest.raises(UsageError, match='no LeNet known here.*conv1, conv2, ip1 and ip2.*found conv1'):
        convert(read(tmp_path, caffe.caffemodel(layers[:-1], False)))
    wrong = [*layers[:4], layers[4]._replace(arrays=(layers[4].arrays[0][:, 1:], layers[4].arrays[1])), *layers[5:]]
    with pytest.raises(UsageError, match=r'F5 have the shapes \(7, 79\) and \(7,\), expected \(7, 80\)'):
        convert(read(tmp_path, caffe.caffemodel(wrong, False)))
