"""What the pictures of a trained network say: against brute force, by hand, and as a user types the command."""
import collections
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image

from lib.data import augment
from lib.data.sources import Split
from lib.data.statistics import Statistics
from lib.experiment import Data, UsageError
from lib.visualize import MARGIN, SHARPNESS, Sheet, class_name, crop, examples, kernels, layers, neighbours, predictions
from tests.commands import TINY, command, launch

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


# ---------------------------------------------------------------------------------------------- kernels

def test_colour_share_of_grey_coloured_and_random_kernels():
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.normal(size=(5, 5, 1, 1)), 3, axis=2)
    coloured = rng.normal(size=(5, 5, 3, 1))
    coloured -= coloured.mean(axis=2, keepdims=True)
    yellow = np.zeros((5, 5, 3, 1))
    yellow[2, 3, :2] = -0.7         # 2 (1 - 2/3)^2 + (2/3)^2 of 2
    both = grey + coloured
    found = kernels.colour_share(np.concatenate([grey, coloured, yellow, both, np.zeros((5, 5, 3, 1))], axis=3))
    share = np.square(coloured).sum() / (np.square(grey).sum() + np.square(coloured).sum())
    np.testing.assert_allclose(found, [0, 1, 1 / 3, share, 0], atol=1e-12)
    random = kernels.colour_share(rng.normal(scale=0.01, size=(11, 11, 3, 2000)).astype(np.float32))
    assert abs(random.mean() - kernels.RANDOM) < 0.002 and (random > 0.5).mean() > 0.99


def test_kernels_of_one_channel_are_grey_and_have_no_colour(tmp_path):
    weights = np.random.default_rng(0).standard_normal((5, 5, 1, 6))
    assert 'no colour' in kernels.statement(kernels.measure(weights))
    kernels.draw(weights, 1, 'Kernels', [], tmp_path / 'kernels.png')
    drawn = image.imread(tmp_path / 'kernels.png')[..., :3]
    assert np.ptp(drawn, axis=2).max() < 0.01



def test_colour_is_counted_by_group_and_said_beside_that_of_random_kernels():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(5, 5, 3, 6))
    weights[..., :2] = weights[..., :2].mean(axis=2, keepdims=True)
    found = kernels.measure(weights, groups=2)
    first, second = found['groups']
    assert (first['kernels'], second['kernels'], first['above_half'], second['above_half']) == (3, 3, 1, 3)
    np.testing.assert_allclose(first['shares'] + second['shares'], kernels.colour_share(weights))
    assert first['median'] == pytest.approx(0) and first['mean'] == pytest.approx(first['shares'][2] / 3)
    said = kernels.statement(json.loads(json.dumps(found)))
    assert f'group 1: mean {first["mean"]:.2f}, median 0.00, 1 of 3 kernels above 1/2; group 2: mean' in said
    assert 'Untrained kernels are not grey' in said and '0.67' in said
    assert 'group' not in kernels.statement(kernels.measure(weights)).split('.')[0]


def test_kernels_are_scaled_around_grey_and_set_apart_by_group(tmp_path):
    weights = np.zeros((11, 11, 3, 40), np.float32)     # a row of 16 and a row of 4 in each group
    weights[0, 0, :, 0] = 2.0
    weights[0, 0, :, 1], weights[1, 0, :, 1] = -0.5, 0.25
    weights[10, 10, 0, [16, 20]] = 1.0
    kernels.draw(weights, 2, 'Kernels', ['by hand'], tmp_path / 'kernels.png')
    picture = image.imread(tmp_path / 'kernels.png')[..., :3]
    grey = (abs(picture - 0.5) < 0.01).all(axis=2)     # zero, of which the kernels are full
    rows, columns = (np.nonzero(grey.sum(axis=axis) > 200)[0] for axis in (1, 0))
    top, below, left = rows[0], rows[np.diff(rows).argmax() + 1], columns[0]
    size = SHARPNESS * 6
    assert left == SHARPNESS * MARGIN and len(rows) == 4 * SHARPNESS * 66
    assert (picture[top:top + size, left:left + size] == 1).all()
    assert not grey[top + 2:top + size - 2, left + 142:left + 150].any()
    assert (picture[top + 1:top + size - 1, left + 141:left + 139 + size] == 0).all()
    assert abs(picture[top + size + 1:top + 2 * size - 1, left + 141:left + 139 + size] - 0.75).max() < 0.01
    for row in (top + SHARPNESS * 70, below):
        corner = picture[row + 10 * size + 1:row + 11 * size - 1, left + 10 * size + 1:left + 11 * size - 1]
        assert (corner[..., 0] == 1).all() and abs(corner[..., 1:] - 0.5).max() < 0.01


def test_groups_must_divide_the_kernels():
    with pytest.raises(ValueError, match='9 kernels do not make 2 equal groups'):
        kernels.measure(np.zeros((3, 3, 3, 9)), groups=2)


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


def test_classes_have_short_names_or_a_number():
    judged = split('some', 1)
    assert [class_name(judged, label) for label in (0, 4, 5)] == ['tench', 'kite', 'class 5']


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


# ---------------------------------------------------------------------------------------------- the command

@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    """Of a network that has taken two steps on the digits."""
    folder = tmp_path_factory.mktemp('visualize')
    done = launch(*TINY, '--set=steps=2', f'--workdir={folder / "run"}', cache=folder)
    assert done.returncode == 0, done.stderr
    return folder / 'run'


def visualize(workdir, *flags):
    arguments = command(cache=workdir.parent)
    return subprocess.run(**arguments | {'args': [sys.executable, '-m', 'launch.visualize', *flags]}, timeout=300)


def test_kernels_of_a_run(workdir):
    step = max(workdir.glob('checkpoints/0*'))      # writes beside the checkpoints, not into one
    for given in (workdir, step):
        done = visualize(workdir, 'alexnet', '--method=kernels', f'--workdir={given}')
        assert done.returncode == 0, done.stderr
        found = json.loads((workdir / 'visualize' / 'kernels.json').read_text())
        assert found['statement'] in done.stdout and str(workdir / 'visualize' / 'kernels.png') in done.stdout
    assert [group['kernels'] for group in found['groups']] == [2, 2] and found['layer'] == 'conv1'
    assert not (step / 'visualize').exists()


def test_predictions_of_a_run_from_other_images(workdir, tmp_path):
    done = visualize(workdir, 'alexnet', '--method=predictions', f'--workdir={workdir}', f'--output={tmp_path}',
                     '--images=[7,5]', '--set=data.validation_split=validation[:9]')
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / 'predictions.json').read_text())
    assert found['data'] == 'digits validation[:9]' and [entry['image'] for entry in found['images']] == [7, 5]
    assert image.imread(tmp_path / 'predictions.png').std() > 0.05


def test_neighbours_of_a_run(workdir):
    done = visualize(workdir, 'alexnet', '--method=neighbours', f'--workdir={workdir}', '--images=7')
    assert done.returncode == 0, done.stderr
    found = json.loads((workdir / 'visualize' / 'neighbours.json').read_text())
    query, = found['queries']
    assert found['layer'] == 'fc7' and found['train'] == 'digits train'
    assert [len(query['nearest'][space]) for space in ('fc7', 'pixels')] == [6, 6]


@pytest.mark.parametrize('flags, sentence', [
    ([], 'No paper is named: put its name first'),
    (['alexnt', '--method=kernels'], 'the papers are: lenet5, alexnet'),
    (['alexnet', '--method=saliency', '--workdir=DIR'], 'choose one of kernels, predictions, neighbours'),
    (['alexnet', '--method=kernels'], 'Give one of --workdir'),
    (['alexnet', '--method=kernels', '--workdir=DIR', '--layer=conv2'], 'takes no --layer'),
    (['alexnet', '--method=neighbours', '--workdir=DIR', '--layer=conv9'], 'choose one of conv1, norm1, pool1, conv2'),
    (['alexnet', '--method=predictions', '--workdir=DIR', '--images=one'], 'as in --images=[0,17]'),
    (['alexnet', '--method=predictions', '--workdir=DIR', '--set=model.groups=1'], 'data.source'),
    (['alexnet', '--method=kernels', '--workdir=DIR', '--output=/proc/nowhere'], 'choose another --output'),
])
def test_a_mistake_is_told_in_one_sentence(workdir, flags, sentence):
    done = visualize(workdir, *(flag.replace('DIR', str(workdir)) for flag in flags))
    assert done.returncode == 2 and sentence in done.stderr, done.stderr
    assert 'Traceback' not in done.stderr and done.stderr.count('\n') == 1
