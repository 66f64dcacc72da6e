"""The receptive field of a unit: arithmetic and gradient against single pixels that are changed."""
import numpy as np
import pytest
from matplotlib import image

from lib.visualize import receptive_field
from lib.visualize.receptive_field import Options
from tests.random_networks import SMALL, request


# XLA's convolutions round an image of a batch otherwise than its copy; LeNet-5's products do not.
@pytest.mark.parametrize('paper, name, changes, layer, rounding', [
    ('lenet5', 'paper', (), 'C1', 0), ('lenet5', 'paper', (), 'S4', 0), ('lenet5', 'paper', (), 'C5', 0),
    ('alexnet', 'quickstart', SMALL, 'conv1', 1e-5), ('alexnet', 'quickstart', SMALL, 'conv2', 1e-5),
])
def test_pixels_of_the_field_and_no_others_change_a_unit(paper, name, changes, layer, rounding):
    asked = request(paper, name, changes, images=1)
    asked.network.params[layer]['bias'] += 50 * (paper == 'alexnet')    # a ReLU may otherwise be silent
    place, corner, side = receptive_field.field(asked, layer)
    pixels, size = asked.judged.images[:1].astype(np.float32), asked.size
    unit = int(np.argmax(np.asarray(asked.activations(layer, pixels))[(0, *place)]))     # one that is not silent
    others = np.repeat(pixels, size * size + 1, axis=0)     # in each of which one pixel is another, but for the last
    each = np.arange(size * size)
    others[each, each // size, each % size] = (others[each, each // size, each % size] + 128) % 256
    *after, before = np.asarray(asked.activations(layer, others))[(slice(None), *place, unit)]
    changed = (abs(np.array(after) - before) > rounding * abs(before)).reshape(size, size)
    rows, columns = (np.isin(np.arange(size), np.arange(low, low + side)) for low in corner)
    theoretical = np.outer(rows, columns)
    assert changed.any() and not (changed & ~theoretical).any()
    found, = receptive_field.gradients(asked, layer, np.array([unit]), asked.judged.images)
    assert not found[~theoretical].any()
    if paper == 'lenet5':           # whose units are never silent, so that every pixel of the field counts
        assert (changed == theoretical).all() and (found[theoretical] > 0).all()
        assert receptive_field.extent(found) == (rows.argmax(), columns.argmax(), size - rows[::-1].argmax(),
                                                 size - columns[::-1].argmax())


def test_the_square_holds_the_share_and_no_smaller_one_does():
    found = np.zeros((9, 9))
    found[2:7, 3:8] = 1
    assert receptive_field.square(found, 0.99) == ((2, 3), 5)
    assert receptive_field.square(found, 0.3) == ((3, 4), 3)       # 9 of 25
    assert receptive_field.square(found, 0.37) == ((2, 3), 5)
    assert receptive_field.square(np.zeros((9, 9)), 0.5)[1] == 0
    assert receptive_field.extent(found) == (2, 3, 7, 8) and receptive_field.extent(0 * found) == (0, 0, 0, 0)


def test_the_picture_shows_the_image_and_the_statement_both_fields(tmp_path):
    asked = request('lenet5', 'paper', layer='S4', unit=(3, 5))
    asked.judged.images[0] = [250, 20, 20]
    found, said = receptive_field.look(asked, Options(), tmp_path / 'field.png')
    assert found['theoretical'] == 16 and [row['unit'] for row in found['measured']] == [3, 5]
    assert 'sees 16 pixels a side. In 3 images the gradient of 2 units is not zero over up to 16 pixels' in said
    drawn = image.imread(tmp_path / 'field.png')[..., :3]
    red = (abs(drawn - np.array([250, 20, 20]) / 255) < 0.02).all(2)
    assert red.mean() > 0.1


def test_a_silent_unit_is_said_to_be_silent(tmp_path):
    asked = request('alexnet', 'quickstart', SMALL, layer='conv2', unit=(0,))
    asked.network.params['conv2']['bias'] = np.full(4, -1e6, np.float32)
    found, said = receptive_field.look(asked, Options(searched=1), tmp_path / 'field.png')
    assert 'silent' in said and found['measured'][0]['width'] == 0
