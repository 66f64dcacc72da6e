"""Network in Network against an implementation in PyTorch, in float64; and its author's Caffe model against OpenCV's
reader. Networks are narrow."""
import dataclasses

import jax
import numpy as np
import pytest

from lib import importers, layers
from lib.data import augment, statistics
from lib.experiment import UsageError
from reproductions.nin.experiments import EXPERIMENTS
from reproductions.nin.model import Dropout, build
from reproductions.nin.weights import CAFFE_MEAN, CAFFE_NAMES, convert
from tests import caffe
from tests.peer import in_torchs_layout, maps_first, random_params, same
from tests.test_nin import small

torch = pytest.importorskip('torch', reason='needs torch: install requirements-peer.txt')
torch.set_num_threads(1)
peers = pytest.importorskip('reproductions.nin.peer')


def by_layer(arrays):
    """Arrays of the peer without the places of modules within a layer: conv1.it.weight is conv1.weight."""
    return {name.split('.')[0] + '.' + name.split('.')[-1]: array for name, array in arrays.items()}


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

    peer = peers.make(experiment).double()
    flattened = {'fc1': side} if side else {}
    arrays, own = in_torchs_layout(params, flattened), peer.state_dict()
    peer.load_state_dict({name: torch.tensor(arrays[layer]) for name, layer in zip(own, by_layer(own))})
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
    their_loss = peer.loss(theirs, torch.tensor(labels))
    their_loss.backward()
    same({'logits': logits, 'loss': loss}, {'logits': theirs, 'loss': their_loss}, 1e-12)
    mine = in_torchs_layout(gradients, flattened)
    expected = by_layer({name: leaf.grad for name, leaf in peer.named_parameters()})
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
