"""Images that a unit likes: each part by hand, against SciPy and PyTorch, and that the score rises."""
import dataclasses
import json

import jax
import numpy as np
import pytest
from matplotlib import image
from scipy import ndimage

from lib.data.statistics import Statistics
from lib.experiment import UsageError
from lib.trained import Trained
from lib.visualize import class_model, free
from lib.visualize.class_model import SETTINGS, Options, Setting
from lib.visualize.request import Request
from reproductions.lenet5.experiments import EXPERIMENTS
from reproductions.lenet5.model import build
from tests.looked_at import DATA, nearest_mean, network, request
from tests.peer import random_params

PLAIN = Setting('zero', 1, 'constant', 1.0)


def regularised(setting, x, gradient, number=0):
    blurring = class_model.blur_matrix(x.shape[1], setting.blur)
    return np.asarray(class_model.regularise(setting, x, gradient, blurring, number))


def draws(*shape):
    return np.random.default_rng(0).normal(0, 30, (2, *shape)).astype(np.float32)


# ---------------------------------------------------------------------------------------------- the regularisers

@pytest.mark.parametrize('deviation', [0.5, 1.0, 3.0])
def test_blur_is_scipys_and_only_every_k_steps(deviation):
    x, gradient = draws(2, 9, 9, 3)
    setting = dataclasses.replace(PLAIN, blur=deviation, blur_every=4)
    expected = ndimage.gaussian_filter(x, (0, deviation, deviation, 0))
    for number in range(9):
        found = regularised(setting, x, gradient, number)
        np.testing.assert_allclose(found, expected if number % 4 == 0 else x, atol=1e-4)


@pytest.mark.parametrize('channels', [1, 3])
def test_pixels_of_small_norm_or_contribution_become_zero(channels):
    x, gradient = draws(2, 7, 6, channels)
    for name in ('small_norm', 'small_contribution'):
        found = regularised(dataclasses.replace(PLAIN, **{name: 30.0}), x, gradient)
        for one, slope, after in zip(x, gradient, found):
            size = np.zeros((7, 6))
            for i, j in np.ndindex(7, 6):
                size[i, j] = np.linalg.norm(one[i, j]) if name == 'small_norm' else abs(one[i, j] @ slope[i, j])
            smallest = np.argsort(size.ravel())[:13]        # 30 % of 42, whose 12.3rd in between is the bound
            expected = one.reshape(42, channels).copy()
            expected[smallest] = 0
            np.testing.assert_array_equal(after.reshape(42, channels), expected)


def test_regularisers_come_in_the_order_of_the_authors_code():
    x, gradient = draws(1, 8, 8, 3)
    setting = dataclasses.replace(PLAIN, decay=0.25, blur=1.0, small_norm=40.0, small_contribution=50.0)
    expected = regularised(dataclasses.replace(PLAIN, decay=0.25), x, gradient)
    np.testing.assert_allclose(expected, 0.75 * x, rtol=1e-6)
    for part in ({'blur': 1.0}, {'small_norm': 40.0}, {'small_contribution': 50.0}):
        expected = regularised(dataclasses.replace(PLAIN, **part), expected, gradient)
    np.testing.assert_allclose(regularised(setting, x, gradient), expected, atol=1e-5)


@pytest.mark.parametrize('policy, step, greatest', [
    ('constant', 100.0, None), ('progress', 2.0, None), ('progress', 2.0, 0.5), ('normalised', 3.0, None)])
def test_rates(policy, step, greatest):
    gradient = draws(3, 5, 5, 3)[0] * np.array([1, 0.01, 1e-4])[:, None, None, None]
    found = class_model.rate(Setting('zero', 1, policy, step, greatest), gradient)
    for one, rate in zip(gradient, np.asarray(found).ravel()):
        squares = np.square(one)
        size = {'constant': 1, 'progress': squares.sum(), 'normalised': squares.mean() ** 0.5}[policy]
        expected = step / size
        assert rate == pytest.approx(min(expected, greatest or np.inf), rel=1e-4)


def test_the_settings_of_yosinski_et_al_are_the_rows_of_their_table():
    rows = """0 0.5 4 50 0 500 progress 2 100
              0.3 0 0 20 0 750 constant 100 -
              0.0001 1.0 4 0 0 1000 constant 100 -
              0 0.5 4 0 90 1000 progress 2 1e8""".splitlines()
    for number, row in enumerate(rows):
        decay, blur, every, norm, contribution, steps, policy, step, greatest = row.split()
        setting = SETTINGS[f'yosinski{number + 1}']
        assert (setting.decay, setting.blur, setting.small_norm, setting.small_contribution, setting.steps) == \
            (float(decay), float(blur), float(norm), float(contribution), int(steps))
        assert (setting.start, setting.policy, setting.step, setting.l2) == ('noise', policy, float(step), 0)
        assert setting.greatest == (None if greatest == '-' else float(greatest))
        assert setting.blur == 0 or setting.blur_every == int(every)


# ---------------------------------------------------------------------------------------------- the climb

def test_progress_raises_a_linear_score_by_what_is_asked(tmp_path):
    asked = request(tmp_path)
    climb = class_model.ascend(asked, 'fc', np.array([3, 5]), Setting('zero', 5, 'progress', 0.002),
                               20 * np.tile(free.inside(asked), (2, 1, 1, 1)).astype(np.float32))
    np.testing.assert_allclose(np.diff(climb.objective, axis=0), 0.002, rtol=0.05)


def test_the_penalty_ends_where_its_gradient_is_that_of_the_score(tmp_path):
    """max w x - l2 |x|^2 lies at w / (2 l2); x is grey, in three channels, and pixels below 0 are cut."""
    asked = request(tmp_path)
    w = nearest_mean()['fc']['kernel'].reshape(9, 9, 3, 10)[..., 5].sum(-1) / 255
    l2 = w.max() / 1200
    setting = Setting('zero', 400, 'constant', 0.05 / l2, l2=l2)
    climb = class_model.ascend(asked, 'fc', np.array([5]), setting, np.zeros((1, 9, 9, 1), np.float32))
    expected = np.where(np.arange(9)[:, None] * np.arange(9) > 0, 7 + np.maximum(w / (2 * 3 * l2), -7), 0)
    np.testing.assert_allclose(climb.pixels[0, ..., 0], expected, atol=0.6)
    assert 190 < climb.pixels.max() < 215 and climb.objective[-1] > climb.objective[0]


def test_each_image_climbs_for_its_own_unit_at_the_central_place(tmp_path):
    asked = request(tmp_path)
    x = draws(2, 9, 9, 3)[0] * free.inside(asked)
    outputs = np.asarray(asked.activations('conv', 128 + x))
    np.testing.assert_array_equal(class_model.scores(outputs, np.array([1, 0])), [outputs[0, 3, 3, 1],
                                                                                  outputs[1, 3, 3, 0]])
    setting = Setting('noise', 3, 'normalised', 2.0)
    climb = class_model.ascend(asked, 'conv', np.array([1, 0]), setting, x)
    moved = np.abs(climb.pixels - np.clip(np.rint(class_model.mean_image(asked) + x), 0, 255)).sum(-1) > 0
    assert moved[:, 3:6, 3:6].any() and not moved[:, :3].any() and not moved[:, 6:].any()


def test_an_image_without_a_gradient_stays_and_is_told(tmp_path):
    params = nearest_mean()
    params['fc']['kernel'][:, 4] = 0
    asked = request(tmp_path, network(params), unit=(4, 6))
    found, said = class_model.look(asked, Options(steps=5, decay=0.3), tmp_path / 'c.png')
    still, moving = found['found']
    assert still['moves'] == 0 and still['start'] == 'N(0, 160)' and still['after'] == still['before']
    assert moving['moves'] == 5 and moving['start'] == 'N(0, 10)'
    assert '1 of them came to, or started from, an image where they have no gradient' in said
    x = 50 * free.inside(asked).astype(np.float32)[None]
    climb = class_model.ascend(asked, 'fc', np.array([4]), Options(steps=5, decay=0.3).chosen, x)
    np.testing.assert_array_equal(climb.pixels[0, 1:, 1:], 57)


# ---------------------------------------------------------------------------------------------- networks

def lenet(tmp_path, name='modern', **asked):
    experiment = EXPERIMENTS[name]
    if name == 'caffe':
        experiment = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, widths=(4, 6, 8)))
    task, stored = build(experiment), experiment.data.image_size
    mean = np.full((stored, stored, 3), 10, np.float32)
    statistics = Statistics(mean, np.zeros(3, np.float32), np.eye(3, dtype=np.float32))
    params = jax.tree.map(np.float32, random_params(task))
    return Request(Trained(name, experiment, task, params, statistics, 'random', tuple('0123456789'), None, None,
                           None),
                   next(iter(params)), cache=tmp_path, **asked)


@pytest.mark.parametrize('setting, layer', [('ours', None), ('ours', 'C3'), ('ours', 'F6'), ('simonyan', None),
                                            ('simonyan', 'F6'), ('yosinski1', None), ('yosinski3', None)])
def test_the_score_rises(tmp_path, layer, setting):
    asked = lenet(tmp_path, layer=layer, unit=(1, 4, 5))
    options = Options(setting, steps=12, l2=1e-6 if setting == 'simonyan' else None,
                      step=2000.0 if setting == 'yosinski3' else None)
    found, said = class_model.look(asked, options, tmp_path / 'c.png')
    json.dumps(found, allow_nan=False)
    layer = layer or 'output'
    assert found['layer'] == layer and found['units'] == [1, 4, 5] and 'of 3 of 3 units' in said
    assert all(entry['after'] > entry['before'] and entry['objective'][-1] > entry['objective'][0]
               and len(entry['objective']) == 12 for entry in found['found'])
    assert (found['found'][0]['probability'] is not None) == (layer == 'output')
    assert image.imread(tmp_path / 'c.png').std() > 0.1


def test_what_is_drawn_has_the_scores_that_are_told(tmp_path):
    asked = lenet(tmp_path)
    units = np.array([2, 7])
    climb = class_model.ascend(asked, 'output', units, SETTINGS['ours'], np.zeros((2, 32, 32, 1), np.float32))
    outputs = np.asarray(asked.activations('output', climb.pixels))
    np.testing.assert_allclose(climb.after, outputs[[0, 1], units], rtol=1e-5)
    assert np.ptp(climb.pixels, axis=-1).max() == 0 and climb.pixels.dtype == np.uint8     # one channel is read
    border = asked.data.border
    assert border == 2 and not climb.pixels[:, :border].any() and not climb.pixels[:, :, -border:].any()
    assert climb.pixels[:, border:-border].std() > 5


def test_the_climb_is_that_of_pytorch_with_equal_weights(tmp_path):
    torch = pytest.importorskip('torch', reason='needs torch: install requirements-peer.txt')
    peers = pytest.importorskip('reproductions.lenet5.peer')
    from tests.test_peer_lenet5 import in_torchs_layout
    asked = lenet(tmp_path, 'caffe')
    peer = peers.make(asked.network.experiment).double()
    peer.load_state_dict({key: torch.tensor(np.float64(a))
                          for key, a in in_torchs_layout(asked.network.params, []).items()})
    start = np.random.default_rng(1).normal(5, 15, (1, 28, 28, 1)).astype(np.float32)
    setting = Setting('noise', 4, 'constant', 2000.0, decay=0.01)
    climb = class_model.ascend(asked, asked.layers[-1], np.array([6]), setting, start)
    x, objective = torch.tensor(start.transpose(0, 3, 1, 2).astype(np.float64)), []
    for _ in range(4):
        x = x.clamp(-10, 245).detach().requires_grad_()
        outputs = peer.outputs(x / asked.data.pixel_scale)
        score = outputs[list(outputs)[-1]][0, 6]
        score.backward()
        objective.append(score.item())
        x = (x + 2000 * x.grad) * 0.99
    assert objective[-1] > objective[0]
    np.testing.assert_allclose(climb.objective[:, 0], objective, rtol=1e-3)
    np.testing.assert_allclose(climb.pixels[0, ..., 0], (x.detach().numpy()[0, 0] + 10).clip(0, 255), atol=0.6)


# ---------------------------------------------------------------------------------------------- what is asked

def test_classes_that_occur_are_chosen_and_images_can_be_started_from(tmp_path):
    asked = request(tmp_path)
    assert class_model._units(asked, 'fc').tolist() == [0, 1, 3, 4, 5, 6, 8, 9]
    few = dataclasses.replace(asked, images=(5, 9))
    units, starts, x = class_model._start(dataclasses.replace(few, unit=(2, 7)), 'fc', Options(start='image').chosen, 0)
    assert units.tolist() == [2, 7, 2, 7] and starts == ['image 5', 'image 5', 'image 9', 'image 9']
    np.testing.assert_allclose(class_model.mean_image(asked) + x[2], asked.pixels(asked.judged, np.array([9]))[0])


def test_starts_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(UsageError, match='name them with --images'):
        class_model.look(request(tmp_path), Options(start='image'), tmp_path / 'c.png')
    normalised = request(tmp_path, network(data=dataclasses.replace(DATA, contrast='global')))
    with pytest.raises(UsageError, match='choose class_model.start=noise or image'):
        class_model.look(normalised, Options('simonyan'), tmp_path / 'c.png')
    found, _ = class_model.look(normalised, Options(steps=10), tmp_path / 'c.png')
    assert all(entry['after'] > entry['before'] for entry in found['found'])


@pytest.mark.parametrize('wrong', [{'steps': 0}, {'step': 0.0}, {'decay': 1.0}, {'blur': -1.0}, {'blur_every': 0},
                                   {'small_norm': 100.0}, {'small_contribution': -1.0}, {'l2': -1.0},
                                   {'greatest': 0.0}])
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(UsageError, match=f'class_model.{next(iter(wrong))}='):
        Options(**wrong)
