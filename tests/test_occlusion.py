"""A square over the image: against a loop over places, and the signs of what it changes by hand."""
import collections
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image

from launch.papers import PAPERS
from lib.data.sources import Split
from lib.data.statistics import fixed
from lib.experiment import UsageError
from lib.task import Task
from lib.trained import Trained
from lib.visualize import correspondence, occlusion
from lib.visualize.request import Request
from reproductions.zfnet.paper import TABLE_1

CLASSES = tuple(f'class of number {number}' for number in range(5))


def params():
    rng = np.random.default_rng(1)
    return {'conv': {'kernel': rng.normal(size=(3, 3, 3, 4)).astype(np.float32) / 50},
            'fc': {'kernel': rng.normal(size=(12 * 12 * 4, 5)).astype(np.float32) / 30}}


def activations(params, images):
    maps = jax.nn.relu(jax.lax.conv_general_dilated(images, params['conv']['kernel'], (1, 1), 'SAME',
                                                    dimension_numbers=('NHWC', 'HWIO', 'NHWC')))
    return collections.OrderedDict(conv=maps, fc=maps.reshape(len(images), -1) @ params['fc']['kernel'])


def pixels_are_features(params, images):
    return collections.OrderedDict(maps=params['conv']['scale'] * images, scores=images.sum((1, 2)))


def asked(stored, activations, params, labels=None, batch_size=7, **changes):
    """A request about a network that reads pixels as they are."""
    stored = np.asarray(stored, np.uint8)
    size = stored.shape[1]
    experiment = PAPERS['lenet5'].choose('paper', [
        f'data.image_size={size}', 'data.border=0', 'data.pixel_scale=1', f'evaluation.batch_size={batch_size}'])
    task = Task(lambda key: params, None, lambda params, x: jax.nn.softmax([*activations(params, x).values()][-1]),
                activations)
    network = Trained('small', experiment, task, params, fixed((0.0, 0, 0), size), 'by hand', CLASSES, 0, 0.0, None)
    request = Request(network, 'conv', **changes)
    labels = np.zeros(len(stored)) if labels is None else labels
    request.__dict__['judged'] = Split('some', stored, np.array(labels, np.int32), CLASSES)
    return request


def photographs(count=3):
    return np.random.default_rng(0).integers(0, 256, (count, 12, 12, 3), np.uint8)


# ---------------------------------------------------------------------------------------------- occlusion

def test_places_are_spread_evenly_over_the_image():
    assert occlusion.corners(10, 3, 4).tolist() == [0, 4, 7]        # middles of 5/3, 5 and 25/3, less 3/2, rounded
    assert occlusion.corners(12, 4, 3).tolist() == [0, 3, 6, 9]     # 1.5 is rounded up
    assert occlusion.corners(8, 6, 2).tolist() == [-2, 0, 2, 4]


def test_occlusion_is_a_loop_over_places(tmp_path):
    request = asked(photographs(), activations, params(), labels=[2, 4, 2])
    numbers, said = occlusion.look(request, occlusion.Options(square=5, stride=3, grey=90), tmp_path / 'o.png')
    assert numbers['middles'] == [1, 4, 7, 10] and numbers['layer'] == 'conv'
    drops = []
    for number, label, found in zip(range(3), [2, 4, 2], json.loads(json.dumps(numbers))['images']):
        whole = request.judged.images[number].astype(np.float32)
        maps = np.asarray(request.activations('conv', whole[None]))[0].sum((0, 1))
        unit, loop = int(maps.argmax()), {}
        for row in (1, 4, 7, 10):
            for column in (1, 4, 7, 10):
                hidden = whole.copy()
                for y in range(12):
                    for x in range(12):
                        if abs(y - row) <= 2 and abs(x - column) <= 2:
                            hidden[y, x] = 90
                probabilities = np.asarray(request.predict(hidden[None]))[0]
                total = np.asarray(request.activations('conv', hidden[None]))[0, ..., unit].sum()
                loop[row, column] = probabilities[label], probabilities.argmax(), total
        for name, expected in zip(('probability', 'likely', 'activity'), zip(*loop.values())):
            np.testing.assert_allclose(np.ravel(found['maps'][name]), expected, rtol=1e-4)
        worst = min(loop, key=lambda place: loop[place][0])
        before = float(request.predict(whole[None])[0, label])
        assert (found['image'], found['label'], found['unit']) == (number, label, unit)
        assert (found['worst']['row'], found['worst']['column']) == worst
        assert found['worst']['likely'] == CLASSES[loop[worst][1]]
        assert found['without']['probability'] == pytest.approx(before, rel=1e-4)
        assert found['without']['activity'] == pytest.approx(float(maps[unit]), rel=1e-4)
        assert found['other'] == np.mean([likely != label for _, likely, _ in loop.values()])
        drops.append((before - float(loop[worst][0]), f'image {number}, {CLASSES[label]}, from {before:.3f} to '
                      f'{loop[worst][0]:.3f} with its middle at row {worst[0]}, column {worst[1]}'))
    assert max(drops) != drops[0]
    assert max(drops)[1] in said and f'by {np.mean([drop for drop, _ in drops]):.2f} in the mean of 3 images' in said


def test_a_square_that_hides_what_counts_is_drawn_where_it_does(tmp_path):
    def spot(params, images):       # the first class while rows 2 to 4, columns 7 to 9 are bright
        maps = params['conv']['scale'] * images
        bright = maps[:, 2:5, 7:10].mean((1, 2, 3)) / 20 - 6
        return collections.OrderedDict(maps=maps, scores=jnp.stack([bright, -bright, 0 * bright], 1))

    images = np.full((1, 12, 12, 3), 60, np.uint8)
    images[:, 2:5, 7:10] = 240
    request = asked(images, spot, {'conv': {'scale': np.float32(1)}})
    numbers, said = occlusion.look(request, occlusion.Options(square=3, stride=1, grey=0), tmp_path / 'o.png')
    assert numbers['images'][0]['worst'] == {'probability': pytest.approx(np.exp(-12) / (1 + np.exp(-12) + np.exp(-6)),
                                             rel=1e-3), 'row': 3, 'column': 8, 'likely': CLASSES[1]}
    drawn = image.imread(tmp_path / 'o.png')[..., :3]
    blue, orange = ((abs(drawn - np.array(colour) / 255) < 0.01).all(2) for colour in ((31, 95, 168), (209, 96, 10)))
    changed = np.mean(np.array(numbers['images'][0]['maps']['likely']) == 1)
    assert 0 < changed < 0.2
    panel = (2 * occlusion.SIDE) ** 2
    assert blue.sum() == pytest.approx((1 - changed) * panel, rel=0.03)
    left = orange[:, :drawn.shape[1] // 4]      # the frame, of 3 of the 12 pixels of the image
    rows, columns = (np.flatnonzero(left.sum(axis) > 10) for axis in (1, 0))
    assert np.ptp(rows) == pytest.approx(2 * occlusion.SIDE / 4, abs=8)
    assert columns[0] == pytest.approx(2 * (occlusion.MARGIN + 7 * occlusion.SIDE / 12), abs=5)


def test_occlusion_refuses_in_a_sentence(tmp_path):
    def look(**options):
        changes = {name: options.pop(name) for name in ('layer', 'unit') if name in options}
        return occlusion.look(asked(photographs(), activations, params(), **changes), occlusion.Options(**options),
                              tmp_path / 'o.png')

    for given, sentence in (({'square': 13}, 'larger than the image of 12'), ({'unit': (0, 1)}, 'name one --unit'),
                            ({'unit': (4,)}, 'choose from 0 to 3'), ({'stride': 0}, 'stride=0 must be at least 1'),
                            ({'grey': 256}, 'grey=256 must be 0 to 255')):
        with pytest.raises(UsageError, match=sentence):
            look(**given)
    numbers, _ = look(layer='fc', unit=(3,))        # units have no places, and are looked at all the same
    assert numbers['layer'] == 'fc' and numbers['units'] == [3, 3, 3]


# ---------------------------------------------------------------------------------------------- correspondence

def by_hand(tmp_path=None, parts=None, **changes):
    """Three images of 4 x 4 pixels that are brighter than grey, darker, and brighter but for two pixels."""
    images = np.full((3, 4, 4, 3), 200)
    images[1], images[2, 0, 0], images[2, 0, 1] = 100, 100, 128
    path = None
    if parts is not None:
        path = str(tmp_path / 'parts.json')
        (tmp_path / 'parts.json').write_text(parts if isinstance(parts, str) else json.dumps(parts))
    options = {'draws': 3, 'square': 2} | changes
    request = asked(images, pixels_are_features, {'conv': {'scale': np.float32(2)}}, batch_size=2, layer='maps',
                    images=options.pop('images', None))
    return correspondence.measure(request, correspondence.Options(parts=path, **options))[0]


def test_correspondence_by_hand(tmp_path):
    parts = {0: {'eye': [1, 1], 'nose': [3, 3]}, 1: {'nose': [3, 3], 'eye': [1, 1]}, 2: {'eye': [1, 1], 'nose': [1, 1]}}
    found = by_hand(tmp_path, parts)
    eye, nose, random = found['rows']
    # Of 16 pixels, the eye's are 4: in them + against -, + against (-, 0, +, +), - against (-, 0, +, +).
    pairs = np.array([4, 2, 3]) / 16
    assert (eye['part'], found['images'], random['part']) == ('eye', [0, 1, 2], 'random')
    assert eye['maps'] == {'mean': pytest.approx(pairs.mean()), 'std': pytest.approx(pairs.std()),
                           'changed': pytest.approx(11 / 48)}
    # The nose of the third is elsewhere: the 4 pixels of one and the 3 that change in the other differ.
    pairs = np.array([4, 4 + 3, 4 + 3]) / 16
    assert nose['maps'] == {'mean': pytest.approx(pairs.mean()), 'std': pytest.approx(pairs.std()),
                            'changed': pytest.approx(11 / 48)}
    assert 'the same part (eye, nose) is hidden' in correspondence.statement(found)


def test_random_places_are_wholly_in_the_image_and_differ_from_each_other():
    whole = by_hand(square=4, draws=2)['rows'][-1]['maps']
    pairs = np.array([16, 2, 15]) / 16
    assert whole == {'mean': pytest.approx(pairs.mean()), 'std': pytest.approx(pairs.std()), 'changed': 47 / 48}
    few, many, other = (by_hand(draws=draws, seed=seed)['rows'][-1]['maps']
                        for draws, seed in ((1, 0), (40, 0), (40, 1)))
    assert len({few['mean'], many['mean'], other['mean']}) == 3 and many['changed'] > 0.2
    assert many['mean'] == pytest.approx(other['mean'], abs=0.05) and many['mean'] > 0.3     # 0.19 at one place


def test_without_a_file_places_are_fixed_and_it_is_said(tmp_path):
    request = asked(photographs(6), activations, params(), labels=[2, 0, 2, 1, 2, 2], layer='conv')
    numbers, said = correspondence.look(request, correspondence.Options(count=3), tmp_path / 'c.png')
    assert numbers['images'] == [0, 4, 5] and numbers['names'] == [CLASSES[2]] * 3
    assert [row['part'] for row in numbers['rows']] == [*correspondence.PLACES, 'random']
    assert 'fixed places, not the same part of an object' in said
    assert image.imread(tmp_path / 'c.png').std() > 0.05
    numbers, _, _ = correspondence.measure(asked(photographs(6), activations, params(), images=(3, 1)),
                                           correspondence.Options())
    assert numbers['images'] == [3, 1] and numbers['layers'] == ['conv']    # the last maps are the last but one


def test_a_change_of_the_size_of_rounding_is_none():
    found = correspondence._sign(jnp.array([[1.0, 1.0, 1.0, -900.0]]), jnp.array([[1.0, 1.002, 0.9, -900.0]]))
    assert found.tolist() == [[0, 0, 1, 0]]


def test_the_published_numbers_are_those_of_the_table():
    assert {row.name.lower(): tuple(row.values) for row in TABLE_1.rows} == correspondence.PUBLISHED


@pytest.mark.parametrize('parts, sentence', [
    ('{"0": ', 'cannot be read'), ('[1, 2]', 'cannot be read'), ('{"0": {"eye": 3}}', 'cannot be read'),
    ({0: {'eye': [1, 1]}}, 'at least 2 images'), ({0: {}, 1: {}}, 'names no parts'),
    ({0: {'eye': [1, 1]}, 9: {'eye': [1, 1]}}, 'has no image 9: choose numbers from 0 to 2'),
    ({0: {'eye': [1, 1]}, 1: {'nose': [1, 1]}}, 'image 1 has the parts nose'),
    ({0: {'eye': [1, 1]}, 1: {'eye': [1, 4]}}, 'from 0 to 3'),
    ({0: {'eye': [1, 1]}, 1: {'eye': [1]}}, 'row and column'),
    ({0: {'random': [1, 1]}, 1: {'random': [1, 1]}}, 'call that part otherwise')])
def test_damaged_parts_are_refused_in_a_sentence(tmp_path, parts, sentence):
    with pytest.raises(UsageError, match=sentence):
        by_hand(tmp_path, parts)


def test_correspondence_needs_pairs_and_one_choice_of_images(tmp_path):
    with pytest.raises(UsageError, match='at least 2 with --images'):
        by_hand(images=(1,))
    with pytest.raises(UsageError, match='leave out the numbers'):
        by_hand(tmp_path, {0: {'eye': [1, 1]}, 1: {'eye': [1, 1]}}, images=(0, 1))
