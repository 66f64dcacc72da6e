"""PCA and t-SNE of a layer: distances kept, classes apart where the layer has them apart, the same twice."""
import itertools

import numpy as np
import pytest
from matplotlib import image

from lib.data.sources import Split
from lib.experiment import UsageError
from lib.visualize import embedding
from lib.visualize.embedding import Options
from tests.random_networks import request

COUNT = 60


def clusters(distance, seed=0):
    """(vectors [60, 12] of three classes whose means are some standard deviations apart, labels)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(COUNT) % 3
    return rng.normal(size=(COUNT, 12)) + distance * np.eye(12)[labels], labels


def half_bright(labels):
    """A request for LeNet-5 with random weights, and images whose upper half is bright if the class is 0, else the
    lower; a label of -1 has one of both."""
    asked = request('lenet5', 'paper')
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (len(labels), 32, 32, 3), np.uint8)
    for one, label in zip(pixels, labels):
        one[16 * (label == 1):][:16] += 180
    asked.__dict__['judged'] = Split('halves', pixels, np.array(labels, np.int32), ('upper', 'lower'))
    return asked


def test_classes_are_apart_where_they_are_in_the_vectors():
    vectors, labels = clusters(20)
    found = embedding.embed(vectors - vectors.mean(0), 10, None)
    for places in (found.vectors, found.pca, found.tsne):
        assert embedding.agreement(places, labels) == 1
    assert embedding.chance(labels) == pytest.approx(19 / 59) and 0.8 < found.explained < 1
    vectors, _ = clusters(0)
    found = embedding.embed(vectors - vectors.mean(0), 10, None)
    for places in (found.vectors, found.pca, found.tsne):
        assert embedding.agreement(places, labels) < 0.6
    assert found.explained < 0.5


def test_it_is_the_same_twice_and_a_seed_makes_another_of_it():
    vectors, _ = clusters(3)
    places = {seed: embedding.embed(vectors, 10, seed).tsne for seed in (None, 0, 1)}
    for seed, before in places.items():
        np.testing.assert_array_equal(embedding.embed(vectors, 10, seed).tsne, before)
    for one, other in itertools.combinations(places.values(), 2):
        assert abs(one - other).max() > 1


def test_pca_is_that_of_the_covariance():
    vectors, _ = clusters(4)
    vectors -= vectors.mean(0)
    found = embedding.embed(vectors, 10, None)
    variances, directions = np.linalg.eigh(vectors.T @ vectors)
    np.testing.assert_allclose(abs(found.pca), abs(vectors @ directions[:, :-3:-1]), atol=1e-9)
    assert found.explained == pytest.approx(variances[-2:].sum() / variances.sum())


def test_the_grid_is_the_nearest_that_no_two_share():
    places = np.random.default_rng(0).normal(size=(4, 2))
    cells, side = embedding.grid(places)
    assert side == 2 and sorted(map(tuple, cells)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    stretched = (places - places.min(0)) / np.ptp(places, axis=0)
    costs = {order: np.square(stretched - np.array(order)).sum()
             for order in itertools.permutations(map(tuple, cells.tolist()))}
    assert tuple(map(tuple, cells.tolist())) == min(costs, key=costs.get)
    cells, side = embedding.grid(np.random.default_rng(0).normal(size=(70, 2)))
    assert side == 9 and len({tuple(cell) for cell in cells}) == 70 and cells.min() >= 0 and cells.max() <= 8


@pytest.mark.parametrize('layer', ['C1', 'F6'])     # more outputs than images, and fewer
def test_distances_are_those_of_the_layer(layer, tmp_path):
    asked = half_bright([0, 1] * 50)
    object.__setattr__(asked, 'scratch', tmp_path)
    ours = embedding.vectors(asked, layer, asked.judged)
    outputs = np.asarray(asked.activations(layer, asked.judged.images)).reshape(100, -1)
    assert ours.shape[1] <= min(100, outputs.shape[1])
    ratios = [np.linalg.norm(ours[0] - ours[i]) / np.linalg.norm(outputs[0] - outputs[i]) for i in range(1, 100)]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-4)
    assert list(tmp_path.iterdir()) == []


def test_of_a_network(tmp_path):
    labels = np.random.default_rng(0).permutation([0, 1] * 30).tolist()
    asked = half_bright(labels)
    found, said = embedding.look(asked, Options(examples=40, perplexity=8), tmp_path / 'embedding.png')
    assert len(found['images']) == 40 and found['layer'] == 'F6' and found['labelled'] == 40
    assert found['shares'] == {'F6': 1.0, 'PCA': 1.0, 't-SNE': 1.0} and 0.4 < found['chance'] < 0.6
    assert '100.0 % in 84 dimensions, 100.0 % in two of PCA and 100.0 % in two of t-SNE' in said
    drawn = image.imread(tmp_path / 'embedding.png')[..., :3]
    for colour in ((31, 119, 180), (255, 127, 14)):
        assert (abs(drawn - np.array(colour) / 255) < 0.02).all(2).mean() > 0.01


def test_images_without_labels_have_places_and_no_classes(tmp_path):
    found, said = embedding.look(half_bright([-1] * 20), Options(), tmp_path / 'embedding.png')
    assert np.shape(found['tsne']) == (20, 2) and found['shares'] == {} and 'table' not in found
    assert said.endswith('no labels, so nothing is said of classes.')
    found, said = embedding.look(half_bright([-1] * 10 + [0, 1] * 10), Options(), tmp_path / 'embedding.png')
    assert found['labelled'] == 20 and 'of the 20 with a label has the same class for 100.0 %' in said


def test_too_few_images_and_a_silent_layer_are_refused(tmp_path):
    with pytest.raises(UsageError, match='at least 10 images and has 9'):
        embedding.look(half_bright([0] * 9), Options(), tmp_path / 'embedding.png')
    with pytest.raises(UsageError, match='gives the same for all these images'):
        embedding.embed(np.zeros((20, 5)), 5, None)
