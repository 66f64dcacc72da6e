"""Transformed images against slices and quarter turns, distances by hand, and what is drawn and said of them."""
import json

import numpy as np
import pytest
from matplotlib import image

from lib.experiment import UsageError
from lib.visualize import invariance
from lib.visualize.invariance import Options, transformed
from tests.random_networks import SMALL, request

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), np.uint8)


def test_translations_are_slices_that_go_on_with_the_border():
    down = transformed(IMAGES, 'translation', 3)
    np.testing.assert_allclose(down[:, 3:], IMAGES[:, :-3], atol=1e-3)
    np.testing.assert_allclose(down[:, :3], IMAGES[:, :1].repeat(3, axis=1), atol=1e-3)
    up = transformed(IMAGES, 'translation', -2)
    np.testing.assert_allclose(up[:, :-2], IMAGES[:, 2:], atol=1e-3)
    np.testing.assert_allclose(up[:, -2:], IMAGES[:, -1:].repeat(2, axis=1), atol=1e-3)


@pytest.mark.parametrize('kind', invariance.NEUTRAL)
def test_the_neutral_amount_changes_nothing(kind):
    np.testing.assert_array_equal(transformed(IMAGES, kind, invariance.NEUTRAL[kind]), IMAGES)


def test_quarter_turns_are_counter_clockwise_about_the_middle():
    for turns in (1, 2, 3, 4):
        np.testing.assert_allclose(transformed(IMAGES, 'rotation', 90 * turns), np.rot90(IMAGES, turns, (1, 2)),
                                   atol=1e-2)
    even = IMAGES[:, :8, :8]
    np.testing.assert_allclose(transformed(even, 'rotation', 90), np.rot90(even, 1, (1, 2)), atol=1e-2)


def test_twice_the_scale_shows_the_middle_half():
    found = transformed(IMAGES, 'scale', 2)
    np.testing.assert_allclose(found[:, ::2, ::2], IMAGES[:, 2:7, 2:7], atol=1e-3)
    between = (IMAGES[:, 2:6, 2:7].astype(float) + IMAGES[:, 3:7, 2:7]) / 2
    np.testing.assert_allclose(found[:, 1::2, ::2], between, atol=1e-3)


def test_amounts_are_those_of_the_paper_at_the_size_of_the_image():
    found = invariance.amounts(Options(), 224)
    np.testing.assert_array_equal(found['translation'], np.arange(-60, 61, 5))
    assert (found['scale'][0], found['scale'][-1], found['rotation'][0], found['rotation'][-1]) == (1, 1.8, 0, 360)
    small = invariance.amounts(Options(), 32)['translation']
    np.testing.assert_array_equal(small, np.arange(-9, 10))
    assert 0 in invariance.amounts(Options(steps=6), 224)['translation']


def test_distances_are_euclidean_and_two_images_are_apart_by_their_mean():
    features = np.array([[[0, 0], [0, 0]], [[3, 0], [0, 4]], [[0, 0], [0, 12]]])
    np.testing.assert_array_equal(invariance.distances(features, 0 * features), [0, 5, 12])
    assert invariance.apart(features) == pytest.approx((5 + 12 + np.hypot(3, 8)) / 3)
    assert invariance.apart(features[:1]) is None


@pytest.mark.parametrize('paper, name, changes, layer', [
    ('lenet5', 'paper', (), 'F6'), ('alexnet', 'quickstart', SMALL, 'conv2')])
def test_curves_are_the_distances_and_probabilities_of_each_image(paper, name, changes, layer):
    asked = request(paper, name, changes, images=3, layer=layer)
    asked.judged.labels[:] = [3, 1, 2]
    object.__setattr__(asked, 'images', (2, 0))
    numbers = json.loads(json.dumps(invariance.measure(asked, Options(steps=5))))
    assert numbers['layers'] == [asked.first_layer, layer]
    assert (numbers['images'], numbers['classes']) == ([2, 0], [2, 3])
    pixels = asked.judged.images[[2, 0]]
    for kind, curves in numbers['transformations'].items():
        still = curves['amounts'].index(invariance.NEUTRAL[kind])
        assert all(curve[still] == 0 for distance in curves['distances'] for curve in distance)
        for k, amount in enumerate(curves['amounts']):
            changed = transformed(pixels, kind, amount)
            for name, distance in zip(numbers['layers'], curves['distances']):
                moved = np.asarray(asked.activations(name, changed)) - asked.activations(name, pixels * np.float32(1))
                expected = [np.linalg.norm(one) for one in moved]
                np.testing.assert_allclose([curve[k] for curve in distance], expected, rtol=1e-3, atol=1e-4)
            found = np.asarray(asked.predict(changed))
            np.testing.assert_allclose([curve[k] for curve in curves['probability']], [found[0, 2], found[1, 3]],
                                       rtol=1e-4)
    at, = (row for row in numbers['table']['rows'] if row[0] == 'rotation by 90°')
    mean = np.mean([curve[1] for curve in numbers['transformations']['rotation']['distances'][1]])
    assert at[3] == f'{mean:.3g}' and at[4] == f'{mean / numbers["apart"][1]:.2f}'


def test_each_image_has_a_colour_and_the_statement_tells_each_transformation(tmp_path):
    asked = request('lenet5', 'paper', images=2)
    asked.judged.images[:] = asked.judged.images[..., :1]       # grey, so that colours are those of curves
    _, said = invariance.look(asked, Options(steps=5), tmp_path / 'invariance.png')
    assert said.startswith('2 images of noise, transformed: Euclidean distance')
    assert all(words in said for words in (' Translation by 4 px: ', ' Scale of 1.2: ', ' Rotation by 90°: '))
    drawn = image.imread(tmp_path / 'invariance.png')[..., :3]
    near = [(abs(drawn - colour).max(2) < 0.02).sum() for colour in invariance.COLOURS[:3]]
    assert min(near[:2]) > 300 and near[2] == 0


def test_layers_that_are_not_there_or_the_same_are_refused():
    asked = request('lenet5', 'paper', layer='C1')
    with pytest.raises(UsageError, match='invariance.first=C9 is not in this network: choose one of C1'):
        invariance.measure(asked, Options(first='C9'))
    with pytest.raises(UsageError, match='Both layers are C1: choose another --layer'):
        invariance.measure(asked, Options())
