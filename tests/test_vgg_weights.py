"""Public weights give the outputs that torch and OpenCV compute from the same files: torchvision's VGG, and the
authors' own in Caffe's format. Weights are random and the networks narrow."""
import dataclasses

import jax
import numpy as np
import pytest
import safetensors.numpy

from lib import importers
from lib.data import augment, statistics
from lib.experiment import UsageError
from lib.importers import Saved
from reproductions.vgg import weights
from reproductions.vgg.experiments import EXPERIMENTS
from reproductions.vgg.model import CONFIGURATIONS, build
from tests import caffe

WIDTHS, FC, CLASSES = (4, 5, 6, 7, 8), 12, 5
FEATURES = {        # where torchvision has its convolutions
    'A': (0, 3, 6, 8, 11, 13, 16, 18),
    'B': (0, 2, 5, 7, 10, 12, 15, 17, 20, 22),
    'D': (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    'E': (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
}


def random_weights(configuration):
    """{layer: (weight, bias)} in the layout of torch and Caffe, that keep activations at the same size."""
    draw, found, inputs = np.random.default_rng(0), {}, 3
    shapes = {}
    for block, (windows, width) in enumerate(zip(CONFIGURATIONS[configuration], WIDTHS), 1):
        for number, window in enumerate(windows, 1):
            shapes[f'conv{block}_{number}'] = (width, inputs, window, window)
            inputs = width
    shapes |= {'fc6': (FC, 49 * inputs), 'fc7': (FC, FC), 'fc8': (CLASSES, FC)}
    for layer, shape in shapes.items():
        scale = np.float32(np.sqrt(2 / np.prod(shape[1:])))
        found[layer] = tuple(scale * draw.normal(size=size).astype(np.float32) for size in (shape, shape[0]))
    return found


def photographs():
    """uint8 [2, 224, 224, 3], of different colours from place to place."""
    draw = np.random.default_rng(1)
    coarse = draw.integers(0, 256, (2, 7, 7, 3)).repeat(32, 1).repeat(32, 2)
    return np.clip(coarse * (1.0, 0.8, 0.5) + draw.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)


def our_logits(experiment, params, images):
    """As an evaluation computes them from stored images, with no training set to take a mean from."""
    inputs = augment.centred(images, statistics.fixed(experiment.data.mean, images.shape[1]), experiment.data)
    return jax.jit(build(experiment).activations)(params, inputs / experiment.data.pixel_scale)['fc8']


def agree(ours, theirs):
    assert np.abs(theirs - theirs.mean(1, keepdims=True)).max() > 0.1, 'the logits say nothing'
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


# torchvision

def state_dict(configuration):
    places = [f'features.{place}' for place in FEATURES[configuration]] + [f'classifier.{place}' for place in (0, 3, 6)]
    return {f'{place}.{part}': value for place, pair in zip(places, random_weights(configuration).values(), strict=True)
            for part, value in zip(('weight', 'bias'), pair)}


def torch_vgg(torch):
    """torchvision's vgg11 in torch, its layers in torchvision's places, so that its names come out."""
    nn, (w1, w2, w3, w4, w5) = torch.nn, WIDTHS
    network = nn.Module()
    convs = {0: (3, w1), 3: (w1, w2), 6: (w2, w3), 8: (w3, w3), 11: (w3, w4), 13: (w4, w4), 16: (w4, w5), 18: (w5, w5)}
    pools = (2, 5, 10, 15, 20)
    network.features = nn.Sequential(*(
        nn.Conv2d(*convs[place], 3, padding=1) if place in convs else
        nn.MaxPool2d(2, 2) if place in pools else nn.ReLU() for place in range(21)))
    network.avgpool = nn.AdaptiveAvgPool2d(7)
    network.classifier = nn.Sequential(nn.Linear(49 * w5, FC), nn.ReLU(), nn.Dropout(), nn.Linear(FC, FC), nn.ReLU(),
                                       nn.Dropout(), nn.Linear(FC, CLASSES))
    return network.eval()


@pytest.mark.parametrize('form', ['zip', 'safetensors'])
def test_torchvisions_file_gives_torchs_logits(form, tmp_path):
    torch = pytest.importorskip('torch', reason='needs torch: install requirements-peer.txt')
    network = torch_vgg(torch)
    network.load_state_dict({name: torch.tensor(value) for name, value in state_dict('A').items()})
    if form == 'safetensors':
        safetensors.numpy.save_file({name: v.numpy() for name, v in network.state_dict().items()}, tmp_path / 'file')
    else:
        torch.save(network.state_dict(), tmp_path / 'file')
    name, experiment, params = weights.convert(importers.read(tmp_path / 'file'))
    assert name == 'torchvision_A'
    images = photographs()
    x = torch.tensor(images).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        theirs = network.classifier(network.avgpool(network.features(x)).flatten(1)).numpy()
    agree(our_logits(experiment, params, images), theirs)


@pytest.mark.parametrize('configuration, network', [('A', 'vgg11'), ('B', 'vgg13'), ('D', 'vgg16'), ('E', 'vgg19')])
def test_torchvisions_variant_is_named_and_nothing_else_changed(configuration, network):
    name, experiment, params = weights.convert(Saved('file', 'torch state dict', state_dict(configuration)))
    assert name == f'torchvision_{configuration}'
    assert experiment.summary == f"torchvision's {network} (4-5-6-7-8 maps)"
    assert np.allclose(experiment.data.mean, [123.675, 116.28, 103.53])
    unchanged(name, experiment, params)
    for layer in ('fc7', 'fc8'):        # doubled without a rounding
        weight, bias = random_weights(configuration)[layer]
        np.testing.assert_array_equal(params[layer]['kernel'] / 2, weight.T)
        np.testing.assert_array_equal(params[layer]['bias'], bias)


def unchanged(name, experiment, params):
    plain = EXPERIMENTS[name]
    model = dataclasses.replace(plain.model, widths=WIDTHS, fc_width=FC, classes=CLASSES)
    data = dataclasses.replace(plain.data, mean=experiment.data.mean)
    assert experiment == dataclasses.replace(plain, summary=experiment.summary, model=model, data=data)
    wanted = jax.eval_shape(build(experiment).init, jax.random.key(0))
    assert jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), params) \
        == jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), wanted)


# Caffe

def caffe_layers(configuration):
    found, pairs = [], random_weights(configuration)
    for block, windows in enumerate(CONFIGURATIONS[configuration], 1):
        for number, window in enumerate(windows, 1):
            name = f'conv{block}_{number}'
            found += [caffe.convolution(name, *pairs[name], f'pad: {window // 2}'),
                      caffe.Layer(f'relu{block}_{number}', 'ReLU')]
        found.append(caffe.pooling(f'pool{block}', 'MAX', 2, 2))
    for number in (6, 7):
        found += [caffe.inner_product(f'fc{number}', *pairs[f'fc{number}']), caffe.Layer(f'relu{number}', 'ReLU'),
                  caffe.Layer(f'drop{number}', 'Dropout', params='dropout_param { dropout_ratio: 0.5 }')]
    return [*found, caffe.inner_product('fc8', *pairs['fc8'])]


def read(tmp_path, content):
    (tmp_path / 'file').write_bytes(content)
    return importers.read(tmp_path / 'file')


@pytest.mark.parametrize('configuration, old, number', [('D', True, 16), ('E', False, 19)])
def test_the_authors_files_give_opencvs_logits(configuration, old, number, tmp_path):
    pytest.importorskip('cv2', reason='needs opencv: install requirements-peer.txt')
    layers, images = caffe_layers(configuration), photographs()
    content = caffe.caffemodel(layers, old)
    bgr = images[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
    theirs = caffe.opencv_output(layers, content, bgr)
    name, experiment, params = weights.convert(read(tmp_path, content))
    assert name == f'{configuration}_jitter'
    assert experiment.summary == f"the authors' VGG_ILSVRC_{number}_layers (4-5-6-7-8 maps)"
    unchanged(name, experiment, params)
    agree(our_logits(experiment, params, images), theirs)


def test_weights_of_other_networks_are_refused(tmp_path):
    arrays, expected = state_dict('D'), "no VGG known here: expected .* torchvision's vgg11, .* conv1_1 to fc8.*found"
    for wrong in ({}, {'features.0.weight': arrays['features.0.weight']}, arrays | {'features.1.weight': np.ones(3)}):
        with pytest.raises(UsageError, match=expected):
            weights.convert(Saved('file', 'torch state dict', wrong))
    for other in ('A', 'C'):
        content = caffe.caffemodel(caffe_layers(other), old=False)
        with pytest.raises(UsageError, match=r'conv1_1\.0, .* and so on' if other == 'A' else r'weights.* of conv3_3'):
            weights.convert(read(tmp_path, content))
    with pytest.raises(UsageError, match=r'fc6 have the shapes \(12, 200\) and \(12,\), expected \(12, 392\)'):
        weights.convert(Saved('file', 'torch state dict',
                              arrays | {'classifier.0.weight': arrays['classifier.0.weight'][:, :200]}))
    with pytest.raises(UsageError, match='batch normalisation, which is another network: use vgg11'):
        weights.convert(Saved('file', 'torch state dict', arrays | {'features.1.running_mean': np.ones(4)}))
