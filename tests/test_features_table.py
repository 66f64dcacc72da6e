"""Table 7 on hand-made weights, and the layers that it looks at."""
import numpy as np
import pytest

from launch.papers import PAPERS
from lib import geometry
from lib.experiment import UsageError
from lib.visualize import features_table
from lib.visualize.features_table import Options
from tests.test_embedding import half_bright

LAYERS = {
    ('lenet5', 'paper'): ('S2', 'S4', 'C5', 'F6'),
    ('alexnet', 'paper'): ('pool1', 'pool2', 'conv3', 'conv4', 'pool5', 'fc6', 'fc7'),
    ('zfnet', 'paper'): ('norm1', 'norm2', 'conv3', 'conv4', 'pool5', 'fc6', 'fc7'),
    ('nin', 'paper'): ('pool1', 'pool2', 'cccp5'),
    ('vgg', 'paper'): ('pool1', 'pool2', 'pool3', 'pool4', 'pool5', 'fc6', 'fc7'),
    ('googlenet', 'paper'): ('norm1', 'pool2', 'pool3', 'pool4', 'pool5'),
}


@pytest.mark.parametrize('paper, name', LAYERS)
def test_layers_that_end_a_stage(paper, name):
    experiment = PAPERS[paper].choose(name, [])
    found = geometry.measure(PAPERS[paper].build(experiment), experiment.data.image_size)
    assert features_table.stages(found) == LAYERS[paper, name]


def test_a_layer_with_the_class_is_better_than_one_without():
    asked = half_bright([0, 1] * 20)
    asked.network.params['F6']['kernel'] *= 0           # all images are the same to it
    rows = features_table.measure(asked, ('S2', 'F6'), ('svm', 'softmax'), asked.judged,
                                  half_bright([1, 0] * 15).judged)
    assert [(row['layer'], row['classifier']) for row in rows] == [
        ('S2', 'svm'), ('S2', 'softmax'), ('F6', 'svm'), ('F6', 'softmax')]
    assert [row['class_accuracy'] for row in rows] == [100, 100, 50, 50]
    assert [row['dimensions'] for row in rows] == [14 * 14 * 6, 14 * 14 * 6, 84, 84]


def test_as_many_of_each_class_as_there_are():
    labels = np.array([0] * 7 + [1] * 2 + [2] * 4)
    assert features_table.balanced(labels, 6).tolist() == [0, 1, 7, 8, 9, 10]
    assert np.bincount(labels[features_table.balanced(labels, 9)]).tolist() == [4, 2, 3]
    assert features_table.balanced(labels, 100).tolist() == list(range(13))


def test_the_table_says_on_what(tmp_path, monkeypatch):
    splits = half_bright([0, 1] * 20).judged, half_bright([1, 0] * 15).judged
    monkeypatch.setattr(features_table.sources, 'load', lambda *_: splits)
    found, said = features_table.look(half_bright([0]), Options(layers=('S2', 'C5'), train=12, examples=10),
                                      tmp_path / 'table7.png')
    assert (tmp_path / 'table7.png').stat().st_size > 5000
    assert 'fitted on 12 images of halves and judged on 10 of halves' in said and 'chance 50.0 %' in said
    assert [row[0] for row in found['table']['rows']] == ['S2', 'C5']
    assert all(len(row) == len(found['table']['columns']) for row in found['table']['rows'])
    assert {row['examples'] for row in found['rows']} == {10}


def test_what_cannot_be_measured_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match='table7.layers: S9 is not in this network: choose of C1, S2'):
        features_table.look(half_bright([0]), Options(layers=('S9',)), tmp_path / 'table7.png')
    with pytest.raises(UsageError, match='table7.classifiers: tree is not one of svm, softmax'):
        Options(classifiers=('tree',))
    asked = half_bright([0, 1, 1])
    with pytest.raises(UsageError, match='only one of the 3 training images'):
        features_table.measure(asked, ('S2',), ('svm',), asked.judged, asked.judged)
    monkeypatch.setattr(features_table.features.shutil, 'disk_usage', lambda folder: type('', (), {'free': 1000}))
    with pytest.raises(UsageError, match='set table7.train and table7.examples lower'):
        features_table.measure(asked, ('S2',), ('svm',), asked.judged, asked.judged)
