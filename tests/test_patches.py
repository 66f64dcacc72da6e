"""The patches that excite a unit most, against brute force over all images and places."""
import dataclasses
import json

import numpy as np
import pytest
from matplotlib import image

from lib.experiment import UsageError
from lib.visualize import FAINT, SHARPNESS, patches
from lib.visualize.patches import Options
from tests.random_networks import SMALL, request


def brute_force(asked, layer, unit, count):
    """[(image, row, column, activation), ...] of all images, the first of equals leading."""
    best = []
    for number, pixels in enumerate(asked.judged.images):
        maps = np.asarray(asked.activations(layer, pixels[None]))[0]
        maps = maps.reshape((1,) * (3 - maps.ndim) + maps.shape)[..., unit]
        place = max(np.ndindex(maps.shape), key=lambda place: (maps[place], -place[0], -place[1]))
        best.append((number, *place, maps[place]))
    return sorted(best, key=lambda one: (-one[3], one[0]))[:count]


@pytest.mark.parametrize('paper, name, changes, layer', [
    ('lenet5', 'paper', (), 'S2'), ('lenet5', 'paper', (), 'F6'), ('alexnet', 'quickstart', SMALL, 'conv1')])
def test_patches_are_those_of_brute_force(paper, name, changes, layer):
    asked = request(paper, name, (*changes, 'evaluation.batch_size=4'), images=11, layer=layer)
    asked.judged.images[9] = asked.judged.images[5]             # equal images: the first leads
    units = asked.units(layer, 3)
    found = patches.strongest(asked, layer, units, asked.judged, np.arange(11), 7)
    assert found.activations.shape == (3, 7)
    for unit, values, images, places in zip(units, *found):
        expected = brute_force(asked, layer, unit, 7)
        assert [(n, *place) for n, place in zip(images, places.tolist())] == [one[:3] for one in expected]
        np.testing.assert_allclose(values, [one[3] for one in expected], rtol=1e-5, atol=1e-6)


def test_of_equal_places_and_images_the_first_counts():
    asked = request('lenet5', 'paper', ('evaluation.batch_size=2',), images=5, layer='C1')
    asked.judged.images[:] = 7                                  # the same at every place
    found = patches.strongest(asked, 'C1', np.array([0, 3]), asked.judged, np.arange(5), 4)
    assert found.images.tolist() == [[0, 1, 2, 3]] * 2
    for unit, places in zip((0, 3), found.places):
        outputs = np.asarray(asked.activations('C1', asked.judged.images[:1]))[0, :, :, unit]
        first = np.unravel_index(outputs.argmax(), outputs.shape)
        assert (outputs == outputs.max()).sum() > 1 and (places == first).all()


@pytest.mark.parametrize('place', [(0, 0), (1, 0), (3, 2), (0, 3)])
def test_a_patch_is_cut_at_the_receptive_field_and_grey_beyond_the_image(place):
    asked = request('alexnet', 'quickstart', (*SMALL, 'data.image_size=64', 'data.resize=64'), images=1)
    layer = asked.geometry['conv2']
    assert layer.start < 0 and layer.receptive_field < asked.size
    side, jump = layer.receptive_field, layer.jump
    picture = asked.judged.images[0]
    found = patches.cut(picture, layer, place)
    assert found.shape == (side, side, 3) and found.dtype == np.uint8
    for i, j in np.ndindex(side, side):
        row, column = layer.start + jump * place[0] + i, layer.start + jump * place[1] + j
        inside = 0 <= row < len(picture) and 0 <= column < len(picture)
        assert (found[i, j] == (picture[row, column] if inside else patches.OUTSIDE)).all()


def test_of_a_field_wider_than_the_image_only_what_it_reaches_is_shown_and_units_without_places_see_all():
    asked = request('alexnet', 'quickstart', SMALL, images=1)
    layer, picture = asked.geometry['conv2'], asked.judged.images[0] // 2      # none is grey
    assert layer.receptive_field > len(picture)
    found = patches.cut(picture, layer, (0, 1))
    rows, columns = layer.start + layer.receptive_field, layer.start + layer.jump + layer.receptive_field
    assert 0 < rows < len(picture)
    np.testing.assert_array_equal(found[:rows, :columns], picture[:rows, :columns])
    assert (found[rows:] == patches.OUTSIDE).all() and (found[:, columns:] == patches.OUTSIDE).all()
    np.testing.assert_array_equal(patches.cut(picture, asked.geometry['fc6'], (0, 0)), picture)


def test_the_searched_images_are_at_equal_distances_and_no_more_than_asked():
    asked = request('lenet5', 'paper', images=10)
    for searched, expected in ((None, range(10)), (3, [0, 4, 8]), (20, range(10))):
        split, at = patches.searched_images(asked, None, searched)
        assert at.tolist() == list(expected) and split is asked.judged
    chosen = dataclasses.replace(asked, images=(7, 2))
    chosen.__dict__['judged'] = asked.judged
    assert patches.searched_images(chosen, None, 3)[1].tolist() == [7, 2]


def test_classes_are_counted_and_a_silent_unit_is_said(tmp_path):
    asked = request('alexnet', 'quickstart', SMALL, images=6, layer='conv1', unit=(0, 2))
    asked.network.params['conv1']['bias'] = np.array([-1e6, 50, 50, 50], np.float32)
    numbers, said = patches.look(asked, Options(count=4), tmp_path / 'patches.png')
    numbers = json.loads(json.dumps(numbers))
    idle, active = numbers['found']
    assert idle == {'unit': 0, 'patches': [], 'commonest': None, 'of_it': 0}
    assert len(active['patches']) == 4 and active['commonest'] == 'one' and active['of_it'] == 4
    assert 'In the mean 4.0 of those of a unit have the same class, and 4.0 of as many' in said
    assert said.endswith(' Active in none of them: 1 of the units.')
    assert 'the 4 in which each of 2 units of conv1' in said
    drawn = image.imread(tmp_path / 'patches.png')[..., :3]
    faint = (abs(drawn - int(FAINT[1:3], 16) / 255).max(2) < 0.01).sum()
    assert drawn.std() > 0.05 and faint > 0.9 * (SHARPNESS * patches.BLOCK)**2      # the silent unit's square


def test_the_share_by_chance_is_that_of_random_images():
    assert patches.by_chance(np.zeros(5, int), 9) == 9
    assert patches.by_chance(np.array([0, 1]), 3) == pytest.approx(2.25, abs=0.05)    # 3 in a quarter, otherwise 2


def test_counts_that_fit_no_picture_are_refused():
    with pytest.raises(UsageError, match='count=0 must be 1 to 36'):
        Options(count=0)
    with pytest.raises(UsageError, match='searched=0 must be at least 1'):
        Options(searched=0)
