"""Caffe's weights of GoogLeNet give the outputs that OpenCV computes from the same file. Weights are random and the
network narrow."""
import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from lib import importers
from lib.data import augment, statistics
from lib.experiment import UsageError
from reproductions.googlenet.experiments import EXPERIMENTS
from reproductions.googlenet.model import INCEPTION, POOL_AFTER, GoogLeNet
from reproductions.googlenet.weights import convert
from tests import caffe

CLASSES = 6


class Writer:
    """The layers of bvlc_googlenet with few maps; weights keep the size of a signal."""

    def __init__(self, heads):
        self.layers, self.draw = [], np.random.default_rng(0)
        maps = self.conv('conv1/7x7_s2', 3, 6, 7, 'stride: 2 pad: 3', 'data')
        self.layers.append(caffe.pooling('pool1/3x3_s2', 'MAX', 3, 2))
        self.norm('pool1/norm1', 'pool1/3x3_s2')
        self.conv('conv2/3x3_reduce', maps, 4, 1, '', 'pool1/norm1')
        maps = self.conv('conv2/3x3', 4, 5, 3, 'pad: 1', 'conv2/3x3_reduce')
        self.norm('conv2/norm2', 'conv2/3x3')
        self.layers.append(caffe.pooling('pool2/3x3_s2', 'MAX', 3, 2))
        before = 'pool2/3x3_s2'
        for number, name in enumerate(INCEPTION):
            maps, before = self.module(f'inception_{name}', maps, before, 3 + number % 2), f'inception_{name}/output'
            if heads and name in ('4a', '4d'):
                self.head({'4a': 'loss1', '4d': 'loss2'}[name], maps, before)
            if name in POOL_AFTER:
                above = f'{POOL_AFTER[name]}/3x3_s2'
                self.layers.append(caffe.pooling(above, 'MAX', 3, 2, bottoms=(before,)))
                before = above
        self.layers.append(caffe.pooling('pool5/7x7_s1', 'AVE', 7, 1, bottoms=(before,)))
        self.layers.append(caffe.Layer('pool5/drop_7x7_s1', 'Dropout', (), 'dropout_param { dropout_ratio: 0.4 }'))
        self.linear('loss3/classifier', maps, CLASSES, 'pool5/7x7_s1')

    def arrays(self, *shape):
        scale = (2 / np.prod(shape[1:]))**0.5
        return tuple((scale * self.draw.normal(size=size)).astype(np.float32) for size in (shape, shape[0]))

    def conv(self, name, inputs, outputs, size, params, reads):
        self.layers.append(caffe.convolution(name, *self.arrays(outputs, inputs, size, size), params, (reads,)))
        self.layers.append(caffe.Layer(f'{name}_relu', 'ReLU', bottoms=(name,)))
        return outputs

    def linear(self, name, inputs, outputs, reads):
        self.layers.append(caffe.inner_product(name, *self.arrays(outputs, inputs), (reads,)))

    def norm(self, name, reads):
        self.layers.append(caffe.Layer(name, 'LRN', (), 'lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }',
                                       (reads,)))

    def module(self, name, maps, reads, width):
        """Branches of different widths."""
        self.conv(f'{name}/1x1', maps, width, 1, '', reads)
        self.conv(f'{name}/3x3_reduce', maps, 3, 1, '', reads)
        self.conv(f'{name}/3x3', 3, width + 1, 3, 'pad: 1', f'{name}/3x3_reduce')
        self.conv(f'{name}/5x5_reduce', maps, 2, 1, '', reads)
        self.conv(f'{name}/5x5', 2, 3, 5, 'pad: 2', f'{name}/5x5_reduce')
        self.layers.append(caffe.pooling(f'{name}/pool', 'MAX', 3, 1, 'pad: 1', (reads,)))
        self.conv(f'{name}/pool_proj', maps, 2, 1, '', f'{name}/pool')
        self.layers.append(caffe.Layer(f'{name}/output', 'Concat', bottoms=tuple(
            f'{name}/{branch}' for branch in ('1x1', '3x3', '5x5', 'pool_proj'))))
        return 2 * width + 6

    def head(self, name, maps, reads):
        self.layers.append(caffe.pooling(f'{name}/ave_pool', 'AVE', 5, 3, bottoms=(reads,)))
        self.conv(f'{name}/conv', maps, 3, 1, '', f'{name}/ave_pool')
        self.linear(f'{name}/fc', 3 * 4 * 4, 7, f'{name}/conv')
        self.layers.append(caffe.Layer(f'{name}/relu_fc', 'ReLU', bottoms=(f'{name}/fc',)))
        self.layers.append(caffe.Layer(f'{name}/drop_fc', 'Dropout', (), 'dropout_param { dropout_ratio: 0.7 }',
                                       (f'{name}/fc',)))
        self.linear(f'{name}/classifier', 7, CLASSES, f'{name}/fc')


def read(tmp_path, content):
    (tmp_path / 'file').write_bytes(content)
    return importers.read(tmp_path / 'file')


def test_caffes_file_gives_opencvs_logits(tmp_path):
    """And those of the auxiliary classifiers, which our network leaves out at test time."""
    pytest.importorskip('cv2', reason='needs opencv: install requirements-peer.txt')
    written = Writer(heads=True).layers
    content = caffe.caffemodel(written, old=False)
    name, experiment, params = convert(read(tmp_path, content))
    images = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), np.uint8).repeat(28, 1).repeat(28, 2)
    bgr = images[..., ::-1] - np.array([104, 117, 123], np.float32)

    def at_test_time(params, images):
        network = GoogLeNet(experiment.model, 224, nnx.Rngs(params=0))
        nnx.update(network, params)
        seen = {}
        network(images, tap=lambda name, x: seen.setdefault(name, x))
        return seen['linear'], *(network._head(f'aux_{module}', seen[f'inception_{module}'], None)
                                 for module in experiment.model.heads)

    known = statistics.fixed(experiment.data.mean, 224)
    ours = jax.jit(at_test_time)(params, augment.centre(images, known, experiment.data))
    for layer, logits in zip(('loss3', 'loss1', 'loss2'), ours):
        theirs = caffe.opencv_output(written, content, bgr, f'{layer}/classifier')
        assert np.abs(theirs - theirs.mean(1, keepdims=True)).max() > 0.1, 'the logits say nothing'
        np.testing.assert_allclose(logits, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max(), err_msg=layer)
    assert name == 'caffe' and experiment.model.heads == ('4a', '4d')


def test_both_formats_with_and_without_auxiliary_classifiers(tmp_path):
    whole, without = Writer(heads=True).layers, Writer(heads=False).layers
    _, _, params = convert(read(tmp_path, caffe.caffemodel(whole, old=False)))
    _, _, old = convert(read(tmp_path, caffe.caffemodel(whole, old=True)))
    jax.tree.map(np.testing.assert_array_equal, old, params)
    _, experiment, fewer = convert(read(tmp_path, caffe.caffemodel(without, old=False)))
    assert set(params) - set(fewer) == {layer for layer in params if layer.startswith('aux')}
    plain, rows = EXPERIMENTS['caffe'], tuple((name, (3 + number % 2, 3, 4 + number % 2, 2, 3, 2))
                                              for number, name in enumerate(INCEPTION))
    model = dataclasses.replace(plain.model, classes=CLASSES, stem=(6, 4, 5), inception=rows, heads=())
    assert experiment == dataclasses.replace(plain, summary=experiment.summary, model=model)
    assert 'without the auxiliary classifiers' in experiment.summary


def changed(which, **fields):
    """The layers, one of them changed."""
    return [layer._replace(**fields) if layer.name == which else layer for layer in Writer(heads=True).layers]


@pytest.mark.parametrize('layers, sentence', [
    (changed('loss1/fc', arrays=()), r'no GoogLeNet known here.*unknown loss1/classifier\.0, loss1/classifier\.1'),
    (changed('inception_4b/3x3', name='inception_4b/other'), r'missing inception_4b/3x3\.0.*unknown inception_4b/o'),
    (changed('pool1/norm1', params='lrn_param { local_size: 3 alpha: 0.0001 beta: 0.75 }'), 'n=3.* not the LRN of'),
    (changed('conv2/3x3', arrays=(np.ones((5, 4, 1, 1), np.float32), np.ones(5, np.float32))),
     r'conv2 have the shapes \(5, 4, 1, 1\) and \(5,\), expected \(5, 4, 3, 3\)'),
], ids=range(4))
def test_weights_of_other_networks_are_refused(layers, sentence, tmp_path):
    with pytest.raises(UsageError, match=sentence):
        convert(read(tmp_path, caffe.caffemodel(layers, old=False)))


def test_torchvisions_network_is_another_and_is_refused():
    arrays = {'conv1.conv.weight': np.ones((64, 3, 7, 7)), 'conv1.bn.weight': np.ones(64)}
    with pytest.raises(UsageError, match="torchvision's GoogLeNet, which is another network, with batch norm.*3x3"):
        convert(importers.Saved('file', 'torch state dict', arrays))
