"""Confidence maps: what is shown and counted, by hand on networks whose maps are the colours of the pixels."""
import collections

import numpy as np
import pytest
from matplotlib import image

from lib.experiment import UsageError
from lib.visualize import SAME, confidence_maps
from tests.test_occlusion import activations, asked, params, photographs

SCALE = {'conv': {'scale': np.float32(2)}}


def colours(params, images):
    maps = params['conv']['scale'] * images
    return collections.OrderedDict(maps=maps, scores=maps.mean((1, 2)))


def squares():
    """A red square; a green pixel that is brighter than a wide blue; nothing."""
    images = np.zeros((3, 4, 4, 3), np.uint8)
    images[0, :2, :2, 0] = 200
    images[1, 0, 0, 1] = 250
    images[1, :, :, 2] = 100
    return images


def test_the_greatest_of_all_maps_are_shown_and_none_that_are_zero():
    maps = np.array([[[5.0, 1.0], [0.0, 4.0]], [[3.0, 2.0], [0.0, 0.0]]])
    assert maps[confidence_maps.greatest(maps, 0.375)].tolist() == [5, 4, 3]
    assert sorted(maps[confidence_maps.greatest(maps, 1.0)]) == [1, 2, 3, 4, 5]
    assert confidence_maps.greatest(-maps, 0.01).sum() == 0             # the greatest is a zero
    assert confidence_maps.greatest(np.ones((2, 2, 2)), 0.25).ravel().tolist() == [True, True] + [False] * 6


def test_what_is_counted(tmp_path):
    request = asked(squares(), colours, SCALE, labels=[0, 1, 2], batch_size=2)
    found, said = confidence_maps.look(request, confidence_maps.Options(share=0.125), tmp_path / 'c.png')    # 6 of 48
    assert found['layer'] == 'maps' and found['size'] == [4, 4, 3] and found['drawn'] == [0, 1, 2]
    # Of the first 4 are not zero; of the second one is green and 5 blue; the third's scores are equal, and red leads.
    assert [row[0] for row in found['table']['rows']] == [f'class of number {k}' for k in range(3)]
    assert [row[1:] for row in found['table']['rows']] == [
        [1, '0.0', '100.0', '100.0'], [1, '100.0', '100.0', f'{100 / 6:.1f}'], [1, '100.0', '0.0', '-']]
    assert found['error'] == found['strongest'] == pytest.approx(200 / 3)
    assert found['in_own'] == pytest.approx(100 * 5 / 10) and found['images'] == 3
    assert '66.7 % of 3 images of some' in said and 'it holds 50.0 % of the greatest 12.5 %' in said
    assert 'where chance is 33.3 %' in said and 'wrong in 66.7 %' in said


def test_without_labels_there_is_no_error(tmp_path):
    request = asked(squares(), colours, SCALE, labels=[0, -1, 2])       # the second is taken for what is seen in it
    found, said = confidence_maps.look(request, confidence_maps.Options(), tmp_path / 'c.png')
    assert found['error'] is None and [row[2] for row in found['table']['rows']] == ['-'] * 2
    assert said.endswith('where chance is 33.3 %.')


def test_one_image_of_each_class_is_drawn_in_their_order(tmp_path):
    request = asked(squares()[[1, 0, 0, 1]], colours, SCALE, labels=[2, 0, 0, 2])
    found, _ = confidence_maps.look(request, confidence_maps.Options(), tmp_path / 'c.png')
    assert found['drawn'] == [1, 0]
    chosen = asked(squares()[[1, 0, 0, 1]], colours, SCALE, labels=[2, 0, 0, 2], images=(3, 1, 2))
    found, _ = confidence_maps.look(chosen, confidence_maps.Options(), tmp_path / 'c.png')
    assert found['drawn'] == [3, 1, 2] and found['images'] == 3


def test_the_picture_shows_the_maps_on_the_scale_of_their_image(tmp_path):
    def drawn(share):
        request = asked(squares()[[1]], colours, SCALE, labels=[1])
        confidence_maps.look(request, confidence_maps.Options(share=share), tmp_path / 'c.png')
        return image.imread(tmp_path / 'c.png')[..., :3]

    def count(pixels, value):
        return (abs(pixels - value).max(2) < 0.01).sum()

    square = (2 * confidence_maps.SIDE / 4) ** 2
    whole, few = drawn(1.0), drawn(0.125)
    assert count(whole, 100 / 250) == pytest.approx(16 * square, rel=0.03)      # blue, beside the image itself
    assert count(few, 100 / 250) == pytest.approx(5 * square, rel=0.03)
    for pixels in (whole, few):
        assert count(pixels, np.array([int(SAME[k:k + 2], 16) / 255 for k in (1, 3, 5)])) > 0


def test_networks_without_such_maps_are_refused(tmp_path):
    with pytest.raises(UsageError, match='the last layer of this one, fc, does not average maps'):
        confidence_maps.look(asked(photographs(), activations, params()), confidence_maps.Options(), tmp_path / 'c.png')
    for changes in ({'share': 0.0}, {'share': 1.1}, {'examples': -1}):
        with pytest.raises(UsageError, match=f'confidence_maps.{next(iter(changes))}='):
            confidence_maps.Options(**changes)
