"""Runs that differ in their seed become one result: means, and what each gave."""
import json

import pytest

from lib import readme, report, seeds
from lib.experiment import UsageError
from lib.results import kept
from tests.test_report import PAPERS, RESULTS, TABLE, evaluated


def run(number, top1, **changes):
    errors = [dict(error, top1=top1, top5=top1 / 10, loss=0.1) for error in RESULTS['errors']]
    return RESULTS | {'seed': number, 'errors': errors, 'training_loss': top1 / 100, 'seconds': 5.0} | changes


def test_errors_are_means_and_each_seed_is_told():
    found = seeds.together([run(2, 3.0), run(0, 1.0), run(1, 2.6)])
    assert found['seeds'] == [0, 1, 2] and found['seconds'] == 15
    error = found['errors'][0]
    assert error['top1'] == pytest.approx(2.2) and error['top5'] == pytest.approx(0.22)
    assert error['each']['top1'] == [1.0, 2.6, 3.0]
    assert seeds.spread(error) == '2.20 is the mean of 3 seeds: 1.00, 2.60, 3.00; standard deviation 1.06'


@pytest.mark.parametrize('changes, sentence', [
    ({'epochs': 3}, 'differ in epochs'), ({'differences': {'epochs': [90, 3]}}, 'differ in differences'),
    ({'seed': 0}, 'one seed twice'), ({'devices': 8}, 'differ in devices'), ({'arms': []}, 'not all trainings'),
    ({'errors': RESULTS['errors'][:1]}, 'have not the same evaluations'),
    ({'members': [{'experiment': 'paper', 'epochs': 10, 'parameters': 500}]}, 'not all trainings')])
def test_runs_that_differ_in_more_are_refused(changes, sentence):
    with pytest.raises(UsageError, match=sentence):
        seeds.together([run(0, 1.0), run(1, 2.0, **changes)])


def evaluation(number, top1, name='paper', epochs=10):
    found = evaluated((name, epochs), seed=number)
    return found | {'errors': [found['errors'][0] | {'top1': top1}]}


def test_evaluations_of_networks_of_several_seeds_are_one_result(tmp_path):
    found = seeds.together([evaluation(1, 3.0), evaluation(0, 1.0)])
    assert found['errors'][0]['each']['top1'] == [1.0, 3.0] and found['seeds'] == [0, 1]
    assert [part.split(':')[0] for part in report.provenance(found)].count('Network') == 2
    first = next(report.findings(found, [TABLE], 'paper'))
    assert first.seeds == 2 and first.ours.startswith('2.0 ')


@pytest.mark.parametrize('other, sentence', [
    (evaluation(1, 3.0, epochs=5), 'differ in epochs'), (evaluation(1, 3.0, name='wide'), 'differ in experiment'),
    (evaluated(('paper', 10), ('paper', 10), seed=1), 'all evaluations of one network')])
def test_evaluations_of_other_networks_are_refused(other, sentence):
    with pytest.raises(UsageError, match=sentence):
        seeds.together([evaluation(0, 1.0), other])


def test_what_is_joined_already_is_not_told_twice():
    def turn(command, commit, date):
        return run(0, 1.0, command=command, commit=commit, date=date)

    both = seeds._summed([turn('a', 'x', '2026-01-01'), turn('b', 'y', '2026-01-02')])
    assert both['date'] == '2026-01-01 to 2026-01-02'
    found = seeds._summed([both, turn('a', 'y', '2026-01-03')])
    assert (found['command'], found['commit'], found['date']) == ('a\nb', 'x and y', '2026-01-01 to 2026-01-03')


def test_processes_of_a_run_are_told_together():
    def process(commit, devices, **changes):
        keys = ('versions', 'device', 'machine', 'command', 'date', 'peak_memory_gib')
        return {key: RESULTS[key] for key in keys} | {'commit': commit, 'devices': devices,
                                                      'mesh': f'data:{devices}'} | changes

    first, second = process('x', 1), process('y', 4, command='again', date='2026-01-09', peak_memory_gib=3.0)
    assert seeds.origins([first]) == first and seeds.origins([first, first]) == first
    found = seeds.origins([first, second, first])
    assert found == first | {'commit': 'x and y', 'devices': '1 and 4', 'mesh': 'data:1 and data:4',
                             'command': 'python -m launch.net\nagain', 'date': '2026-01-02 to 2026-01-09',
                             'peak_memory_gib': 3.0}
    assert seeds.origins([found, second]) == found
    assert 'on 1 and 4 x cpu (mesh data:1 and data:4), a box.' in ' '.join(report.provenance(RESULTS | found))


def test_folders_of_seeds_are_one_result_of_the_report(tmp_path):
    for seed, top1 in ((0, 1.0), (1, 3.0)):
        place = tmp_path / 'results' / 'plain' / f'seed-{seed}'
        place.mkdir(parents=True)
        (place / 'results.json').write_text(json.dumps(run(seed, top1, command=f'train {seed}')))
    found = kept(tmp_path)
    assert list(found) == ['plain']
    first = next(report.findings(found['plain'], [TABLE], 'paper'))
    assert first.seeds == 2 and first.ours.startswith('2.0 ')
    assert '```\ntrain 0\ntrain 1\n```' in readme.markdown(found['plain'], [TABLE], 'paper', {})
    assert '$ train 0\n  $ train 1' in report.committed(tmp_path, [TABLE])
    assert 'n = 2' in ' '.join(report.provenance(found['plain']))
    assert 'read 10,000 training images a second' in readme._claims(tmp_path, PAPERS['alexnet'])
    assert any('1.00, 3.00' in note for note in report.measured(found['plain']).notes)


def test_what_the_runs_differ_in_is_told():
    found = seeds.together([run(0, 1.0, machine='a'), run(1, 2.0, machine='b', overrides={'epochs': '3'},
                                                          versions={'jax': '1'}, training_loss=None)])
    assert found['machine'] == 'a and b' and found['versions'] == {'jax': '0 and 1'}
    assert found['overrides'] == {'epochs': '3'} and found['training_loss'] is None


def test_the_first_of_several_seeds_is_a_result_already(tmp_path):
    place = tmp_path / 'results' / 'plain' / 'seed-0'
    place.mkdir(parents=True)
    (place / 'results.json').write_text(json.dumps(run(0, 1.0)))
    found = kept(tmp_path)['plain']
    assert '±' not in next(report.findings(found, [TABLE], 'paper')).ours and not report.measured(found).notes
    (place.parent / 'sed-1').mkdir()
    (place.parent / 'sed-1' / 'results.json').write_text(json.dumps(run(1, 1.0)))
    with pytest.raises(UsageError, match='sed-1 is named neither seed-N nor seed-N-ARMS'):
        kept(tmp_path)
    (place.parent / 'sed-1' / 'results.json').unlink()
    (place.parent / 'results.json').write_text(json.dumps(run(1, 1.0)))
    with pytest.raises(UsageError, match='a results.json beside folders of seeds'):
        kept(tmp_path)


def test_looks_at_networks_of_several_seeds_are_one_table_of_means(tmp_path):
    folder = tmp_path / 'reproductions' / 'gallery'
    (folder / 'net' / 'errors').mkdir(parents=True)
    for seed, error in ((0, '10.00'), (1, '14.00')):
        rows = [['unchanged', error, '-'], ['0.25', '50.00', '99.9 (79.3)']]
        (folder / 'net' / 'errors' / f'seed-{seed}.json').write_text(json.dumps({
            'network': f'net, seed {seed}', 'command': f'look {seed}', 'statement': 'one',
            'table': {'columns': ['epsilon', 'error', 'theirs'], 'rows': rows}}))
    text = readme._looks(folder, 'net/errors')
    assert 'Means of 2 networks' in text and '- net, seed 1' in text and 'look 0\nlook 1' in text
    assert '| unchanged | 12.00 ± 2.83 | - |' in text and '| 0.25 | 50.00 | 99.9 (79.3) |' in text
    path = folder / 'net' / 'errors' / 'seed-1.json'
    path.write_text(path.read_text().replace('14.00', 'a horse'))
    assert readme._looks(folder, 'net/errors').startswith('net, seed 0: one\n\nnet, seed 1: one\n\n```')
