"""Comparisons: the names of their arms, what --arms and NAME/ARM mean, the claims that they test, a run by command."""
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launch import comparison
from launch.alexnet import PAPER
from launch.papers import PAPERS
from lib import checkpoint
from lib.effects import Effects
from lib.experiment import Arm, Comparison, UsageError, diff
from lib.races import Race
from lib.results import kept
from lib.tables import Row, Table
from lib.train import Diverged, Outcome
from reproductions.alexnet.experiments import EXPERIMENTS
from tests.commands import launch

PAIRED, RACE = EXPERIMENTS['cifar_paired'], EXPERIMENTS['figure1']
COMPARISONS = [(paper, name) for paper, known in PAPERS.items() for name, found in known.experiments.items()
               if isinstance(found, Comparison)]


def test_arms_of_a_race_are_told_apart_by_their_rates_and_others_by_their_names():
    assert list(RACE.labelled) == ['relu-0.02', 'relu-0.04', 'relu-0.01', 'tanh-0.04', 'tanh-0.02', 'tanh-0.08']
    assert list(PAIRED.labelled)[:3] == ['published', 'no_overlap', 'crops_and_reflections']
    assert PAIRED.experiment(PAIRED.arms[0]) == PAIRED.base
    assert diff(PAIRED.experiment(PAIRED.labelled['tanh']), PAIRED.base).keys() == {'model.activation'}


@pytest.mark.parametrize('base', [PAIRED.base, RACE.base], ids=['paired', 'race'])
def test_two_arms_of_one_name_are_refused(base):
    with pytest.raises(UsageError, match='birds: two of the arms have the same name'):
        Comparison('birds', '', base, (Arm('same'), Arm('same', (('seed', 1),))))


@pytest.mark.parametrize('change, sentence', [
    (('data.crp', 'random'), "There is no field 'data.crp'. Did you mean data.crop"),
    (('data.crop', 'randon'), "arm other has data.crop='randon', which takes one of"),
    (('epochs', 2.5), 'arm other has epochs=2.5, which takes a whole number'),
    (('data.affine', [1.0, 0.1, 0.1, 0.2]), 'arm other has data.affine=[1.0, 0.1, 0.1, 0.2], which takes'),
    (('model.layers', ('conv1',)), 'arm other has model.layers=')])
def test_an_arm_that_changes_what_there_is_not_is_refused(change, sentence):
    with pytest.raises(UsageError) as refused:
        Comparison('birds', '', PAIRED.base, (Arm('plain'), Arm('other', (change,))))
    assert sentence in str(refused.value)


@pytest.mark.parametrize('paper, name', COMPARISONS)
def test_no_two_arms_are_the_same_experiment(paper, name):
    found = PAPERS[paper].experiments[name]
    experiments = [found.experiment(arm) for arm in found.arms]
    assert all(one not in experiments[:place] for place, one in enumerate(experiments))


def test_two_layers_of_one_name_would_share_weights():
    layers = PAIRED.base.model.layers
    with pytest.raises(UsageError, match='two layers have the same name, of conv1, conv2, conv3, fc10, fc10'):
        dataclasses.replace(PAIRED.base.model, layers=(*layers, layers[-1]))


def test_arms_are_chosen_by_their_labels():
    assert comparison.chosen(PAIRED, None) == PAIRED.labelled
    assert list(comparison.chosen(PAIRED, ['tanh', 'published'])) == ['published', 'tanh']
    with pytest.raises(UsageError, match=r'--arms=tanh,relu names relu; the arms are: published, no_overlap'):
        comparison.chosen(PAIRED, ['tanh', 'relu'])


def test_no_arm_is_none_of_them():
    with pytest.raises(UsageError, match='--arms names none; the arms are: published'):
        comparison.chosen(PAIRED, [])


@pytest.mark.parametrize('flags, sentence', [
    (('--experiment=no_lrn', '--arms=tanh'), 'no_lrn has no arms'),
    (('--eval_only', '--arms=tanh', '--workdir=/nowhere'), '--arms is for training'),
    (('--experiment=figure1', '--set', 'optimizer.learning_rate=1'), 'arms of figure1 have their own; name one with '
                                                                     '--experiment=figure1/ARM'),
    (('--experiment=cifar_paired', '--set', 'model.activation=relu'), 'model.activation: arms of cifar_paired have')])
def test_flags_that_arms_do_not_go_with_are_refused(flags, sentence, tmp_path):
    done = launch(*flags, cache=tmp_path)
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count('\n') == 1


@pytest.mark.parametrize('paper', PAPERS)
def test_what_is_said_to_have_run_to_its_end_has_results(paper):
    folder = Path(__file__).parent.parent / 'reproductions' / paper
    run = {name for name, text in PAPERS[paper].seen.items() if text.startswith('run to its end')}
    assert run <= {one['experiment'] for one in kept(folder).values()}


@pytest.mark.parametrize('misspelt', [
    {'tables': [Table('T', 'birds', None, (), (Row('a', (), 'paper', minus='papr'),))]},
    {'tables': [Table('T', 'birds', None, (), (Row('a', (), members=('paper', 'papr')),))]},
    {'tables': [Effects('E', 'birds', 'birds', 'papr', ())]},
    {'seen': {'papr': 'run to its end'}}])
def test_an_experiment_that_is_named_and_not_there_is_refused(misspelt):
    with pytest.raises(ValueError, match='has no experiment papr of its tables'):
        dataclasses.replace(PAPER, **misspelt)


def test_an_arm_is_an_experiment_by_name():
    assert PAPER.choose('cifar_paired/tanh', []) == PAIRED.experiment(PAIRED.labelled['tanh'])
    assert PAPER.choose('cifar_paired/tanh', ['epochs=2']).epochs == 2
    assert PAPER.choose('figure1/tanh-0.04', []).optimizer.learning_rate == 0.04
    assert PAPER.choose('figure1/tanh-0.04', ['optimizer.learning_rate=0.5']).optimizer.learning_rate == 0.5
    assert PAPER.choose('cifar_paired', []) == PAIRED


@pytest.mark.parametrize('name, sentence', [
    ('cifar_paired/sigmoid', 'cifar_paired has no arm .sigmoid.. The arms are: published, '),
    ('figure1/tanh', 'The arms are: relu-0.02, '), ('no_lrn/tanh', 'no_lrn is no comparison and has no arm .tanh.'),
    ('pairs/tanh', "has no experiment 'pairs'")])
def test_arms_that_do_not_exist_are_refused(name, sentence):
    with pytest.raises(UsageError, match=sentence):
        PAPER.choose(name, [])


@pytest.mark.parametrize('paper, name', COMPARISONS)
def test_claims_are_on_arms_of_their_comparison_and_every_arm_is_in_one(paper, name):
    chosen, named = PAPERS[paper].experiments[name], set()
    for table in PAPERS[paper].tables:
        if isinstance(table, Effects) and table.experiment == name:
            named |= {arm for effect in table.rows for arm in (effect.arm, effect.against)}
            assert chosen.base.evaluation.stop_below is None
        elif isinstance(table, Race) and table.experiment == name:
            named |= {table.faster, table.slower}
            assert chosen.base.evaluation.stop_below == table.target
    assert named == {arm.name for arm in chosen.arms}
    unchanged = [arm.name for arm in chosen.arms if not diff(chosen.experiment(arm), chosen.base)]
    assert len(unchanged) <= 1 and all(arm.seed == chosen.base.seed for arm in map(chosen.experiment, chosen.arms))


def outcome(epoch, *top1):
    curve = [{'epoch': n, 'top1': error, 'seen': 50, 'split': 'train'} for n, error in enumerate(top1)]
    return Outcome({}, 10 * epoch, epoch, curve, curve[-1:], 2.0, [])


def found(chosen, go, folder):
    return comparison.run(chosen, chosen.labelled, folder, lambda label, *rest: go(*rest),
                          lambda experiment, outcome, split: {'split': split, 'seed': experiment.seed})


def test_an_arm_of_a_race_runs_no_longer_than_the_fastest_of_its_name(tmp_path):
    asked = []

    def go(experiment, folder):
        asked.append((folder.name, experiment.epochs))
        error = {'relu-0.02': 40.0, 'relu-0.04': 10.0}.get(folder.name, 60.0)
        return outcome(1, 70.0, error)

    arms = found(RACE, go, tmp_path)['arms']
    assert asked == [('relu-0.02', 40), ('relu-0.04', 40), ('relu-0.01', 1), ('tanh-0.04', 40), ('tanh-0.02', 40),
                     ('tanh-0.08', 40)]
    assert [arm['epochs_to'] for arm in arms] == [None, 0.75, None, None, None, None]


def test_an_arm_that_diverges_has_no_error_and_the_others_go_on(tmp_path):
    def go(experiment, folder):
        if folder.name == 'no_overlap':
            raise Diverged(np.nan, outcome(1, 90.0, 90.0))
        return outcome(1, 90.0, 30.0)

    results = found(PAIRED, go, tmp_path)
    errors = {arm['name']: [error['split'] for error in arm['errors']] for arm in results['arms']}
    assert errors == dict.fromkeys(PAIRED.labelled, ['train', 'test', 'train[:40000]']) | {'no_overlap': []}
    assert (results['steps'], results['seconds'], results['target']) == (150, 30.0, None)


# By command

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with photos of ten classes: ten of each to train and be judged on, three to be tested on."""
    place, rng = tmp_path_factory.mktemp('comparison'), np.random.default_rng(0)
    for split, count in (('train', 10), ('test', 3)):
        for label in 'abcdefghij':
            folder = place / 'photos' / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f'{number}.png')
    return place


def start(place, experiment, workdir, *flags):
    changes = (f'data.source=folder:{place}/photos', 'data.train_split=train[:80]', 'data.validation_split=train[80:]',
               'data.resize=32', 'batch_size=20', 'epochs=1')
    words = (word for change in changes for word in ('--set', change))
    return launch(f'--experiment={experiment}', f'--workdir={workdir}', *words, *flags, cache=place / 'cache')


def train(*asked):
    done = start(*asked)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def run(place):
    """The folder of a comparison of two arms, and what it printed."""
    return place / 'run', train(place, 'cifar_paired', place / 'run', '--arms=published,pca_colour')


def test_both_arms_are_trained_and_judged_on_every_split(run):
    folder, text = run
    results = json.loads((folder / 'results.json').read_text())
    assert [arm['name'] for arm in results['arms']] == ['published', 'pca_colour'] and results['target'] is None
    assert (results['steps'], results['experiment']) == (8, 'cifar_paired')
    for arm in results['arms']:
        assert (arm['seed'], arm['epochs'], arm['steps'], arm['parameters']) == (0, 1, 4, 89_578)
        assert [(e['split'], e['seen']) for e in arm['errors']] == [('validation', 20), ('test', 30),
                                                                  ('train[:80]', 80)]
        assert all(0 <= e['top5'] <= e['top1'] <= 100 for e in arm['errors'])
    assert results['arms'][0]['changes'] == {}
    assert results['arms'][1]['changes'] == {'data.padding': '4', 'data.crop': 'random', 'data.reflect': 'True',
                                             'data.color_noise': '0.1'}
    one, other = (checkpoint.read(folder / name / 'checkpoints' / '00000004') for name in ('published', 'pca_colour'))
    assert np.any(one['conv1']['kernel'] != other['conv1']['kernel'])
    assert 'Every arm, seed 0' in text and 'In small, on CIFAR-10' in text


@pytest.mark.parametrize('flags, field', [(['--mesh=data:2'], 'mesh, devices'), (['--set', 'epochs=2'], 'differences')])
def test_arms_that_could_not_be_joined_are_not_trained(run, place, flags, field):
    folder, _ = run
    before = (folder / 'results.json').read_text(), (folder / 'experiment.json').read_text()
    done = start(place, 'cifar_paired', folder, '--arms=tanh', *flags)
    assert done.returncode == 2 and f'which differ from these in {field}' in done.stderr
    assert not (folder / 'tanh').exists()
    assert before == ((folder / 'results.json').read_text(), (folder / 'experiment.json').read_text())


def test_no_arm_is_trained_again_and_those_of_earlier_commands_are_kept(run, place):
    folder, _ = run
    train(place, 'cifar_paired', folder, '--arms=published,pca_colour', '--set', 'checkpoint.minutes=5')
    before = json.loads((folder / 'results.json').read_text())
    assert '--arms=published,pca_colour' in before['command'] and 'checkpoint.minutes' not in before['command']
    text = train(place, 'cifar_paired', folder, '--arms=pca_colour,tanh')
    after = json.loads((folder / 'results.json').read_text())
    assert [arm['name'] for arm in after['arms']] == ['published', 'pca_colour', 'tanh']
    assert after['steps'] == 12 and after['command'].count('\n') == 1
    for arm, earlier in zip(after['arms'], before['arms']):
        assert all(arm[key] == earlier[key] for key in ('curve', 'errors', 'steps'))
    for name in ('published', 'pca_colour', 'tanh'):
        lines = map(json.loads, (folder / name / 'metrics.jsonl').read_text().splitlines())
        assert [line['step'] for line in lines if line['kind'] == 'train'] == [4], name
    claim = next(row for row in text.splitlines() if row.strip().startswith('tanh instead of ReLU'))
    assert '+0.00†' in claim and 'Changed for this run: data.source' in text
    assert (folder / 'curve.png').stat().st_size > 1000


def test_arms_of_earlier_commands_are_kept_if_the_comparison_has_them_still(run, tmp_path):
    results = json.loads((run[0] / 'results.json').read_text())
    published, pca_colour, *_ = results['arms']
    arms = [published, pca_colour | {'changes': {'data.padding': '2'}}, published | {'name': 'gone'}]
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(results | {'arms': arms}))
    assert comparison.earlier(PAIRED, {}, tmp_path)['arms'] == [published]
    assert comparison.earlier(PAIRED, {'published': PAIRED.arms[0]}, tmp_path) is None      # which is trained now
    path.write_text('{}')
    assert comparison.earlier(PAIRED, {}, tmp_path) is None


def test_the_folder_of_an_arm_is_a_run_and_the_arm_an_experiment(run, place):
    folder, _ = run
    done = launch('--eval_only', f'--workdir={folder}/pca_colour', cache=place / 'cache')
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / 'pca_colour' / 'evaluation' / 'step-4' / 'results.json').read_text())
    arm = json.loads((folder / 'results.json').read_text())['arms'][1]
    assert found['members'][0]['experiment'] == 'cifar_paired/pca_colour'
    for key in ('top1', 'top5', 'seen'):
        assert found['errors'][0][key] == arm['errors'][0][key]
    train(place, 'cifar_paired/pca_colour', place / 'alone')
    one, other = (checkpoint.read(each / 'checkpoints' / '00000004') for each in (folder / 'pca_colour',
                                                                                  place / 'alone'))
    for layer in one:
        np.testing.assert_array_equal(one[layer]['kernel'], other[layer]['kernel'])


def test_arms_are_refused_where_there_are_none(place):
    done = launch('--experiment=no_lrn', '--arms=tanh', f'--workdir={place}/none', cache=place / 'cache')
    assert done.returncode == 2 and 'no_lrn has no arms' in done.stderr
