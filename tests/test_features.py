"""Linear classifiers on a layer's outputs: against brute force, by hand, and as a user types the command."""
import collections
import json
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.svm import LinearSVC

from lib import features, hardware
from lib.data import augment
from lib.data.sources import Split
from lib.data.statistics import Statistics
from lib.experiment import Data, UsageError
from reproductions.zfnet.weights import NAMES
from tests.commands import ROOT

DATA = Data(source='digits', image_size=6, resize=9)
STATISTICS = Statistics(np.full((9, 9, 3), 100, np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32))
NAMES_OF_CLASSES = ('crane', 'hen', 'crane')


def activations(params, images):
    return collections.OrderedDict(pool=jnp.maximum(images, 0) * params['scale'], last=images.sum((1, 2)))


def split(name, labels, seed):
    """Images whose brightness nearly tells their class."""
    labels = np.array(labels, np.int32)
    rng = np.random.default_rng(seed)
    brightness = 80 + 30 * labels + rng.normal(0, 12, len(labels))
    noise = rng.normal(0, 25, (len(labels), 9, 9, 3))
    return Split(name, np.clip(brightness[:, None, None, None] + noise, 0, 255).astype(np.uint8), labels,
                 NAMES_OF_CLASSES)


def test_features_are_those_of_every_image_once_and_in_order(tmp_path):
    images = split('birds', [0, 1, 2, 1, 0, 2, 2], seed=1)
    sizes = []

    def vectors(batch):
        sizes.append(len(batch))
        return activations({'scale': 2.0}, augment.centre(batch, STATISTICS, DATA))['pool'].reshape(len(batch), -1)

    found = features.extract(vectors, images, 3, tmp_path / 'features')
    crops = images.images[:, 1:7, 1:7].astype(np.float32) - 100
    np.testing.assert_allclose(found, 2 * np.maximum(crops, 0).reshape(7, -1), rtol=1e-6)
    assert found.dtype == np.float32 and sizes == [3, 3, 3]


@pytest.mark.parametrize('dimensions', [5, 60])
def test_coordinates_keep_inner_products_about_the_mean(dimensions, monkeypatch):
    monkeypatch.setattr(features, 'COLUMNS', 16)        # 60 numbers are four blocks, the last of them shorter
    rng = np.random.default_rng(0)
    first, second = (rng.normal(3, 2, (n, dimensions)).astype(np.float32) for n in (20, 9))
    ours, others = features.coordinates(first, second)
    centred, seen = first - first.mean(0, dtype=np.float64), second - first.mean(0, dtype=np.float64)
    length = np.mean(np.square(centred).sum(1))
    np.testing.assert_allclose(ours @ ours.T, centred @ centred.T / length, rtol=0, atol=1e-10)
    np.testing.assert_allclose(others @ ours.T, seen @ centred.T / length, rtol=0, atol=1e-10)
    assert ours.shape[1] == min(19, dimensions)         # centred, 20 vectors span 19 directions
    assert np.mean(np.square(ours).sum(1)) == pytest.approx(1)


def test_a_classifier_finds_the_same_in_coordinates():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    first = rng.normal(0, 1, (60, 200)) + 0.4 * rng.normal(size=(3, 200))[labels]
    second = rng.normal(0, 1, (90, 200))
    scale = np.sqrt(np.mean(np.square(first - first.mean(0)).sum(1)))
    plain = LinearSVC(C=1.0, tol=1e-8, max_iter=100_000).fit((first - first.mean(0)) / scale, labels)
    ours, others = features.coordinates(first.astype(np.float32), second.astype(np.float32))
    reduced = LinearSVC(C=1.0, tol=1e-8, max_iter=100_000).fit(ours, labels)
    np.testing.assert_allclose(reduced.decision_function(others),
                               plain.decision_function((second - first.mean(0)) / scale), atol=1e-4)


@pytest.mark.parametrize('classifier', ['svm', 'softmax'])
def test_error_over_images_and_accuracy_over_classes(classifier, tmp_path):
    train, judged = split('train', [0, 1, 2] * 8, seed=2), split('test', [0] * 9 + [1] * 2 + [2] * 2, seed=3)
    found = features.measure(activations, 'last', {'scale': 1.0}, STATISTICS, DATA, train, judged, classifier, 4,
                             tmp_path)
    assert found['dimensions'] == 3 and found['examples'] == 13 and found['C'] in features.CS
    assert [(c['name'], c['images']) for c in found['classes']] == [('crane', 9), ('hen', 2), ('crane', 2)]
    right = [c['right'] for c in found['classes']]
    assert found['wrong'] == 13 - sum(right) and found['error'] == pytest.approx(100 * found['wrong'] / 13)
    assert found['class_accuracy'] == pytest.approx(100 / 3 * (right[0] / 9 + right[1] / 2 + right[2] / 2))
    assert 0 < found['error'] < 50 and abs(found['class_accuracy'] + found['error'] - 100) > 1
    assert list(tmp_path.iterdir()) == []               # the features are gone
    said = features.statement(json.loads(json.dumps(found)))
    assert f'{found["error"]:.1f} % error on 13 images; {found["class_accuracy"]:.1f} % accuracy' in said


def test_c_is_chosen_on_training_images_that_were_held_out():
    """Labels that are noise: the strongest regularisation is best, or as good, on images that were not fitted."""
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(200, 30)), np.arange(200) % 2
    chosen = features.fit(vectors, labels, 'svm')
    (fitted, held_out), = chosen.cv
    assert len(fitted) == 160 and set(fitted) & set(held_out) == set()
    scores = [LinearSVC(C=c, random_state=0, max_iter=10_000).fit(vectors[fitted], labels[fitted]).score(
        vectors[held_out], labels[held_out]) for c in features.CS]
    assert chosen.best_params_['C'] == features.CS[int(np.argmax(scores))]
    assert chosen.best_estimator_.C == chosen.best_params_['C']
    assert chosen.score(vectors, labels) > scores[0]    # and then fitted on all


def test_a_class_of_one_image_is_refused(tmp_path):
    train, judged = split('train', [0, 0, 1], seed=2), split('test', [0, 1], seed=3)
    with pytest.raises(UsageError, match='set data.train_per_class to at least 2'):
        features.measure(activations, 'last', {'scale': 1.0}, STATISTICS, DATA, train, judged, 'svm', 4, tmp_path)


def test_features_without_room_are_refused_before_any_is_made(tmp_path, monkeypatch):
    train, judged = split('train', [0, 1] * 5, seed=2), split('test', [0, 1] * 4, seed=3)

    def refused(layer):
        with pytest.raises(UsageError, match='with --set data.train_per_class=N') as error:
            features.measure(activations, layer, {'scale': 1.0}, STATISTICS, DATA, train, judged, 'svm', 4, tmp_path)
        return str(error.value)

    monkeypatch.setattr(features, 'extract', None)
    for layer, smaller in (('last', 3), ('pool', 10)):      # of 3 and 108 numbers
        memory = 8 * smaller * (5 * 10 + 3 * 8)
        monkeypatch.setattr(hardware, 'host_memory', lambda memory=memory: memory)
        assert 'fitted on 10 images and judged on 8, takes 0.0 GiB of memory' in refused(layer)
    monkeypatch.setattr(features.shutil, 'disk_usage', lambda folder: type('', (), {'free': 4 * 108 * 18}))
    assert f'The outputs of pool for 18 images take 0.0 GiB, and {tmp_path} has' in refused('pool')


def narrow_weights(path):
    """A file in imgclsmob's form, of 2 maps and 10 classes."""
    rng = np.random.default_rng(0)
    shapes = dict(zip(NAMES.values(), ((2, 3, 7, 7), (2, 2, 5, 5), *((2, 2, 3, 3),) * 3, (6, 72), (6, 6), (10, 6))))
    arrays = {f'{name}.weight': rng.normal(0, np.prod(shape[1:])**-0.5, shape) for name, shape in shapes.items()}
    arrays |= {f'{name}.bias': np.zeros(shape[0]) for name, shape in shapes.items()}
    save_file({name: array.astype(np.float32) for name, array in arrays.items()}, path)


def test_the_command(tmp_path):
    narrow_weights(tmp_path / 'zfnet.safetensors')

    def run(*words):
        environment = os.environ | {'XDG_CACHE_HOME': str(tmp_path), 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'}
        return subprocess.run([sys.executable, '-m', 'launch.features', *words], cwd=ROOT, env=environment, text=True,
                              capture_output=True, timeout=300)

    flags = ('zfnet', f'--weights={tmp_path}/zfnet.safetensors', f'--output={tmp_path}/out', '--set',
             'data.source=digits', '--set', 'data.train_per_class=4', '--set', 'data.validation_per_class=3')
    done = run(*flags, '--layer=pool2', '--classifier=softmax')
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / 'out' / 'features-pool2-softmax.json').read_text())
    assert (found['train_examples'], found['examples'], found['dimensions']) == (40, 30, 13 * 13 * 2)
    assert found['statement'] in done.stdout and found['train'] == 'digits train, 4 of each class, fold 0'
    wrong = run(*flags, '--layer=conv9')
    assert (wrong.returncode, wrong.stdout) == (2, '') and 'choose one of conv1, norm1, pool1' in wrong.stderr
