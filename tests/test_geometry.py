"""Receptive fields and windows against the gradients of single units, and what the program of a network is read for."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from lib import geometry, layers
from lib.geometry import Window
from lib.layers import Conv, Linear, Local
from lib.task import classifier, untapped
from reproductions.alexnet.experiments import EXPERIMENTS
from reproductions.alexnet.model import build

SIDE = 40


class Weights(nnx.Module):
    def __init__(self, shape):
        self.kernel = nnx.Param(jnp.ones(shape))


class Small(nnx.Module):
    """One layer of every kind, which overhang, leave pixels unread and have borders; branches; sums of slices."""

    def __init__(self, rngs):
        def how(**more):
            return dict(init=lambda key, shape, fan_in: jax.random.uniform(key, shape, minval=0.1), rngs=rngs, **more)

        self.conv1 = Conv(3, 4, 5, stride=2, **how())                           # 40 -> 19, overhangs by 1
        self.conv2 = Conv(4, 4, 3, padding=1, groups=2, **how())
        self.narrow = Conv(4, 2, 1, **how(bias=None))
        self.wide = Conv(2, 2, 5, padding=2, **how())
        self.sums = Weights((6,))
        self.connected = Weights((3, 3, 5))                                     # of five pairs of maps
        self.local = Local(4, 4, 2, 3, padding=1, **how())
        self.scale = nnx.BatchNorm(2, rngs=rngs)
        self.fc = Linear(2 * 2 * 2, 3, **how())
        self.aside = Linear(3, 2, **how())

    def __call__(self, x, key=None, tap=untapped):
        x = tap('conv1', self.conv1(x))
        x = tap('norm', layers.local_response_norm(x, 3))
        x = tap('pool1', layers.average_pool(x, 3, 2))
        x = tap('conv2', self.conv2(x))
        one = tap('narrow', self.narrow(x))
        one = tap('wide', self.wide(one))
        x = tap('joined', jnp.concatenate([one, x], -1))
        pairs = x[:, 1:8:2, 1:8:2] + x[:, :8:2, :8:2] + x[:, :8:2, 1:8:2] + x[:, 1:8:2, :8:2]
        x = tap('sums', jnp.tanh(pairs * self.sums.kernel[...]))
        kernel = jnp.zeros((3, 3, 6, 4)).at[:, :, np.array([0, 1, 2, 4, 5]), np.array([0, 1, 2, 3, 3])].set(
            self.connected.kernel[...])
        x = tap('connected', lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=(
            'NHWC', 'HWIO', 'NHWC')))
        x = tap('local', self.scale(self.local(x), use_running_average=True))
        x = tap('pool2', layers.max_pool(x, 2, 2))
        logits = tap('fc', self.fc(x))
        return logits if key is None else (logits, self.aside(logits))


TASK = classifier(Small)


@pytest.fixture(scope='module')
def small():
    return geometry.measure(TASK, SIDE)


def test_receptive_fields_are_where_the_gradients_of_single_units_are(small):
    """Of the first, a middle and the last row: all the pixels that lie on the image, and no others. Of several images,
    because of a window of max pooling only one place has a gradient."""
    images, params = 0.01 * jax.random.normal(jax.random.key(1), (8, SIDE, SIDE, 3)), TASK.init(jax.random.key(0))
    units = [(layer, row) for layer in small.layers if layer.has_places
             for row in sorted({0, layer.size[0] // 2, layer.size[0] - 1})]

    @jax.jit
    def seen(signals):
        gradient = jnp.abs(jax.vjp(lambda images: TASK.activations(params, images), images)[1](signals)[0])
        return gradient.sum((0, 2, 3)), gradient.sum((0, 1, 3))

    shapes = jax.eval_shape(TASK.activations, params, images)
    for layer, row in units:
        signals = jax.tree.map(lambda output: np.zeros(output.shape, np.float32), shapes)
        signals[layer.name][:, row, row] = 1
        first = layer.start + row * (layer.jump or 0)
        expected = np.arange(max(0, first), min(SIDE, first + layer.receptive_field))
        for rows_or_columns in seen(signals):
            np.testing.assert_array_equal(np.flatnonzero(rows_or_columns), expected, err_msg=f'{layer.name} {row}')


def test_kinds_windows_and_work(small):
    found = {layer.name: (layer.kind, layer.window, layer.parameters, layer.multiply_adds) for layer in small.layers}
    assert found == {
        'conv1': ('convolution', Window(5, 2, (0, 1)), 304, 19 * 19 * 300),
        'norm': ('normalisation', None, 0, 0),
        'pool1': ('average pooling', Window(3, 2, (0, 0)), 0, 0),
        'conv2': ('convolution', Window(3, 1, (1, 1)), 76, 9 * 9 * 72),
        'narrow': ('convolution', Window(1, 1, (0, 0)), 8, 9 * 9 * 8),
        'wide': ('convolution', Window(5, 1, (2, 2)), 102, 9 * 9 * 100),
        'joined': ('concatenation', None, 0, 0),
        'sums': ('subsampling', Window(2, 2, (0, -1)), 6, 0),
        'connected': ('convolution', Window(3, 1, (1, 1)), 45, 4 * 4 * 45),
        'local': ('locally connected', Window(3, 1, (1, 1)), 4 * 4 * (36 + 1) * 2 + 4, 4 * 4 * 36 * 2),
        'pool2': ('max pooling', Window(2, 2, (0, 0)), 0, 0),
        'fc': ('fully connected', None, 27, 24)}
    assert [layer.groups for layer in small.layers if layer.groups > 1] == [2]
    assert small['local'].shapes['scale.scale'] == (2,) and small['joined'].reads == ('conv2', 'wide')


def test_totals_hold_what_training_has_besides(small):
    assert small.training_only == {'aside': 8}
    assert small.total == sum(small.parameters.values()) == sum(layer.parameters for layer in small.layers) + 8
    assert small.multiply_adds == sum(layer.multiply_adds for layer in small.layers)
    assert small['conv1'].output_bytes == 4 * 19 * 19 * 4 and small['conv1'].parameter_bytes == 4 * 304


def test_alexnet_sees_195_pixels():
    network = geometry.measure(build(EXPERIMENTS['paper']), 224)
    known = {'conv1': 11, 'pool1': 19, 'conv2': 51, 'pool2': 67, 'conv3': 99, 'conv4': 131, 'conv5': 163, 'pool5': 195}
    assert {name: network[name].receptive_field for name in known} == known
    assert network.last_maps.name == 'pool5' and network['conv1'].window == Window(11, 4, (0, 3))
    assert [(network[name].jump, network[name].start) for name in ('conv1', 'conv2', 'pool5')] == [
        (4, 0), (8, -16), (32, -64)]


def test_a_layer_whose_normalisation_comes_first_keeps_its_own_window():
    """In one_weird_trick, norm1 follows the convolution and comes before its unit."""
    network = geometry.measure(build(EXPERIMENTS['one_weird_trick_128']), 224)
    assert network['norm1'].kind == 'normalisation' and network['norm1'].reads == ('conv1',)
    assert network['norm1'].window is None
    assert network['conv1'].window == Window(11, 4, (0, 3)) and network['conv1'].multiply_adds == 55**2 * 23_232


def test_global_pooling_is_not_the_last_maps():
    class Averaged(nnx.Module):
        def __init__(self, rngs):
            self.conv = Conv(3, 4, 3, padding=1, rngs=rngs)

        def __call__(self, x, key=None, tap=untapped):
            return tap('mean', tap('pool', layers.average_pool(tap('conv', self.conv(x)), 8, 1)).mean((1, 2)))

    network = geometry.measure(classifier(Averaged), 8)
    assert network['pool'].is_global and network['mean'].kind == 'average pooling'
    assert network.last_maps.name == 'conv' and network.receptive_field == 3


def test_what_cannot_be_followed_is_refused():
    class Summed(nnx.Module):
        def __init__(self, rngs):
            self.conv = Conv(3, 4, 3, rngs=rngs)

        def __call__(self, x, key=None, tap=untapped):
            return tap('sum', jnp.cumsum(tap('conv', self.conv(x)), 1))

    with pytest.raises(NotImplementedError, match='cannot follow cumsum'):
        geometry.measure(classifier(Summed), 8)
