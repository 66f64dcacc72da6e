"""GrabCut from saliency: on objects that were drawn, and what is said where there is none."""
import sys

import numpy as np
import pytest

from lib.experiment import UsageError
from lib.visualize import segmentation
from lib.visualize.segmentation import Box, Options
from tests.random_networks import request

OBJECT, SECOND = Box(12, 20, 30, 44), Box(40, 4, 46, 10)


def drawn(seed=0):
    """(uint8 [48, 48, 3]: a large and a small orange box on grass, [48, 48]: a map that is high in a part of the
    large one, neither high nor low in the rest of both, and low in places of the grass by chance)."""
    rng = np.random.default_rng(seed)
    image = np.array([40, 140, 60]) + rng.normal(0, 12, (48, 48, 3))
    for box in (OBJECT, SECOND):
        size = (box.bottom - box.top, box.right - box.left, 3)
        image[box.top:box.bottom, box.left:box.right] = np.array([230, 120, 20]) + rng.normal(0, 12, size)
    saliency = rng.uniform(0, 1, (48, 48))
    saliency[(image[..., 0] > 135)] = 0.6
    saliency[12:22, 24:36] += 1
    return np.clip(image, 0, 255).astype(np.uint8), saliency


@pytest.fixture
def cv2():
    return pytest.importorskip('cv2', reason='needs opencv: install requirements-peer.txt')


@pytest.mark.parametrize('iterations', [0, 5])
def test_the_box_is_that_of_the_larger_object_of_which_a_part_is_salient(cv2, iterations):
    image, saliency = drawn()
    mask, = segmentation.measure(image[None], saliency[None], Options(iterations=iterations))
    inside = np.zeros((48, 48), bool)
    inside[OBJECT.top:OBJECT.bottom, OBJECT.left:OBJECT.right] = True
    assert (mask == inside).all()
    assert segmentation.box(mask) == OBJECT and OBJECT.area == 18 * 24
    again, = segmentation.measure(image[None], saliency[None], Options(iterations=iterations))
    assert (again == mask).all()


def test_seeds_are_the_quantiles_and_need_some_saliency():
    saliency = np.random.default_rng(0).permutation(1000).reshape(25, 40) / 1000
    found, background = segmentation.seeds(saliency, Options())
    assert found.sum() == 50 and saliency[found].min() == 0.95
    assert background.sum() == 300 and saliency[background].max() == 0.299
    found, background = segmentation.seeds(np.eye(20), Options())       # ties: all of the diagonal
    assert (found == np.eye(20, dtype=bool)).all() and (background == ~found).all()
    assert not segmentation.seeds(np.zeros((20, 20)), Options())[0].any()


def test_a_blank_map_has_no_object(cv2):
    image, saliency = drawn()
    masks = segmentation.measure(np.stack([image, image]), np.stack([saliency, 0 * saliency]), Options())
    assert segmentation.box(masks[0]) and segmentation.box(masks[1]) is None
    said = segmentation.statement(masks, np.stack([saliency, 0 * saliency]))
    assert said.startswith('Over 1 maps the object has') and 'its box 18.8 % of the crop' in said      # 432 of 2,304
    assert said.endswith('In 1 others no object was found.')
    assert segmentation.statement(masks[1:], 0 * saliency[None]).startswith('No object was found in 1 maps')


def test_of_a_network(cv2, tmp_path):
    asked = request('lenet5', 'paper', images=2)
    found, said = segmentation.look(asked, Options(), tmp_path / 'segmentation.png')
    assert (tmp_path / 'segmentation.png').stat().st_size > 10_000 and said.startswith('Over 2 maps')
    assert found['layer'] == 'output' and len(found['boxes']) == len(found['table']['rows']) == 2
    assert all(0 <= box.top < box.bottom <= 32 and 0 <= box.left < box.right <= 32 for box in found['boxes'])


def test_without_opencv_it_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'cv2', None)
    with pytest.raises(UsageError, match='pip install opencv-python-headless'):
        segmentation.look(request('lenet5', 'paper'), Options(), tmp_path / 'segmentation.png')
