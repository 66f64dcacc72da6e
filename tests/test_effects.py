"""Paired comparisons: differences with their interval, what they say of a claim, and how they are told and drawn."""
import dataclasses
import json
import math

import pytest
from matplotlib import image

from lib import effects, figures, readme, report, seeds
from lib.effects import Effect, Effects, Where
from lib.experiment import UsageError
from lib.paper import Paper
from lib.results import TRAINING, read, write
from tests.test_report import LONG, RESULTS, line, shown

LESS = Effect('norms help', 'norm', 'plain', '-2 on FISH', 'less')
MORE = Effect('norms harm', 'norm', 'plain', '+2 on FISH', 'more')
OPEN = Effect('tanh', 'tanh', 'plain', 'nothing', None)
TABLE = Effects('In small', 'BIRDS, five batches', 'birds', 'pair', (LESS, OPEN))
PAPERS = {'alexnet': Paper('alexnet', {'pair': LONG}, None, (TABLE,), 'conv1', None, {'pair': 'pair flies'}, counts={})}
VALIDATION, TEST, TRAIN = (Where(split, 'centre') for split in ('validation', 'test', 'train'))
PLAIN, NORM = (20.0, 21.0, 22.0), (18.1, 19.0, 19.9)        # differences of -1.9, -2.0, -2.1: deviation 0.1


def arm(name, top1, seed=0):
    """Measured on both splits, with 1 % more on the test images; diverged without an error."""
    errors = [] if top1 is None else [
        {'split': split, 'protocol': 'centre', 'top1': top1 + more, 'top5': 1.0, 'seen': 1000, 'loss': 0.5}
        for split, more in (('validation', 0), ('test', 1))]
    return {'name': name, 'changes': {}, 'learning_rate': 0.1, 'seed': seed, 'epochs_to': None, 'epochs': 15,
            'steps': 30, 'seconds': 2.0, 'seen': 1000, 'curve': [[0, 90.0], [15, top1]], 'errors': errors,
            'parameters': 1234}


def compared(*arms, **changes):
    data = RESULTS['data'] | {'validation_name': 'birds 1.0 train[4000:]'}
    return {key: value for key, value in RESULTS.items() if key not in TRAINING} | {
        'experiment': 'pair', 'target': None, 'data': data, 'arms': list(arms), 'steps': 30 * len(arms),
        'seconds': 2.0 * len(arms)} | changes


THREE = compared(*(arm(name, top1, seed) for name, each in (('plain', PLAIN), ('norm', NORM))
                   for seed, top1 in enumerate(each)), arm('tanh', 25.0, 1), arm('tanh', None, 2))
ONE = compared(arm('plain', 20.0), arm('norm', 18.0), arm('tanh', 20.5))


def test_mean_and_interval_are_those_worked_by_hand():
    """t of two degrees of freedom is 4.303 at 97.5 %: 4.303 * 0.1 / 3^0.5 = 0.248."""
    found = effects.difference(THREE, LESS, VALIDATION)
    assert found.each == pytest.approx((-1.9, -2.0, -2.1)) and found.mean == pytest.approx(-2)
    assert found.half == pytest.approx(0.24841, abs=1e-5) and str(found) == '-2.00 (-2.25 to -1.75)'
    one = effects.difference(ONE, LESS, TEST)
    assert (one.each, one.mean, one.half, str(one)) == ((-2.0,), -2.0, math.inf, '-2.00')


def test_only_seeds_of_both_arms_count():
    assert effects.difference(THREE, OPEN, VALIDATION).each == (4.0,)             # seed 1; seed 2 diverged
    assert effects.difference(compared(arm('plain', 20.0), arm('norm', 19.0, seed=1)), LESS, VALIDATION) is None
    assert effects.difference(ONE, LESS, TRAIN) is None


@pytest.mark.parametrize('effect, each, words', [
    (LESS, (-1.9, -2.0, -2.1), 'holds'), (MORE, (1.9, 2.0, 2.1), 'holds'),
    (LESS, (1.9, 2.0, 2.1), 'does not hold'), (MORE, (-1.9, -2.0, -2.1), 'does not hold'),
    (LESS, (-3.0, 1.0), 'undecided, leans towards it'), (LESS, (3.0, -1.0), 'undecided, leans against it'),
    (MORE, (-3.0,), 'undecided, leans against it'), (MORE, (3.0,), 'undecided, leans towards it'),
    (OPEN, (1.9, 2.0, 2.1), 'more error'), (OPEN, (-1.9, -2.0, -2.1), 'less error'),
    (OPEN, (-3.0, 1.0), 'no difference seen'), (OPEN, (3.0,), 'undecided'),
    (LESS, (0.0, 0.0), 'undecided'), (LESS, (-0.5, -0.5), 'undecided, leans towards it')])
def test_verdicts(effect, each, words):
    arms = [arm(name, 20.0 + more, seed) for seed, gap in enumerate(each)
            for name, more in ((effect.arm, gap), (effect.against, 0.0))]
    assert effects.verdict(effect, effects.difference(compared(*arms), effect, VALIDATION)) == words


def test_the_report_has_every_claim_on_every_split_and_every_arm():
    validation, test, arms = report.sheets(THREE, (TABLE,), 'paper')
    assert validation.title == 'In small: top-1 error on 1,000 images of birds 1.0 train[4000:], one central crop'
    assert test.title == 'In small: top-1 error on 1,000 images of birds 1.0 test, one central crop'
    assert validation.rows[0] == ('norms help', '-2 on FISH', '19.00', '21.00', '-2.00 (-2.25 to -1.75)', '3', 'holds')
    assert validation.rows[1][2:] == ('25.00', '21.00', '+4.00', '1', 'undecided')
    assert test.rows[0][2:4] == ('20.00', '22.00')
    assert arms.rows == (('plain', 'nothing', '20.00, 21.00, 22.00', '21.00, 22.00, 23.00', '1,234', '15'),
                         ('norm', 'nothing', '18.10, 19.00, 19.90', '19.10, 20.00, 20.90', '1,234', '15'),
                         ('tanh', 'nothing', '-, 25.00, diverged', '-, 26.00, diverged', '1,234', '15'))
    text = shown(THREE, (TABLE,), 'paper')
    assert line(text, 'norms help')[4:] == ['-2.00 (-2.25 to -1.75)', '3', 'holds'] and 'n = 3' in text


def test_every_protocol_has_its_table_and_the_comparisons_own_is_the_finding():
    def both(name, ten, centre, seed):
        own = arm(name, ten, seed)
        return own | {'errors': [own['errors'][0] | {'protocol': 'ten'}, own['errors'][0] | {'top1': centre}]}

    results = compared(*(both(name, top1, top1 + more * seed, seed) for name, each, more in (
        ('plain', PLAIN, 0.0), ('norm', NORM, 2.0)) for seed, top1 in enumerate(each)))
    ten, centre, arms = report.sheets(results, (TABLE,), 'pair')
    assert ten.title.endswith('ten crops averaged') and ten.rows[0][-1] == 'holds'
    assert centre.title.endswith('one central crop') and centre.rows[0][-1] == 'undecided'
    assert centre.rows[0][2] == '21.00' and arms.rows[1][2:4] == ('18.10, 19.00, 19.90', '18.10, 21.00, 23.90')
    finding, = (found for found in report.findings(results, (TABLE,), 'pair') if found.claim.endswith('norms help'))
    assert finding.verdict == 'holds' and finding.judged.endswith('ten crops averaged')


FITTED = Effect('norms fit less', 'norm', 'plain', 'less overfitting', 'less', overfitting=True)


def trained(name, top1, in_training, seed):
    own = arm(name, top1, seed)
    return own | {'errors': [*own['errors'], own['errors'][0] | {'split': 'train[:4000]', 'top1': in_training}]}


def test_overfitting_is_what_the_error_has_above_that_in_training():
    """Arms with errors 20, 22 and 25, 26 %, of which 10, 11 and 2, 4 are beyond the training error: -8 and -7."""
    data = THREE['data'] | {'name': 'birds 1.0 train[:4000]'}
    results = compared(trained('plain', 20.0, 10.0, 0), trained('plain', 22.0, 11.0, 1), trained('norm', 25.0, 23.0, 0),
                       trained('norm', 26.0, 22.0, 1), trained('norm', 26.0, 22.0, 2), data=data)
    found = effects.difference(results, FITTED, VALIDATION)
    assert found.each == (-8.0, -7.0) and (found.ours, found.theirs) == (3.0, 10.5)
    assert effects.difference(results, LESS, VALIDATION).each == (5.0, 4.0)
    assert effects.difference(results, FITTED, TEST).each == (-8.0, -7.0)
    assert effects.difference(THREE, FITTED, VALIDATION) is None          # not measured in training

    own, test, arms = report.sheets(results, (dataclasses.replace(TABLE, rows=(LESS, FITTED)),), 'pair')
    assert ' birds 1.0 train[4000:], ' in own.title and ' birds 1.0 test, ' in test.title
    assert [row[-1] for row in own.rows] == ['undecided, leans against it',
                                             'undecided: nearer to the training error, but more error']
    assert arms.header[4] == '1,000 images of birds 1.0 train[:4000], one central crop, top-1 %'
    assert arms.rows[0][4] == '10.00, 11.00, -'


def test_images_drawn_by_class_are_those_trained_on():
    data = THREE['data'] | {'name': 'birds 1.0 train[:4000], 5 of each class, fold 0',
                            'validation_name': 'birds 1.0 train[4000:], the rest, fold 0'}
    results = compared(trained('plain', 20.0, 10.0, 0), trained('norm', 25.0, 23.0, 0), data=data)
    assert effects.difference(results, FITTED, VALIDATION).each == (-8.0,)
    places = [report.place(results, where) for where in effects.measured(results)]
    assert [place.partition(' images of ')[2].removesuffix(', one central crop') for place in places] == [
        data['validation_name'], 'birds 1.0 test', data['name']]


@pytest.mark.parametrize('errors, above, said', [
    ((25.0, 25.1, 24.9), 2, 'undecided: nearer to the training error, but more error'),
    ((20.0, 25.0, 18.0), 2, 'undecided: nearer to the training error, but more error'),
    ((15.0, 15.1, 14.9), 2, 'holds'), ((25.0, 25.1, 24.9), 14, 'does not hold')])
def test_less_overfitting_with_more_error_is_no_finding(errors, above, said):
    data = THREE['data'] | {'name': 'birds 1.0 train[:4000]'}
    plain = [trained('plain', 20.0 + seed / 10, 10.0 + seed / 10, seed) for seed in range(3)]
    norm = [trained('norm', error, error - above - seed / 10, seed) for seed, error in enumerate(errors)]
    results = compared(*plain, *norm, data=data)
    assert effects.judged(results, FITTED, VALIDATION)[1] == said
    assert [one[2] for one in effects.tested(results, dataclasses.replace(TABLE, rows=(FITTED,)))] == [said]


def test_findings_are_those_of_the_comparisons_own_split():
    found = [(f.claim, f.paper, f.ours, f.epochs, f.seeds, f.verdict) for f in report.findings(THREE, (TABLE,), 'pair')]
    assert [(f.judged, f.claimed) for f in report.findings(THREE, (TABLE,), 'pair')] == [
        ('1,000 images of birds 1.0 train[4000:], one central crop', claimed) for claimed in (True, False)]
    assert found == [('In small: norms help', '-2 on FISH', '19.00 against 21.00: -2.00 (-2.25 to -1.75)',
                      '15', 3, 'holds'),
                     ('In small: tanh', 'nothing', '25.00 against 21.00: +4.00', '15', 1, 'undecided')]
    assert not list(report.findings(THREE, (TABLE,), 'other'))


@pytest.mark.parametrize('changes', [{'data': RESULTS['data'] | {'name': 'fish 1.0'}},
                                     {'overrides': {'epochs': '1', 'seed': '0'}},
                                     {'arms': [arm('plain', 20.0), arm('norm', 18.0) | {'epochs': 30}]}])
def test_another_comparison_judges_no_claim(changes):
    first = next(report.findings(THREE | changes, (TABLE,), 'pair'))
    assert first.verdict is None and first.ours.endswith(report.DAGGER)
    sheet = report.sheets(THREE | changes, (TABLE,), 'pair')[0]
    assert sheet.rows[0][-1] == '-' and sheet.notes[0].startswith(report.DAGGER)
    kept = {'overrides': {'seed': '1', 'checkpoint.minutes': '5'}}
    assert next(report.findings(THREE | kept, (TABLE,), 'pair')).verdict == 'holds'


def test_a_seed_that_diverged_stands_in_its_place():
    arms = report.sheets(THREE, (TABLE,), 'pair')[-1]
    assert arms.title == 'Every arm, seed 0, 1, 2' and arms.rows[2][:3] == ('tanh', 'nothing', '-, 25.00, diverged')


def test_an_arm_that_was_not_measured_on_a_split_has_not_diverged():
    partly = arm('norm', 18.0) | {'errors': arm('norm', 18.0)['errors'][:1]}
    arms = report.sheets(compared(arm('plain', 20.0), partly), (TABLE,), 'pair')[-1]
    assert [row[2:4] for row in arms.rows] == [('20.00', '21.00'), ('18.00', '-')]


def test_arms_that_came_to_mean_something_else_are_not_averaged():
    runs = [compared(arm('plain', 20.0, seed), seed=seed) for seed in (0, 1)]
    runs[1]['arms'][0]['changes'] = {'model.activation': 'tanh'}
    with pytest.raises(UsageError, match='arms plain change different things'):
        seeds.together(runs)


@pytest.mark.parametrize('arms', [[arm('plain', None), arm('norm', None)], [arm('norm', 18.0)]],
                         ids=['all diverged', 'one arm'])
def test_arms_without_a_pair_are_told_and_not_judged(arms, tmp_path):
    results = read(write(tmp_path, compared(*arms)))
    assert not list(report.findings(results, (TABLE,), 'pair'))
    assert len(line(shown(results, (TABLE,), 'pair'), 'norm')) > 2
    figures.comparison(results, (TABLE,), tmp_path / 'curve.png')


def test_differences_are_drawn_for_one_seed_and_for_several(tmp_path):
    pictures = []
    for results in (ONE, THREE):
        figures.comparison(results, (TABLE,), tmp_path / 'curve.png')
        pictures.append(image.imread(tmp_path / 'curve.png'))
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).any()
    green = [((picture[..., :3] * 255).round() == (0x2f, 0x8f, 0x4e)).all(-1).sum() for picture in pictures]
    assert green[0] == 0 < green[1]                     # what holds


def seed_of(number, **changes):
    arms = [arm(name, each[number], number) for name, each in (('plain', PLAIN), ('norm', NORM))]
    return compared(*arms, seed=number, **changes)


def test_comparisons_of_several_seeds_become_one():
    found = seeds.together([seed_of(2), seed_of(0), seed_of(1)])
    assert [(arm['name'], arm['seed']) for arm in found['arms']] == [
        (name, seed) for seed in (0, 1, 2) for name in ('plain', 'norm')]
    assert (found['steps'], found['seconds']) == (180, 12.0)
    assert str(effects.difference(found, LESS, VALIDATION)) == '-2.00 (-2.25 to -1.75)'


def test_a_seed_may_run_its_arms_in_turns():
    one, other = (compared(arm(name, top1)) for name, top1 in (('plain', 20.0), ('norm', 18.0)))
    assert str(effects.difference(seeds.together([one, other]), LESS, VALIDATION)) == '-2.00'


@pytest.mark.parametrize('changes, sentence', [({'target': 25.0}, 'differ in target'),
                                               ({'arms': [arm('norm', 18.0)]}, 'arm norm of seed 0 twice'),
                                               ({'differences': {'epochs': [140, 3]}}, 'differ in differences')])
def test_comparisons_that_differ_in_more_are_refused(changes, sentence):
    with pytest.raises(UsageError, match=sentence):
        seeds.together([seed_of(0), seed_of(1) | changes])


def test_the_readme_says_of_every_claim_what_was_found(tmp_path):
    assert '| pair flies |' in readme._claims(tmp_path, PAPERS['alexnet'])
    for number in range(3):
        place = tmp_path / 'results' / 'pair' / f'seed-{number}'
        place.mkdir(parents=True)
        (place / 'results.json').write_text(json.dumps(seed_of(number)))
    text = readme._claims(tmp_path, PAPERS['alexnet'])
    rows = {row.strip('| ').split(' | ')[0]: row.strip('| ').split(' | ')[1:] for row in text.splitlines()}
    assert rows['norms help'] == ['-2 on FISH', '[pair](#pair): 19.00 against 21.00: -2.00 (-2.25 to -1.75), holds',
                                  '`pair`', '-', 'pair flies']
    assert rows['tanh'][1] == 'not run'
    assert 'read 60 training images a second' in text   # 180 steps of 4 in 12 s
