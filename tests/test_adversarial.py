"""Adversarial images: against a linear network by hand, against PyTorch, and read again from their files."""
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from lib.data.statistics import Statistics
from lib.experiment import UsageError
from lib.trained import Trained
from lib.visualize import adversarial, adversarial_errors, free, perturbation, transfer
from lib.visualize.request import Request
from reproductions.lenet5.experiments import EXPERIMENTS
from reproductions.lenet5.model import build
from tests.looked_at import DATA, nearest_mean, network, request
from tests.peer import random_params

PARAMS = nearest_mean()


def logits(pixels, params=PARAMS):
    """Of the hand-made network, in float64."""
    flat = (np.asarray(pixels, np.float64) - 7).reshape(len(pixels), -1) / 255
    return flat @ params['fc']['kernel'].astype(np.float64) + params['fc']['bias']


def softmax(scores):
    e = np.exp(scores - scores.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def signs(pixels, labels):
    """[n, 9, 9, 1] of the loss's gradient in a grey change: of a linear network W (p - 1), summed over the colours."""
    error = softmax(logits(pixels)) - np.eye(10)[labels]
    gradient = (error @ PARAMS['fc']['kernel'].T.astype(np.float64)).reshape(-1, 9, 9, 3).sum(-1, keepdims=True)
    gradient[:, 0], gradient[:, :, 0] = 0, 0        # the border
    return np.sign(np.where(abs(gradient) < 1e-7, 0, gradient))


def some(asked, count=12):
    split, at = asked.examples(count)
    return asked.pixels(split, at), split.labels[at]


# ---------------------------------------------------------------------------------------------- the changes themselves

@pytest.mark.parametrize('eight_bits', [True, False])
def test_the_fast_gradient_sign_is_that_of_a_linear_network(tmp_path, eight_bits):
    asked = request(tmp_path)
    pixels, labels = some(asked)
    expected = signs(pixels, labels)
    assert (expected == 1).sum() > 100 < (expected == -1).sum()
    for epsilon, found in zip((0.1, 0.3), perturbation.attack(asked, 'fgsm', pixels, labels, (0.1, 0.3),
                                                              eight_bits=eight_bits)):
        moved = pixels + epsilon * 255 * expected
        np.testing.assert_allclose(found, np.clip(np.rint(moved), 0, 255) if eight_bits else moved, atol=1e-3)
    towards, = perturbation.attack(asked, 'fgsm', pixels, (labels + 1) % 10, [0.1], towards=True, eight_bits=False)
    np.testing.assert_allclose(towards, pixels - 25.5 * signs(pixels, (labels + 1) % 10), atol=1e-3)


def test_iterations_stay_within_epsilon_and_raise_the_loss_more_than_one_step(tmp_path):
    asked = request(tmp_path)
    pixels, labels = some(asked)
    epsilon = 20 / 255
    once, = perturbation.attack(asked, 'fgsm', pixels, labels, [epsilon])
    several, = perturbation.attack(asked, 'iterative', pixels, labels, [epsilon], step=3 / 255)
    assert np.abs(several - pixels).max() == 20 and several.min() >= 0 and several.max() <= 255
    assert perturbation.iterations(epsilon, 3 / 255) == 8 and perturbation.iterations(4 / 255, 1 / 255) == 5
    still = np.zeros((12, 9, 9, 1), np.float32)
    losses = [np.mean(perturbation.losses(asked, images, still, labels)[0]) for images in (pixels, once, several)]
    assert losses[0] < losses[1] <= losses[2] + 1e-5
    np.testing.assert_allclose(losses[0], -np.log(softmax(logits(pixels))[range(12), labels]).mean(), rtol=1e-4)


def test_every_channel_has_room_of_its_own(tmp_path):
    """One long step that is brought back into epsilon and the range of pixels is the fast gradient's."""
    pixels = np.random.default_rng(0).choice(np.float32([0, 10, 245, 255]), (3, 9, 9, 3))
    asked, labels = request(tmp_path), np.arange(3)
    once, = perturbation.attack(asked, 'fgsm', pixels, labels, [20 / 255])
    long, = perturbation.attack(asked, 'iterative', pixels, labels, [20 / 255], step=25 / 255)
    assert np.abs(once - pixels).max() == 20
    np.testing.assert_allclose(long, once, atol=1e-3)
    found = perturbation.lbfgs(asked, pixels[0], 1, searches=1, iterations=3).pixels
    assert np.abs(found - pixels[0]).any() and found.min() >= 0 and found.max() <= 255


def test_random_signs_are_of_the_same_size_without_the_gradient(tmp_path):
    asked = request(tmp_path)
    pixels, labels = some(asked, 40)
    change = perturbation.noise(asked, pixels, 0.1, 3, eight_bits=False) - pixels
    inside = change[:, 1:, 1:]
    np.testing.assert_allclose(np.abs(inside), 25.5, rtol=1e-5)
    assert not change[:, 0].any() and not change[:, :, 0].any()
    assert np.ptp(change, axis=-1).max() < 1e-4         # grey images stay grey
    assert abs((np.sign(inside[..., :1]) * signs(pixels, labels)[:, 1:, 1:]).mean()) < 0.06
    again = perturbation.noise(asked, pixels, 0.1, 4, eight_bits=False) - pixels
    assert abs(np.mean(np.sign(again[:, 1:, 1:]) * np.sign(inside))) < 0.06


def test_lbfgs_keeps_to_the_box_and_reaches_the_target_with_less_than_a_sign_needs(tmp_path):
    asked = request(tmp_path)
    pixels, _ = some(asked, 3)
    seen = np.argmax(logits(pixels), 1)
    targets = np.argmin(logits(pixels), 1)
    for image, target in zip(pixels, targets):
        found = perturbation.lbfgs(asked, image, int(target), searches=8, iterations=40)
        assert found.c is not None and np.argmax(logits(found.pixels[None])[0]) == target
        assert found.pixels.min() == 0 and found.pixels.max() <= 255 and (found.pixels == np.rint(found.pixels)).all()
        assert (found.pixels[0] == image[0]).all()      # the border
        attacked = perturbation.attack(asked, 'fgsm', image[None], np.array([target]), np.arange(1, 255) / 255, True)
        needed = next((a for a in attacked if np.argmax(logits(a)) == target), None)
        assert needed is None or perturbation.distortion(image[None], found.pixels[None])[0] < \
            perturbation.distortion(image[None], needed)[0]
    assert (seen != targets).all()
    easy = perturbation.lbfgs(request(tmp_path, network(nearest_mean(30.0))), pixels[0], int(targets[0]), 6, 40)
    assert easy.c > 1       # the first weight reaches it, and so do greater ones, which change less


def test_lbfgs_minimises_what_it_says(tmp_path, monkeypatch):
    """Where the gradient of c |r|^2 + loss is not 0, it points out of the box."""
    asked = request(tmp_path)
    pixels, _ = some(asked, 1)
    target = int(np.argmin(logits(pixels)))
    monkeypatch.setattr(np, 'rint', lambda x: x)
    found = perturbation.lbfgs(asked, pixels[0], target, searches=1, iterations=500).pixels[None]
    r = (found - pixels)[..., :1].astype(np.float64) / 255
    error = softmax(logits(found)) - np.eye(10)[[target]]
    gradient = (error @ PARAMS['fc']['kernel'].T).reshape(1, 9, 9, 3).sum(-1, keepdims=True) + 2 * 3 * r
    low, high = found[..., :1] <= 1e-3, found[..., :1] >= 255 - 1e-3
    free_to_move = ~low & ~high
    free_to_move[:, 0], free_to_move[:, :, 0] = False, False
    assert free_to_move.sum() > 10 and np.abs(gradient[free_to_move]).max() < 2e-3
    assert (gradient[:, 1:, 1:][low[:, 1:, 1:]] > -2e-3).all() and (gradient[high] < 2e-3).all()


def test_a_class_that_cannot_be_reached_is_said_not_to_be(tmp_path):
    params = nearest_mean()
    params['fc']['bias'][3] = -1e6
    asked = request(tmp_path, network(params), images=(0, 1))
    options = adversarial.Options(kind='lbfgs', target=3, searches=3, iterations=5)
    found, said = adversarial.look(asked, options, tmp_path / 'a.png')
    assert [entry['reached'] for entry in found['found']] == [False, False] and found['found'][0]['c'] is None
    assert '0 of 2 images are seen as the class chosen' in said and 'no weight of the distortion' in said


def test_distortion_by_hand():
    before = np.zeros((1, 2, 2, 3))
    after = before.copy()
    after[0, 0, 0] = 51, 0, 0
    after[0, 1, 1] = 102, 0, 51
    inside = np.array([[1, 0], [0, 1]], bool)[..., None]
    assert perturbation.distortion(before, after) == pytest.approx((0.24 / 12) ** 0.5)
    assert perturbation.distortion(before, after, inside) == pytest.approx((0.24 / 6) ** 0.5)


# ---------------------------------------------------------------------------------------------- files and pictures

@pytest.mark.parametrize('options', [
    adversarial.Options(), adversarial.Options(kind='iterative'), adversarial.Options(kind='lbfgs', searches=6),
    adversarial.Options(target=4, kind='iterative')], ids=lambda options: f'{options.kind}{options.target or ""}')
def test_what_the_files_hold_is_classified_as_claimed(tmp_path, options):
    asked = request(tmp_path, images=(17, 3, 40, 8))
    found, said = adversarial.look(asked, options, tmp_path / 'adversarial.png')
    json.dumps(found)
    assert found['images'] == [17, 3, 40, 8] and len(found['table']['rows']) == 4
    reached = 0
    for number, entry in zip((17, 3, 40, 8), found['found']):
        stored = asked.judged.images[number][1:-1, 1:-1]
        with Image.open(tmp_path / entry['file']) as file:
            image = np.asarray(file)
        assert image.shape == (8, 8, 3) and image.dtype == np.uint8 and (image != stored).any()
        views = np.pad(np.stack([stored, image]), ((0, 0), (1, 0), (1, 0), (0, 0)))
        for scores, seen in zip(softmax(logits(views)), (entry['before'], entry['after'])):
            assert np.argmax(scores) == seen['label']
            assert seen['probability'] == pytest.approx(scores.max(), rel=1e-3)
        difference = image.astype(int) - stored
        assert entry['largest'] == np.abs(difference).max()
        assert entry['distortion'] == pytest.approx(np.sqrt(np.square(difference / 255).mean()))
        if options.kind != 'lbfgs':
            assert entry['largest'] <= round(255 * entry['epsilon'])
        label = entry['after']['label']
        assert entry['reached'] == (label == entry['target'] if entry['target'] is not None
                                    else label != entry['before']['label'])
        reached += entry['reached']
    assert reached >= 2 and f'{reached} of 4 images' in said
    assert len(list((tmp_path / 'adversarial-images').iterdir())) == 4


def test_the_smallest_epsilon_that_misleads_is_taken(tmp_path):
    asked = request(tmp_path, images=(17, 3))
    options = adversarial.Options(epsilons=(0.9, 0.02, 0.3, 0.1, 0.2))
    found, _ = adversarial.look(asked, options, tmp_path / 'a.png')
    pixels = asked.pixels(asked.judged, np.array([17, 3]))
    seen = logits(pixels).argmax(1)
    for i, entry in enumerate(found['found']):
        misled = [epsilon for epsilon in (0.02, 0.1, 0.2, 0.3, 0.9)
                  if logits(np.clip(np.rint(pixels + epsilon * 255 * signs(pixels, seen)), 0, 255))[i].argmax()
                  != seen[i]]
        assert entry['epsilon'] == misled[0]


def test_files_of_an_earlier_run_are_removed_and_others_kept(tmp_path):
    asked = request(tmp_path)
    (tmp_path / 'own.png').write_bytes(b'mine')
    for numbers in ((4, 5, 6), (7,)):
        free.write(tmp_path, np.zeros((len(numbers), 8, 8, 3), np.uint8), numbers)
    assert {path.name for path in tmp_path.glob('*.png')} == {'own.png', '000-image-7.png'}
    assert free.stored_size(asked) == 8


@pytest.mark.parametrize('options, sentence', [
    ({'target': 10}, 'choose from 0 to 9'), ({'target': 2}, 'is what the network sees in image'),
])
def test_a_target_has_to_be_another_class(tmp_path, options, sentence):
    asked = request(tmp_path)
    numbers = tuple(int(i) for i in np.flatnonzero(asked.judged.labels == 2)[:3])
    with pytest.raises(UsageError, match=sentence):
        adversarial.look(dataclasses.replace(asked, images=numbers), adversarial.Options(**options), tmp_path / 'a.png')


@pytest.mark.parametrize('make', [adversarial.Options, adversarial_errors.Options, transfer.Options])
def test_epsilons_are_parts_of_the_range(make):
    for epsilons in ((), (0.0, 0.1), (8.0,)):
        with pytest.raises(UsageError, match='epsilons'):
            make(epsilons=epsilons)


# ---------------------------------------------------------------------------------------------- tables

def brute_force(pixels, labels, epsilon):
    wrong, confidence = 0, 0.0
    for image, label in zip(pixels, labels):
        changed = np.clip(np.rint(image + epsilon * 255 * signs(image[None], [label])[0]), 0, 255)
        p = softmax(logits(changed[None]))[0]
        wrong += p.argmax() != label
        confidence += p.max() if p.argmax() != label else 0
    return 100 * wrong / len(labels), 100 * confidence / wrong


def test_errors_are_those_of_a_loop_over_every_image_once(tmp_path):
    trained = network()
    evaluation = dataclasses.replace(trained.experiment.evaluation, batch_size=50)
    trained = trained._replace(experiment=dataclasses.replace(trained.experiment, evaluation=evaluation))
    asked = request(tmp_path, trained)
    options = adversarial_errors.Options(epsilons=(0.25, 0.05), examples=None)
    found, said = adversarial_errors.look(asked, options, tmp_path / 'e.png')
    split = asked.judged
    pixels = asked.pixels(split, np.arange(len(split)))
    assert found['images'] == 360 and [row['epsilon'] for row in found['rows']] == [0, 0.05, 0.25]
    for row in found['rows']:
        assert (row['error'], row['confidence']) == pytest.approx(brute_force(pixels, split.labels, row['epsilon']),
                                                                  rel=1e-3)
    clean, _, last = found['rows']
    assert clean['error'] < 15 < 80 < last['error'] and clean['noise_error'] == clean['error']
    assert clean['error'] <= last['noise_error'] < last['error']
    assert f'{last["error"]:.2f} %' in said and 'Goodfellow' not in said
    assert len(found['table']['columns']) == len(found['table']['rows'][0]) == 5
    json.dumps(found)


def test_published_numbers_stand_beside_the_same_data_and_epsilon_only():
    found = {'kind': 'fgsm', 'data': 'mnist 3.0.1 test', 'eight_bits': True, 'labelled': True, 'images': 10,
             'rows': [{'epsilon': e, 'error': 1.0 + e, 'confidence': None, 'noise_error': 1.0, 'noise_confidence': None}
                      for e in (0, 0.1, 0.25)]}
    assert [row[-1] for row in adversarial_errors.table(found)['rows']] == ['-', '-', '99.9 (79.3); 89.4 (97.6)']
    assert 'other networks' in adversarial_errors.statement(found)
    for other in ({'kind': 'iterative'}, {'data': 'cifar10 3.0.2 test'}, {'rows': found['rows'][:2]}):
        assert len(adversarial_errors.table(found | other)['columns']) == 5


def test_what_misleads_a_network_is_shown_to_another_one(tmp_path):
    others = nearest_mean()
    others['fc']['kernel'] += 0.009 * np.random.default_rng(0).standard_normal((243, 10), np.float32)
    others['fc']['kernel'].reshape(9, 9, 3, 10)[0] = others['fc']['kernel'].reshape(9, 9, 3, 10)[:, 0] = 0
    # The same images without a border, for a network whose crop is the whole.
    params = {'conv': others['conv'], 'fc': {
        'kernel': others['fc']['kernel'].reshape(9, 9, 3, 10)[1:, 1:].reshape(-1, 10), 'bias': others['fc']['bias']}}
    data = dataclasses.replace(DATA, border=0, image_size=8)
    mean = Statistics(np.full((8, 8, 3), 7, np.float32), np.array([1, 0, 0], np.float32), np.eye(3, dtype=np.float32))
    options = transfer.Options(epsilons=(0.15, 0.05), examples=60)
    first = request(tmp_path, other=network(params, data, mean))
    found, said = transfer.look(first, options, tmp_path / 't.png')
    split, at = first.examples(60)
    pixels, labels = first.pixels(split, at), split.labels[at]

    right = (logits(pixels).argmax(1) == labels) & (logits(pixels, others).argmax(1) == labels)
    for row in found['rows']:
        changed = np.clip(np.rint(pixels + row['epsilon'] * 255 * signs(pixels, labels)), 0, 255)
        own, transferred = logits(changed).argmax(1) != labels, logits(changed, others).argmax(1) != labels
        assert row['own_error'] == pytest.approx(100 * own.mean())
        assert row['transferred_error'] == pytest.approx(100 * transferred.mean())
        assert (row['misled'], row['both']) == ((right & own).sum(), (right & own & transferred).sum())
    assert any(row['own_error'] != row['transferred_error'] for row in found['rows'])
    assert found['rows'][2]['misled'] > 5
    assert '60 images of digits validation' in said and len(found['table']['rows']) == 3


def test_transfer_is_refused_where_images_would_have_to_be_resized_or_classes_differ(tmp_path):
    with pytest.raises(UsageError, match='--other=PAPER:DIR'):
        transfer.second(request(tmp_path))
    larger = network(statistics=Statistics(np.zeros((12, 12, 3), np.float32), np.ones(3, np.float32),
                                           np.eye(3, dtype=np.float32)))
    with pytest.raises(UsageError, match='must not be resized'):
        transfer.second(request(tmp_path, other=larger))
    with pytest.raises(UsageError, match='does not tell the same classes apart'):
        transfer.second(request(tmp_path, other=network()._replace(classes=tuple('abcdefghij'))))


def test_unlabelled_files_count_as_what_is_seen_in_them(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / 'files').mkdir()
    for k in range(3):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / 'files' / f'{k}.png')
    asked = request(tmp_path, images=tmp_path / 'files')
    found, said = adversarial_errors.look(asked, adversarial_errors.Options(epsilons=(0.3,)), tmp_path / 'e.png')
    assert found['rows'][0]['error'] == 0 and found['images'] == 3 and 'Without labels' in said


# ---------------------------------------------------------------------------------------------- a real network

def lenet(tmp_path, **asked):
    experiment = EXPERIMENTS['caffe']
    experiment = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, widths=(4, 6, 8)))
    task = build(experiment)
    side = experiment.data.image_size
    params = random_params(task)
    mean = Statistics(np.full((side, side, 3), 10, np.float32), np.zeros(3, np.float32), np.eye(3, dtype=np.float32))
    trained = Trained('caffe', experiment, task, params, mean, 'random', tuple('0123456789'), None, None, None)
    return Request(trained, 'conv1', cache=tmp_path, **asked), params


def test_the_gradient_is_that_of_pytorch_with_equal_weights(tmp_path):
    torch = pytest.importorskip('torch', reason='needs torch: install requirements-peer.txt')
    peers = pytest.importorskip('reproductions.lenet5.peer')
    from tests.test_peer_lenet5 import in_torchs_layout as layout
    asked, params = lenet(tmp_path)
    experiment = asked.network.experiment
    peer = peers.make(experiment).double()
    peer.load_state_dict({key: torch.tensor(a) for key, a in layout(params, []).items()})
    grey = np.random.default_rng(1).integers(0, 256, (4, 28, 28, 1)).astype(np.float32)
    labels = np.array([3, 0, 9, 9])
    losses, gradient = perturbation.losses(asked, grey.repeat(3, 3), np.zeros_like(grey), labels)
    pixels = torch.tensor(grey.transpose(0, 3, 1, 2).astype(np.float64), requires_grad=True)
    outputs = peer.outputs((pixels - 10) / experiment.data.pixel_scale)
    theirs = torch.nn.functional.cross_entropy(outputs[list(outputs)[-1]], torch.tensor(labels), reduction='none')
    theirs.sum().backward()
    np.testing.assert_allclose(losses, theirs.detach().numpy(), rtol=1e-4)
    expected = pixels.grad.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(gradient, expected, atol=1e-4 * np.abs(expected).max())
    assert free.channels(asked, grey) == 1
