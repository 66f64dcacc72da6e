"""Public weights give the outputs that torch and OpenCV compute from the same files: torchvision's AlexNet, and the two
networks of Caffe. Weights are random and the networks narrow, but for the slow test at full size."""
import dataclasses

import jax
import numpy as np
import pytest
import safetensors.numpy

from lib import importers
from lib.data import augment, statistics
from lib.experiment import UsageError
from reproductions.alexnet.experiments import EXPERIMENTS
from reproductions.alexnet.model import LAYERS, build
from reproductions.alexnet.weights import CAFFE_MEAN, TORCHVISION_NAMES, convert
from tests import caffe

WIDTHS, FC, CLASSES = (6, 8, 10, 12, 14), 16, 5


def shapes(widths, fc_width, classes, groups):
    """[outputs, inputs, ...] of every layer's weights."""
    w1, w2, w3, w4, w5 = widths
    return dict(zip(LAYERS, (
        (w1, 3, 11, 11), (w2, w1 // groups, 5, 5), (w3, w2, 3, 3), (w4, w3 // groups, 3, 3), (w5, w4 // groups, 3, 3),
        (fc_width, w5 * 36), (fc_width, fc_width), (classes, fc_width))))


def random_weights(**sizes):
    """{layer: (weight, bias)} that keep activations at the same size."""
    draw, found = np.random.default_rng(0), {}
    for layer, shape in shapes(**sizes).items():
        scale = np.float32(np.sqrt(2 / np.prod(shape[1:])))
        found[layer] = tuple(scale * draw.normal(size=size).astype(np.float32) for size in (shape, shape[0]))
    return found


def photographs(size):
    """uint8 [2, size, size, 3], of different colours from place to place."""
    draw = np.random.default_rng(1)
    coarse = draw.integers(0, 256, (2, 8, 8, 3)).repeat(-(-size // 8), 1).repeat(-(-size // 8), 2)[:, :size, :size]
    return np.clip(coarse * (1.0, 0.8, 0.5) + draw.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)


def our_logits(experiment, params, images):
    """As an evaluation computes them from stored images, with no training set to take a mean from."""
    known = statistics.fixed(experiment.data.mean, images.shape[1])
    inputs = augment.centre(images, known, experiment.data)
    return jax.jit(build(experiment).activations)(params, inputs)['fc8']


def agree(ours, theirs):
    assert np.abs(theirs - theirs.mean(1, keepdims=True)).max() > 0.1, 'the logits say nothing'
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


# torchvision

def state_dict(weights):
    return {f'{TORCHVISION_NAMES[layer]}.{part}': value
            for layer, pair in weights.items() for part, value in zip(('weight', 'bias'), pair)}


def torch_alexnet(torch, widths, fc_width, classes):
    """The network in torch, with torchvision's layers in torchvision's places, so that its names come out."""
    nn, (w1, w2, w3, w4, w5) = torch.nn, widths

    class AlexNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(3, w1, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
                nn.Conv2d(w1, w2, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
                nn.Conv2d(w2, w3, 3, padding=1), nn.ReLU(), nn.Conv2d(w3, w4, 3, padding=1), nn.ReLU(),
                nn.Conv2d(w4, w5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2))
            self.avgpool = nn.AdaptiveAvgPool2d(6)
            self.classifier = nn.Sequential(
                nn.Dropout(), nn.Linear(w5 * 36, fc_width), nn.ReLU(), nn.Dropout(), nn.Linear(fc_width, fc_width),
                nn.ReLU(), nn.Linear(fc_width, classes))

        def forward(self, x):
            return self.classifier(self.avgpool(self.features(x)).flatten(1))

    return AlexNet().eval()


def torch_logits(torch, network, images):
    x = torch.tensor(images).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        return network(x).numpy()


@pytest.mark.parametrize('form', ['zip', 'legacy', 'parallel', 'safetensors'])
def test_torchvisions_file_gives_torchs_logits(form, tmp_path):
    torch = pytest.importorskip('torch', reason='needs torch: install requirements-peer.txt')
    network = torch_alexnet(torch, WIDTHS, FC, CLASSES)
    weights = random_weights(widths=WIDTHS, fc_width=FC, classes=CLASSES, groups=1)
    network.load_state_dict({name: torch.tensor(value) for name, value in state_dict(weights).items()})
    if form == 'safetensors':
        safetensors.numpy.save_file({name: v.numpy() for name, v in network.state_dict().items()}, tmp_path / 'file')
    else:
        saved = torch.nn.DataParallel(network) if form == 'parallel' else network
        torch.save(saved.state_dict(), tmp_path / 'file', _use_new_zipfile_serialization=form != 'legacy')
    _, experiment, params = convert(importers.read(tmp_path / 'file'))
    images = photographs(224)
    agree(our_logits(experiment, params, images), torch_logits(torch, network, images))


@pytest.mark.slow
def test_torchvisions_file_at_full_size(tmp_path):
    torch = pytest.importorskip('torch', reason='needs torch: install requirements-peer.txt')
    network = torch_alexnet(torch, (64, 192, 384, 256, 256), 4096, 1000)
    weights = random_weights(widths=(64, 192, 384, 256, 256), fc_width=4096, classes=1000, groups=1)
    network.load_state_dict({name: torch.tensor(value) for name, value in state_dict(weights).items()})
    torch.save(network.state_dict(), tmp_path / 'file')
    _, experiment, params = convert(importers.read(tmp_path / 'file'))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 61_100_840
    assert experiment.model == EXPERIMENTS['torchvision'].model
    images = photographs(256)
    cut = images[:, 16:240, 16:240]
    agree(our_logits(experiment, params, images), torch_logits(torch, network, cut))


def test_torchvisions_variant_is_named_and_nothing_else_changed():
    weights = random_weights(widths=WIDTHS, fc_width=FC, classes=CLASSES, groups=1)
    _, experiment, params = convert(importers.Saved('file', 'torch state dict', state_dict(weights)))
    assert "torchvision's AlexNet (6-8-10-12-14 maps, no groups, no LRN" in experiment.summary
    assert np.allclose(experiment.data.mean, [123.675, 116.28, 103.53])
    plain = EXPERIMENTS['torchvision']
    model = dataclasses.replace(plain.model, widths=WIDTHS, fc_width=FC, classes=CLASSES)
    data = dataclasses.replace(plain.data, mean=experiment.data.mean)
    assert experiment == dataclasses.replace(plain, summary=experiment.summary, model=model, data=data)
    wanted = jax.eval_shape(build(experiment).init, jax.random.key(0))
    assert jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), params) \
        == jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), wanted)
    for layer in ('fc7', 'fc8'):        # doubled without a rounding
        np.testing.assert_array_equal(params[layer]['kernel'] / 2, weights[layer][0].T)
        np.testing.assert_array_equal(params[layer]['bias'], weights[layer][1])


# Caffe

CONVOLUTIONS = {'conv1': 'stride: 4', 'conv2': 'pad: 2 group: 2', 'conv3': 'pad: 1', 'conv4': 'pad: 1 group: 2',
                'conv5': 'pad: 1 group: 2'}


def caffe_layers(weights, variant, norm='local_size: 5 alpha: 0.0001 beta: 0.75'):
    """Every layer, in the order of the network; 'mixed' is neither of Caffe's two."""
    found, norm_first = [], {'caffe': (1, 2), 'caffenet': (), 'mixed': (1,)}[variant]

    def convolved(number):
        name = f'conv{number}'
        return [caffe.convolution(name, *weights[name], CONVOLUTIONS[name]), caffe.Layer(f'relu{number}', 'ReLU')]

    for number in (1, 2):
        both = [caffe.Layer(f'norm{number}', 'LRN', params=f'lrn_param {{ {norm} }}'),
                caffe.pooling(f'pool{number}', 'MAX', 3, 2)]
        found += convolved(number) + (both if number in norm_first else both[::-1])
    for number in (3, 4, 5):
        found += convolved(number)
    found += [caffe.pooling('pool5', 'MAX', 3, 2)]
    for number in (6, 7):
        found += [caffe.inner_product(f'fc{number}', *weights[f'fc{number}']), caffe.Layer(f'relu{number}', 'ReLU'),
                  caffe.Layer(f'drop{number}', 'Dropout', params='dropout_param { dropout_ratio: 0.5 }')]
    return [*found, caffe.inner_product('fc8', *weights['fc8'])]


def caffemodel(weights, variant, old, name='', only_weights=False, norm='alpha: 0.0001', **arrays):
    """What is left out of the norm has Caffe's default. `arrays` replace those of layers, which none takes out."""
    layers = [layer._replace(arrays=arrays.get(layer.name, layer.arrays))
              for layer in caffe_layers(weights, variant, norm)]
    return caffe.caffemodel([layer for layer in layers if layer.arrays or layer.arrays == () and not only_weights],
                            old, name)


@pytest.fixture(scope='module')
def weights():
    return random_weights(widths=WIDTHS, fc_width=FC, classes=CLASSES, groups=2)


def read(tmp_path, content):
    (tmp_path / 'file').write_bytes(content)
    return importers.read(tmp_path / 'file')


@pytest.mark.parametrize('old', [True, False], ids=['V1', 'new'])
def test_a_caffemodel_that_protobuf_wrote_reads_back_equal(weights, old, tmp_path):
    saved = read(tmp_path, caffemodel(weights, 'caffenet', old, 'CaffeNet'))
    assert saved.network == 'CaffeNet'
    assert [(layer.name, layer.type) for layer in saved.layers if 'drop' not in layer.name] \
        == [layer[:2] for layer in caffe_layers(weights, 'caffenet') if layer.type != 'Dropout']
    assert list(saved.arrays) == [f'{layer}.{number}' for layer in LAYERS for number in (0, 1)]
    for layer, pair in weights.items():
        for number, values in enumerate(pair):
            np.testing.assert_array_equal(saved.arrays[f'{layer}.{number}'], values, strict=True)


@pytest.mark.parametrize('old', [True, False], ids=['V1', 'new'])
@pytest.mark.parametrize('variant', ['caffe', 'caffenet'])
def test_caffes_files_give_opencvs_logits(weights, variant, old, tmp_path):
    pytest.importorskip('cv2', reason='needs opencv: install requirements-peer.txt')
    content = caffemodel(weights, variant, old, 'net')
    images = photographs(227)
    bgr = images[..., ::-1] - np.array([104.00698793, 116.66876762, 122.67891434], np.float32)
    theirs = caffe.opencv_output(caffe_layers(weights, variant), content, bgr)
    saved = read(tmp_path, content)
    _, experiment, params = convert(saved)
    agree(our_logits(experiment, params, images), theirs)
    other = EXPERIMENTS[{'caffe': 'caffenet', 'caffenet': 'caffe'}[variant]].model
    wrong = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, lrn_after=other.lrn_after))
    assert np.abs(our_logits(wrong, params, images) - theirs).max() > 0.01 * np.abs(theirs).max(), 'orders look alike'


@pytest.mark.parametrize('variant, network', [('caffe', 'AlexNet'), ('caffenet', 'CaffeNet')])
def test_caffes_variants_are_told_apart_by_their_layers_or_else_by_name(weights, variant, network, tmp_path):
    other = {'AlexNet': 'CaffeNet', 'CaffeNet': 'AlexNet'}[network]
    for content in (caffemodel(weights, variant, True, other),
                    caffemodel(weights, variant, False, network, only_weights=True)):
        name, experiment, _ = convert(read(tmp_path, content))
        assert name == variant and f"Caffe's {network} (" in experiment.summary
        assert '6-8-10-12-14 maps' in experiment.summary and 'channel means' in experiment.summary
        plain = EXPERIMENTS[variant]
        model = dataclasses.replace(plain.model, widths=WIDTHS, fc_width=FC, classes=CLASSES)
        data = dataclasses.replace(plain.data, mean=CAFFE_MEAN)
        assert experiment == dataclasses.replace(plain, summary=experiment.summary, model=model, data=data)


@pytest.mark.parametrize('make, sentence', [
    (lambda weights: caffemodel(weights, 'caffe', True, 'net', only_weights=True),
     "only layers with weights.* is 'net'"),
    (lambda weights: caffemodel(weights, 'caffe', True, norm='alpha: 0.0001 k: 2.0'), 'k=2.0.* not the LRN of Caffe'),
    (lambda weights: caffemodel(weights, 'caffe', True, norm='alpha: 0.0001 norm_region: 1'),
     'across=False.* not the LRN of Caffe'),
    (lambda weights: caffemodel(weights, 'caffe', True, fc8=None), r'expected .*conv1 to fc8.*found conv1\.0'),
    (lambda weights: caffemodel(weights | {'fc6': (weights['fc6'][0][:, :-36], weights['fc6'][1])}, 'caffe', False),
     r'fc6 have the shapes \(16, 468\) and \(16,\), expected \(16, 504\)'),
    (lambda weights: caffemodel(weights | {'conv2': (weights['conv3'][0], weights['conv2'][1])}, 'caffe', False),
     'the weights and biases of conv2'),
    (lambda weights: caffemodel(weights, 'caffe', False, conv2=(np.float32(1),) * 2), 'conv'),
    (lambda weights: caffemodel(weights, 'mixed', True),
     "neither Caffe's AlexNet nor its CaffeNet: its layers are Convolution, LRN, Pooling, Convolution, Pool"),
], ids=range(8))
def test_weights_of_other_networks_are_refused(weights, make, sentence, tmp_path):
    with pytest.raises(UsageError, match=sentence):
        convert(read(tmp_path, make(weights)))


def test_a_caffemodel_with_another_layer_is_refused(weights, tmp_path):
    saved = read(tmp_path, caffemodel(weights, 'caffe', True))
    with pytest.raises(UsageError, match='no AlexNet known here'):
        convert(saved._replace(arrays=saved.arrays | {'fc9.0': np.ones(3)}))


def test_state_dicts_of_other_networks_are_refused(weights):
    arrays = state_dict(weights)
    for wrong in ({}, {'features.0.weight': arrays['features.0.weight']}, arrays | {'features.1.weight': np.ones(3)}):
        with pytest.raises(UsageError, match='no AlexNet known here.*features.0.weight to classifier.6.bias.*found'):
            convert(importers.Saved('file', 'torch state dict', wrong))
    with pytest.raises(UsageError, match='does not fit torchvision: .*conv2'):
        convert(importers.Saved('file', 'torch state dict', arrays))        # groups, which torchvision's has not
