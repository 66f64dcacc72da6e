"""Networks that were trained before, by command: evaluated alone and together, and trained on."""
import json

import numpy as np
import pytest
from PIL import Image

from launch import trained
from launch.alexnet import PAPER
from lib import checkpoint
from lib.data import augment, sources
from lib.experiment import UsageError
from tests.commands import TINY, launch

SMALL = [*TINY, '--set', 'steps=2', '--set', 'checkpoint.keep=[0]', '--set', 'evaluation.crops=centre']


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Two runs that differ in their seed, and the folder that they are in."""
    folder = tmp_path_factory.mktemp('runs')
    for seed in (0, 1):
        done = launch(*SMALL, '--set', f'seed={seed}', f'--workdir={folder}/{seed}', cache=folder)
        assert done.returncode == 0, done.stderr
    return folder


def results(folder):
    return json.loads((folder / 'results.json').read_text())


def probabilities(runs, seed):
    network = trained.from_workdir(PAPER, runs / str(seed))
    split = sources.load_one(network.experiment.data, 'validation', None, runs)
    crops = augment.centre(split.images[:20], network.statistics, network.experiment.data)
    return network.task.predict(network.params, crops), split.labels[:20]


def errors(probabilities, labels, most):
    return 100 * np.mean([label not in np.argsort(-row, stable=True)[:most]
                          for row, label in zip(np.asarray(probabilities), labels)])


def test_a_run_is_evaluated_again_without_touching_its_results(runs):
    before = (runs / '0' / 'results.json').read_bytes()
    done = launch('--eval_only', f'--workdir={runs}/0', cache=runs)
    assert done.returncode == 0, done.stderr
    found = results(runs / '0' / 'evaluation' / 'step-2')
    assert (runs / '0' / 'results.json').read_bytes() == before
    assert [{key: value for key, value in error.items() if key not in ('step', 'epoch', 'loss')}
            for error in json.loads(before)['errors']] == [
                {key: value for key, value in error.items() if key != 'loss'} for error in found['errors']]
    done = launch('--eval_only', f'--workdir={runs}/0', '--set', 'evaluation.crops=ten', cache=runs)
    assert done.returncode == 0 and 'ten crops averaged' in done.stdout, done.stderr
    assert [error['protocol'] for error in results(runs / '0' / 'evaluation' / 'step-2-evaluation.crops=ten')[
        'errors']] == ['ten', 'centre']


def test_an_ensemble_averages_the_probabilities_of_its_networks(runs):
    done = launch(f'--ensemble={runs}/0,{runs}/1', '--set', 'evaluation.crops=ten', f'--workdir={runs}/both',
                  cache=runs)
    assert done.returncode == 0, done.stderr
    (first, labels), (second, _) = probabilities(runs, 0), probabilities(runs, 1)
    assert np.abs(first - second).max() > 1e-3
    ten, error = results(runs / 'both')['errors']
    assert (ten['protocol'], error['protocol']) == ('ten', 'centre')
    own = np.take_along_axis(np.asarray(first + second) / 2, labels[:, None], 1)
    assert error['seen'] == 20 and error['loss'] == pytest.approx(-np.log(own).mean(), rel=1e-4)
    assert [error['top1'], error['top5']] == pytest.approx([errors(first + second, labels, most) for most in (1, 5)])
    assert [member['seed'] for member in results(runs / 'both')['members']] == [0, 1]
    assert '5 CNNs: other networks, 2 x quickstart here and 5 x paper in the paper' in ' '.join(done.stdout.split())
    assert '7 CNNs*' in done.stdout


def test_a_network_is_found_at_its_latest_step_or_at_the_one_that_is_named(runs):
    latest, first = (trained.from_workdir(PAPER, path) for path in
                     (runs / '0', runs / '0' / 'checkpoints' / '00000000'))
    assert (latest.step, first.step) == (2, 0) and latest.epochs == pytest.approx(64 / 1437)
    assert np.any(latest.params['conv2']['bias'] != first.params['conv2']['bias'])
    np.testing.assert_array_equal(first.params['conv2']['bias'],
                                  checkpoint.read(runs / '0' / 'checkpoints' / '00000000')['conv2']['bias'])


def test_training_starts_from_the_layers_that_fit_and_a_new_last_one(runs):
    source = trained.from_workdir(PAPER, runs / '0')
    experiment = PAPER.choose('quickstart', [flag for flag in TINY if '=' in flag and not flag.startswith('--')])
    task = PAPER.build(experiment)
    assert trained.beginning(source, task, experiment)[1] == []
    wider = PAPER.choose('quickstart', ['data.image_size=48', 'data.resize=52', 'model.widths=[4,4,4,4,4]',
                                        'model.fc_width=8', 'model.classes=12', 'model.conv6=4'])
    start, new = trained.beginning(source, PAPER.build(wider), wider)
    assert new == ['conv6', 'fc8'] and set(start) == {'conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7'}
    np.testing.assert_array_equal(start['fc7']['kernel'], source.params['fc7']['kernel'])
    quickstart = PAPER.choose('quickstart', [])
    with pytest.raises(UsageError, match='conv1 has a bias of 4 .* and a bias of 24 .* here'):
        trained.beginning(source, PAPER.build(quickstart), quickstart)
    with pytest.raises(UsageError, match='starts from a run of fall_2011'):
        trained.beginning(source, task, PAPER.choose('fine_tuned', []))


def test_pre_training_and_fine_tuning_on_folders_of_images(tmp_path):
    """1 CNN* of Table 2 in small: three classes, then two others."""
    for name, classes in (('fall', 'abc'), ('years', 'de')):
        for number, kind in enumerate(classes):
            (tmp_path / name / kind).mkdir(parents=True)
            for i in range(4):
                Image.new('RGB', (60, 50), (80 * number, 50 * i, 99)).save(tmp_path / name / kind / f'{i}.png')
    small = ['--set', 'data.image_size=48', '--set', 'data.resize=52', '--set', 'model.widths=[4,4,4,4,4]', '--set',
             'model.fc_width=8', '--set', 'model.conv6=4', '--set', 'steps=1', '--set', 'batch_size=4', '--set',
             'evaluation.batch_size=4', '--set', 'data.train_split=all[2:]', '--set', 'data.validation_split=all[:2]']
    before = launch('--experiment=fall_2011', '--set', f'data.source=folder:{tmp_path}/fall', *small,
                    f'--workdir={tmp_path}/before', cache=tmp_path)
    assert before.returncode == 0, before.stderr
    after = launch('--experiment=fine_tuned', f'--init_from={tmp_path}/before', '--set', 'model.classes=2', '--set',
                   f'data.source=folder:{tmp_path}/years', *small, '--set', 'optimizer.learning_rate=1e-9',
                   '--set', 'seed=5', f'--workdir={tmp_path}/after', cache=tmp_path)
    assert after.returncode == 0, after.stderr
    assert 'taken: conv1, conv2, conv3, conv4, conv5, conv6, fc6, fc7; new: fc8' in after.stdout
    old, new = (checkpoint.read(tmp_path / name / 'checkpoints') for name in ('before', 'after'))
    np.testing.assert_allclose(new['conv6']['kernel'], old['conv6']['kernel'], atol=1e-6)
    assert new['fc8']['kernel'].shape == (8, 2) and results(tmp_path / 'after')['experiment'] == 'fine_tuned'


@pytest.mark.parametrize('flags, message', [
    (['--eval_only'], 'name --workdir=DIR or --weights=FILE'),
    (['--eval_only', '--workdir={runs}'], 'holds no run'),
    (['--eval_only', '--workdir={runs}/0', '--set', 'model.dropout=0'], 'what can be set is evaluation.*, data.source'),
    (['--eval_only', '--workdir={runs}/0', '--experiment=paper'], 'brings its own'),
    (['--eval_only', '--weights={runs}/0/results.json'], 'results.json'),
    (['--ensemble={runs}/0'], 'two networks or more'),
    (['--ensemble={runs}/0,{runs}/2'], 'cannot be read'),
    (['--weights={runs}/0'], 'name it with --init_from'),
    (['--experiment=fine_tuned'], 'name its workdir with --init_from=DIR'),
    (['--experiment=figure1', '--init_from={runs}/0'], 'leave out --init_from'),
])
def test_a_mistake_is_one_sentence_and_exit_code_2(flags, message, runs):
    done = launch(*(flag.format(runs=runs) for flag in flags), cache=runs)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
