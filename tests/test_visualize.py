"""What the pictures of a trained network say, against brute force and by hand, and what all pictures share."""
import collections
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image

from launch import visualize as command
from lib.data import augment
from lib.data.sources import Split
from lib.data.statistics import Statistics
from lib.experiment import Data, UsageError
from lib.visualize import SHARPNESS, Sheet, class_name, crop, examples, layers, neighbours, predictions

DATA = Data(source='digits', image_size=6, resize=9, pixel_scale=4.0)
WEIGHTS = np.random.default_rng(1).normal(size=(6 * 6 * 3, 7)).astype(np.float32)


def split(name: str, count: int, seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    return Split(name, rng.integers(0, 256, (count, 9, 9, 3), np.uint8), rng.integers(0, 7, count).astype(np.int32),
                 ('tench, Tinca tinca', 'goldfish', 'cock', 'hen', 'kite'))


STATISTICS = Statistics(np.random.default_rng(2).uniform(90, 160, (9, 9, 3)).astype(np.float32), np.ones(3, np.float32),
                        np.eye(3, dtype=np.float32))


def activations(params, images):
    maps = jnp.maximum(images, 0) * params['scale']
    return collections.OrderedDict(pool=maps, conv=maps.reshape(len(images), -1) @ WEIGHTS, last=images.sum((1, 2)))


def predict(params, images):
    return jax.nn.softmax(params['scale'] * images.reshape(len(images), -1) @ WEIGHTS / 100)


PARAMS = {'scale': np.float32(0.5)}


# ---------------------------------------------------------------------------------------------- predictions

def test_predictions_are_those_of_the_central_crop(tmp_path):
    judged, at = split('some', 20), np.array([3, 19, 4])
    found = predictions.measure(predict, PARAMS, STATISTICS, DATA, judged, at)
    for number, image_found in zip(at, found['images']):
        pixels = (judged.images[number, 1:7, 1:7] - STATISTICS.mean[1:7, 1:7].astype(np.float64)) / 4
        scores = np.exp(0.5 * pixels.reshape(-1) @ WEIGHTS / 100)
        order = np.argsort(-scores)[:5]
        assert (image_found['image'], image_found['label']) == (number, judged.labels[number])
        assert [entry['label'] for entry in image_found['top']] == list(order)
        np.testing.assert_allclose([entry['probability'] for entry in image_found['top']],
                                   (scores / scores.sum())[order], rtol=1e-4)
        assert [entry['name'] for entry in image_found['top']] == [class_name(judged, c) for c in order]
    predictions.draw(json.loads(json.dumps(found)), judged, DATA, 'Predictions', [], tmp_path / 'predictions.png')
    assert image.imread(tmp_path / 'predictions.png').std() > 0.05


def test_the_statement_counts_first_places_and_places_among_the_top():
    def of(label, *top):
        return {'label': label, 'top': [{'label': c} for c in top]}

    found = {'images': [of(1, 1, 2, 3), of(2, 2, 1, 3), of(3, 1, 2, 3), of(4, 1, 2, 3)]}
    assert predictions.statement(found).startswith('Of 4 images, 2 have their label as the most likely class and 3 '
                                                   'among the 3 most likely')


def test_the_nearest_images_vote_the_commonest_label_first():
    found = predictions.votes([3, 1, 3, 2, 1, 3, 0, 5, 6, 6], split('train', 1))
    assert [(entry['label'], entry['probability']) for entry in found] == [(3, 0.3), (1, 0.2), (6, 0.2), (0, 0.1),
                                                                           (2, 0.1)]
    assert [entry['name'] for entry in found][:2] == ['hen', 'goldfish']


def test_classes_have_short_names_or_a_number():
    judged = split('some', 1)
    assert [class_name(judged, label) for label in (0, 4, 5, -1)] == ['tench', 'kite', 'class 5', 'no label']


# ---------------------------------------------------------------------------------------------- neighbours

@pytest.mark.parametrize('layer', ['pool', 'conv'])
def test_neighbours_are_those_of_brute_force(layer, tmp_path):
    judged, train, at = split('judged', 11), split('train', 23, seed=5), np.array([7, 2])
    found = neighbours.measure(activations, layer, PARAMS, STATISTICS, DATA, judged, at, train, batch_size=5)

    def vectors(images):
        pixels = (images[:, 1:7, 1:7] - STATISTICS.mean[1:7, 1:7].astype(np.float64)) / 4
        maps = np.maximum(pixels, 0).reshape(len(images), -1) / 2
        return {'pool': maps, 'conv': maps @ WEIGHTS}[layer], images[:, 1:7, 1:7].reshape(len(images), -1) * 1.0

    for query, number in zip(found['queries'], at):
        assert (query['image'], query['label']) == (number, judged.labels[number])
        for space, here, there in zip((layer, 'pixels'), vectors(judged.images[[number]]), vectors(train.images)):
            distances = np.linalg.norm(there - here, axis=1)
            order = np.argsort(distances)[:6]
            assert [entry['image'] for entry in query['nearest'][space]] == list(order)
            assert [entry['label'] for entry in query['nearest'][space]] == list(train.labels[order])
            np.testing.assert_allclose([entry['distance'] for entry in query['nearest'][space]], distances[order],
                                       rtol=1e-5)
    assert found['chance'] == pytest.approx(np.mean([(train.labels == judged.labels[i]).mean() for i in at]))
    neighbours.draw(json.loads(json.dumps(found)), judged, train, DATA, 'Neighbours', ['line'], tmp_path / 'n.png')
    assert image.imread(tmp_path / 'n.png').std() > 0.05


def test_an_image_of_the_training_set_is_its_own_neighbour_and_is_not_counted():
    train = split('train', 23)
    found = neighbours.measure(activations, 'conv', PARAMS, STATISTICS, DATA, train, np.array([22, 0]), train, 4)
    for query in found['queries']:
        for entries in query['nearest'].values():
            assert (entries[0]['image'], entries[0]['distance']) == (query['image'], 0) and entries[1]['distance'] > 0
    said = neighbours.statement(found)
    right = sum(e['label'] == q['label'] for q in found['queries'] for e in q['nearest']['conv'][1:])
    assert f'{right} of 10 in conv, ' in said and 'of 10 in pixel space' in said


def test_of_equal_distances_the_first_image_leads_and_few_images_give_few_neighbours():
    train = split('train', 4)
    train.images[:] = train.images[0]
    found = neighbours.measure(activations, 'conv', PARAMS, STATISTICS, DATA, train, np.array([2]), train, 3)
    assert [entry['image'] for entry in found['queries'][0]['nearest']['conv']] == [0, 1, 2, 3]


def test_a_mean_image_of_another_size_is_refused():
    small = STATISTICS._replace(mean=np.zeros((8, 8, 3), np.float32))
    judged = split('judged', 3)
    with pytest.raises(UsageError, match=r'of 9 pixels and the mean image .* of 8: set data.resize=8'):
        predictions.measure(predict, PARAMS, small, DATA, judged, np.array([0]))
    with pytest.raises(UsageError, match=r'set data.resize=8'):
        neighbours.measure(activations, 'conv', PARAMS, small, DATA, judged, np.array([0]), judged, 2)


# ---------------------------------------------------------------------------------------------- shared

def test_layers_are_in_the_order_of_the_network():
    assert layers(activations, PARAMS, DATA) == ('pool', 'conv', 'last')


def test_examples_are_spread_evenly_or_as_named():
    judged = split('judged', 23)
    assert list(examples(judged, [], 5)) == [2, 6, 11, 16, 20]
    assert list(examples(split('judged', 2), [], 5)) == [0, 1]
    assert list(examples(judged, [22, 0, 3], 5)) == [22, 0, 3]
    with pytest.raises(UsageError, match='judged has no image 23: choose numbers from 0 to 22'):
        examples(judged, [0, 23], 5)


def test_the_crop_in_a_picture_is_the_one_the_network_sees():
    judged = split('judged', 1)
    blank = STATISTICS._replace(mean=np.zeros_like(STATISTICS.mean))
    seen = augment.centre(judged.images, blank, Data(source='digits', image_size=6))
    np.testing.assert_array_equal(crop(judged.images[0], 6), seen[0])


def test_text_is_cut_to_its_room():
    sheet = Sheet(300, 100, 'Title', [])
    sheet.text(0, 50, 'a name that is far too long for the room that it has', 120)
    sheet.text(0, 70, '$5 or $6', 120)
    long, short = sheet.axes.texts[-2:]
    assert long.get_text().endswith('…') and 90 * SHARPNESS < long.get_window_extent().width <= 120 * SHARPNESS
    assert short.get_text() == '$5 or $6' and not short.get_parse_math()


def test_a_name_lists_a_few_numbers_and_counts_the_rest():
    assert command._listed('image', (3, 5)) == 'image3,5' and command._listed('unit', (1, 2, 3, 4)) == 'unit1,2,3,4'
    assert command._listed('unit', tuple(range(100))) == 'unit0,1,2,3and96more'
