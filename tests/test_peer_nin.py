"""Network in Network against an implementation in PyTorch, written for this test, in float64; and its author's Caffe
model against OpenCV's reader. Networks are narrow."""
import dataclasses
from collections import OrderedDict

import jax
import numpy as np
import pytest

from lib import importers, layers
from lib.data import augment, statistics
from lib.experiment import UsageError
from reproductions.nin.experiments import EXPERIMENTS
from reproductions.nin.model import Dense, Dropout, GlobalAverage, MLPConv, Pool, build
from reproductions.nin.weights import CAFFE_MEAN, CAFFE_NAMES, convert
from tests import caffe
from tests.peer import in_torchs_layout, maps_first, random_params, same
from tests.test_nin import small

torch = pytest.importorskip('torch', reason='needs torch: install requirements-peer.txt')
torch.set_num_threads(1)
nn, F = torch.nn, torch.nn.functional


class Masked(nn.Module):
    """The paper's dropout: outputs are zeroed in training, by `mask`, and multiplied by the fraction kept at test."""

    def __init__(self, rate):
        super().__init__()
        self.rate, self.mask = rate, None

    def forward(self, x):
        return x * self.mask if self.training else x * (1 - self.rate)


class Peer(nn.Sequential):
    """The network of a model, on images [n, channels, s, s]. `side` is that of the maps that a first Linear reads."""

    def __init__(self, model, side):
        steps, maps, counts = OrderedDict(), model.channels, dict.fromkeys(('conv', 'cccp', 'pool', 'dropout', 'fc'), 0)

        def add(kind, module, relu=False):
            counts[kind] += 1
            steps[f'{kind}{counts[kind]}'] = nn.Sequential(OrderedDict(it=module, relu=nn.ReLU())) if relu else module

        for layer in model.layers:
            if isinstance(layer, MLPConv):
                add('conv', nn.Conv2d(maps, layer.maps, layer.size, layer.stride, layer.padding), True)
                maps = layer.maps
                for place, width in enumerate(layer.widths, 1):
                    add('cccp', nn.Conv2d(maps, width, 1), layer.last_unit or place < len(layer.widths))
                    maps = width
            elif isinstance(layer, Pool):
                ceil = model.rounding == 'ceil'
                add('pool', nn.MaxPool2d(3, 2, ceil_mode=ceil) if layer.kind == 'max' else
                    nn.AvgPool2d(3, 2, ceil_mode=ceil, count_include_pad=False))
            elif isinstance(layer, Dropout):
                add('dropout', Masked(model.dropout))
            elif isinstance(layer, GlobalAverage):
                steps['poolg'], side = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), 1
            elif isinstance(layer, Dense):
                add('fc', nn.Sequential(nn.Flatten(), nn.Linear(side * side * maps, layer.units)), layer.unit)
                maps, side = layer.units, 1
        super().__init__(steps)
        self.double()

    def load(self, arrays):
        """Arrays under LAYER.weight and LAYER.bias, in the order of the network's own."""
        names = [name.split('.')[0] + '.' + name.split('.')[-1] for name in self.state_dict()]
        self.load_state_dict({own: torch.tensor(arrays[name]) for own, name in zip(self.state_dict(), names)})

    def gradients(self):
        return {name.split('.')[0] + '.' + name.split('.')[-1]: leaf.grad for name, leaf in self.named_parameters()}

    def outputs(self, x):
        """The output of every layer of ours by its name, and what goes into each dropout."""
        found, inputs = {}, {}
        for step, module in self.named_children():
            if isinstance(module, Masked):
                inputs[step] = x
            x = module(x)
            if not isinstance(module, Masked):
                found[step] = x
        return found, inputs


NETWORKS = {            # experiment, pixels a side, side of the maps that fc1 reads
    'paper': (18, None),
    'mnist': (13, None),
    'fully_connected_dropout': (16, 4),
    'average_pool2': (17, None),
    'linear_scores': (16, None),
    'imagenet': (71, None),
    'flatten': (147, 1),
}


@pytest.mark.parametrize('name', NETWORKS)
def test_every_activation_loss_and_gradient(name):
    size, side = NETWORKS[name]
    experiment = small(EXPERIMENTS[name])
    experiment = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, image_size=size))
    model, task, n = experiment.model, build(experiment), 3
    params = random_params(task)
    x = 2 * np.random.default_rng(1).standard_normal((n, size, size, 3))
    labels = np.array([3, 0, 9])

    @jax.jit
    def ours(params, x, key):
        return task.activations(params, x), jax.value_and_grad(task.loss, has_aux=True)(params, x, labels, key)

    peer = Peer(model, side)
    flattened = {'fc1': side} if side else {}
    peer.load(in_torchs_layout(params, flattened))
    images = torch.tensor(maps_first(x[..., :model.channels]))
    seen, dropped = peer.eval().outputs(images)
    with jax.enable_x64(True):
        key = jax.random.key(5)
        activations, ((loss, (logits, moved)), gradients) = ours(params, x, key)
        at = [number for number, layer in enumerate(model.layers) if isinstance(layer, Dropout)]
        for number, (step, maps) in zip(at, dropped.items(), strict=True):
            ones = np.ones([maps.shape[0], *maps.shape[2:], maps.shape[1]])
            kept = layers.dropout(ones, model.dropout, jax.random.fold_in(key, number))
            getattr(peer, step).mask = torch.tensor(maps_first(kept))
    same({layer: maps_first(array) for layer, array in activations.items()}, seen, 1e-12)      # in the same order too

    theirs = peer.train()(images)
    their_loss = F.cross_entropy(theirs, torch.tensor(labels))
    their_loss.backward()
    same({'logits': logits, 'loss': loss}, {'logits': theirs, 'loss': their_loss}, 1e-12)
    mine, expected = in_torchs_layout(gradients, flattened), peer.gradients()
    assert moved == {} and all(gradient.abs().max() > 1e-8 for gradient in expected.values())
    same({weight: mine[weight] for weight in expected}, expected, 1e-12)


# Caffe

MAPS = (6, 5, 7, 8, 6, 9, 10, 8, 7, 12, 9, 5)
WINDOWS = {'conv1': (11, 'stride: 4'), 'conv2': (5, 'pad: 2'), 'conv3': (3, 'pad: 1'), 'conv4': (3, 'pad: 1')}


def network(maps=MAPS):
    """The author's layers, with random weights that keep activations at the same size."""
    draw, found, inputs = np.random.default_rng(0), [], 3
    for (layer, name), outputs in zip(CAFFE_NAMES.items(), maps):
        size, params = WINDOWS.get(layer, (1, ''))
        shape = (outputs, inputs, size, size)
        weight = draw.normal(0.02, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        bias = draw.normal(0.2, 0.3, outputs).astype(np.float32)
        found += [caffe.convolution(name, weight, bias, params), caffe.Layer(f'relu_{layer}', 'ReLU')]
        if layer in ('cccp2', 'cccp4', 'cccp6'):
            found.append(caffe.pooling(f'pool_{layer}', 'MAX', 3, 2))
        if layer == 'cccp6':
            found.append(caffe.Layer('drop', 'Dropout', params='dropout_param { dropout_ratio: 0.5 }'))
        inputs = outputs
    return [*found, caffe.pooling('pool4', 'AVE', 6, 1)]


def read(tmp_path, content):
    (tmp_path / 'file').write_bytes(content)
    return importers.read(tmp_path / 'file')


@pytest.mark.parametrize('old', [True, False], ids=['V1', 'new'])
def test_caffes_file_gives_opencvs_logits(old, tmp_path):
    pytest.importorskip('cv2', reason='needs opencv: install requirements-peer.txt')
    content = caffe.caffemodel(network(), old, 'nin_imagenet')
    coarse = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3)).repeat(28, 1).repeat(28, 2)
    images = np.clip(coarse * (1.0, 0.8, 0.5), 0, 255).astype(np.uint8)
    bgr = images[..., ::-1] - np.array(CAFFE_MEAN[::-1], np.float32)
    theirs = caffe.opencv_output(network(), content, bgr).reshape(2, -1)
    name, experiment, params = convert(read(tmp_path, content))
    assert name == 'imagenet' and '6-5-7-8-6-9-10-8-7-12-9-5 maps' in experiment.summary
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, jax.eval_shape(build(experiment).init,
                                                                                   jax.random.key(0)))
    inputs = augment.centre(images, statistics.fixed(experiment.data.mean, 224), experiment.data)
    ours = jax.jit(build(experiment).activations)(params, inputs)['poolg']
    assert np.abs(theirs - theirs.mean(1, keepdims=True)).max() > 0.1, 'the logits say nothing'
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def without(layer):
    return [other for other in network() if other.name != layer]


def misshapen(layer):
    return [other._replace(arrays=(other.arrays[0][:, :-1], other.arrays[1])) if other.name == layer else other
            for other in network()]


@pytest.mark.parametrize('net, sentence', [
    (without('cccp8-1024'), r'expected the layers conv1, .*cccp8-1024 .*found cccp1\.0'),
    (misshapen('conv2'), r'conv2 have the shapes \(8, 6, 5, 5\) and \(8,\), expected \(8, 7, 5, 5\)'),
    ([caffe.convolution('conv1', np.ones((2, 3, 3, 3), np.float32), np.ones(2, np.float32))], 'found conv1.0, conv1.1'),
], ids=range(3))
def test_weights_of_other_networks_are_refused(net, sentence, tmp_path):
    with pytest.raises(UsageError, match=sentence):
        convert(read(tmp_path, caffe.caffemodel(net, True)))
