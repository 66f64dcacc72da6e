"""Networks that were trained before, by command: evaluated alone and together, and trained on."""
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from launch import evaluation
from launch.alexnet import PAPER
from lib import checkpoint, trained
from lib.data import augment, sources, statistics
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
    for kind in 'xyz':
        (folder / 'photos' / kind).mkdir(parents=True)
        Image.new('RGB', (60, 60)).save(folder / 'photos' / kind / '0.png')
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


def test_evaluations_of_other_parts_have_folders_of_their_own():
    names = [evaluation.folder_name(2, [f'data.validation_split=train{part}'])
             for part in ('[:4000]', '[4000:]', '-4000-', f'[:{"0" * 99}]')]
    assert len(set(names)) == 4 and max(map(len, names)) <= 100
    assert evaluation.folder_name(2, ['evaluation.crops=ten']) == 'step-2-evaluation.crops=ten'


def test_a_run_in_a_folder_called_checkpoints_is_found(tmp_path):
    assert trained.run_folder(tmp_path / 'checkpoints' / 'alexnet') == tmp_path / 'checkpoints' / 'alexnet'
    assert trained.run_folder(tmp_path / 'run' / 'checkpoints' / '00000002') == tmp_path / 'run'
    (tmp_path / 'checkpoints' / '7').mkdir(parents=True)
    (tmp_path / 'checkpoints' / '7' / 'experiment.json').touch()
    assert trained.run_folder(tmp_path / 'checkpoints' / '7') == tmp_path / 'checkpoints' / '7'


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
    assert trained.beginning(source, task, experiment)[1:] == ([], [])
    wider = PAPER.choose('quickstart', ['data.image_size=48', 'data.resize=52', 'model.widths=[4,4,4,4,4]',
                                        'model.fc_width=8', 'model.classes=12', 'model.conv6=4'])
    start, new, left = trained.beginning(source, PAPER.build(wider), wider)
    assert (new, left) == (['conv6', 'fc8'], []) and set(start) == {*source.params} - {'fc8'}
    np.testing.assert_array_equal(start['fc7']['kernel'], source.params['fc7']['kernel'])
    without = PAPER.choose('quickstart', [flag for flag in TINY if '=' in flag and not flag.startswith('--')] +
                           ['model.without=conv4'])
    assert trained.beginning(source, PAPER.build(without), without)[1:] == ([], ['conv4'])
    quickstart = PAPER.choose('quickstart', [])
    with pytest.raises(UsageError, match='conv1 has a bias of 4 .* and a bias of 24 .* here'):
        trained.beginning(source, PAPER.build(quickstart), quickstart)
    with pytest.raises(UsageError, match='starts from a run of fall_2011'):
        trained.beginning(source, task, PAPER.choose('fine_tuned', []))


def test_devices_change_nothing_in_an_evaluation(runs):
    done = launch('--eval_only', f'--workdir={runs}/1/checkpoints/00000002', '--mesh=data:2,model:2', cache=runs)
    assert done.returncode == 0, done.stderr
    found, before = results(runs / '1' / 'evaluation' / 'step-2'), results(runs / '1')
    assert found['devices'] == 4 and found['errors'][0]['loss'] == pytest.approx(before['errors'][0]['loss'], rel=1e-4)


def test_public_weights_are_evaluated_and_trained_on_by_command(tmp_path):
    """A network of torchvision's shape, narrow; the real one has 1,000 classes."""
    rng, maps = np.random.default_rng(0), (3, 4, 4, 4, 4, 4)
    sizes = {0: 11, 3: 5, 6: 3, 8: 3, 10: 3}
    weights = {f'features.{layer}.weight': rng.normal(0, 0.1, (outputs, inputs, size, size))
               for (layer, size), inputs, outputs in zip(sizes.items(), maps, maps[1:])}
    weights |= {f'classifier.{layer}.weight': rng.normal(0, 0.1, shape)
                for layer, shape in ((1, (8, 4 * 36)), (4, (8, 8)), (6, (2, 8)))}
    weights |= {name.replace('weight', 'bias'): np.zeros(len(array)) for name, array in weights.items()}
    save_file({name: array.astype(np.float32) for name, array in weights.items()}, tmp_path / 'small.safetensors')
    for kind, colour in (('dark', 20), ('light', 230)):
        (tmp_path / 'photos' / kind).mkdir(parents=True)
        for i in range(4):
            Image.new('RGB', (256, 260), (colour, colour, 10 * i)).save(tmp_path / 'photos' / kind / f'{i}.png')
    file, photos = tmp_path / 'small.safetensors', ['--set', f'data.source=folder:{tmp_path}/photos', '--set',
                                                    'data.validation_split=all', '--set', 'evaluation.batch_size=4']
    done = launch('--eval_only', f'--weights={file}', *photos, f'--workdir={tmp_path}/found', cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "torchvision's AlexNet (4-4-4-4-4 maps" in done.stdout and 'torchvision alexnet' in done.stdout
    found = results(tmp_path / 'found')
    assert found['errors'][0]['seen'] == 8 and found['members'][0]['epochs'] is None
    small = ['--set', 'data.train_split=all[4:]', '--set', 'data.validation_split=all[:4]', '--set',
             'model.widths=[4,4,4,4,4]', '--set', 'model.fc_width=8',
             '--set', 'model.classes=2', '--set', 'steps=1', '--set', 'batch_size=4']
    done = launch('--experiment=torchvision', f'--init_from={file}', *photos, *small, f'--workdir={tmp_path}/run',
                  cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'taken: conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8; new: none' in done.stdout
    assert results(tmp_path / 'run')['differences']['init_from'] == [None, str(file)]


@pytest.mark.parametrize('changes, size', [({}, 256), ({'resize': None}, 224), ({'resize': 250, 'border': 2}, 254),
                                           ({'resize': None, 'border': 2}, 224)])
def test_the_mean_of_weights_of_others_is_as_large_as_stored_images(changes, size):
    data = dataclasses.replace(PAPER.experiments['paper'].data, mean=(1.0, 2.0, 3.0), **changes)
    experiment = dataclasses.replace(PAPER.experiments['paper'], data=data)
    network = trained.Trained('', experiment, None, {}, None, '', None, None, None, None)
    mean = trained.with_changes(network, [], ()).statistics.mean
    np.testing.assert_array_equal(mean, np.broadcast_to(np.float32([1, 2, 3]), (size, size, 3)))


def test_a_mean_of_a_run_that_is_the_same_at_every_pixel_is_as_large_as_stored_images():
    one = statistics.fixed((1.0, 2.0, 3.0), 68)._replace(eigenvalues=np.float32([4, 5, 6]))
    per_pixel = one._replace(mean=one.mean + np.eye(68, dtype=np.float32)[..., None])
    whitened = one._replace(whitening=np.eye(68 * 68 * 3, 1, dtype=np.float32))

    def changed(known, assignment):
        network = trained.Trained('', PAPER.experiments['quickstart'], None, {}, known, '', None, 2, 0.0, None)
        return trained.with_changes(network, [assignment], ['data.']).statistics

    found = changed(one, 'data.resize=80')
    np.testing.assert_array_equal(found.mean, np.broadcast_to(np.float32([1, 2, 3]), (80, 80, 3)))
    np.testing.assert_array_equal(found.eigenvalues, [4, 5, 6])
    assert changed(one, 'data.resize=none').mean.shape == (68, 68, 3)       # the size of stored images is not known
    for known in (per_pixel, whitened):
        assert changed(known, 'data.resize=80') is known


def test_one_weird_trick_by_command_on_two_devices(tmp_path):
    done = launch(*TINY[1:], '--experiment=one_weird_trick_256_128', '--mesh=data:2', '--set', 'data.source=digits',
                  '--set', 'model.classes=10', '--set', 'batch_size=16', '--set', 'optimizer.fc_batch=8', '--set',
                  'steps=1', f'--workdir={tmp_path}/run', cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'batch 256, fully connected 128' in done.stdout and results(tmp_path / 'run')['devices'] == 2


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
    flags = ['--experiment=fine_tuned', f'--init_from={tmp_path}/before', '--set', 'model.classes=2', '--set',
             f'data.source=folder:{tmp_path}/years', *small, '--set', 'optimizer.learning_rate=1e-9',
             '--set', 'seed=5', f'--workdir={tmp_path}/after']
    after = launch(*flags, cache=tmp_path)
    assert after.returncode == 0, after.stderr
    assert 'taken: conv1, conv2, conv3, conv4, conv5, conv6, fc6, fc7; new: fc8' in after.stdout
    old, new = (checkpoint.read(tmp_path / name / 'checkpoints') for name in ('before', 'after'))
    np.testing.assert_allclose(new['conv6']['kernel'], old['conv6']['kernel'], atol=1e-6)
    assert new['fc8']['kernel'].shape == (8, 2) and results(tmp_path / 'after')['experiment'] == 'fine_tuned'

    for progress in (tmp_path / 'after' / 'checkpoints').glob('*/progress.json'):
        progress.write_text('damaged')
    again = launch(*flags, cache=tmp_path)
    assert again.returncode == 0 and 'taken: conv1' in again.stdout, again.stderr


@pytest.mark.parametrize('flags, message', [
    (['--eval_only'], 'name --workdir=DIR or --weights=FILE'),
    (['--eval_only', '--workdir={runs}'], 'holds no run'),
    (['--eval_only', '--workdir={runs}/0', '--set', 'model.dropout=0'], 'what can be set is evaluation.*, data.source'),
    (['--eval_only', '--workdir={runs}/0', '--experiment=paper'], 'brings its own'),
    (['--eval_only', '--weights={runs}/0/results.json'], 'results.json'),
    (['--eval_only', '--workdir={runs}/0', '--set', 'data.mean=[1,2,3]'], 'the network is as it was trained'),
    (['--eval_only', '--workdir={runs}/0', '--set', 'data.resize=60'], 'set data.resize=52'),
    (['--eval_only', '--workdir={runs}/0', '--mesh=data:3'], 'does not divide evaluation.batch_size=128'),
    (['--eval_only', '--workdir={runs}/0', '--set', 'data.source=folder:{runs}/photos', '--set',
      'data.validation_split=all'], 'choose data of the same classes'),
    (['--ensemble={runs}/0,{runs}/0'], 'stands twice'),
    (['--ensemble={runs}/0'], 'two networks or more'),
    (['--ensemble={runs}/0,{runs}/2'], 'cannot be read'),
    (['--weights={runs}/0'], 'name it with --init_from'),
    (['--experiment=fine_tuned'], 'name its workdir with --init_from=DIR'),
    (['--experiment=figure1', '--init_from={runs}/0'], 'leave out --init_from'),
])
def test_a_mistake_is_one_sentence_and_exit_code_2(flags, message, runs):
    done = launch(*(flag.format(runs=runs) for flag in flags), cache=runs)
    assert done.returncode == 2, done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('error: ') and message in last and 'Traceback' not in done.stderr, done.stderr
