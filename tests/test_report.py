"""Reports: what is compared with what, what is said when two things are unlike, and files that are broken."""
import copy
import dataclasses
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib import image
from rich.console import Console

from lib import figures, overview, races, readme, report
from lib.experiment import Data, Experiment, Optimizer, UsageError
from lib.paper import Paper
from lib.races import Race
from lib.results import TRAINING, read, write
from lib.tables import Column, Row, Table

TABLE = Table(
    title='Table 9',
    data='BIRDS test',
    source='birds',
    columns=(Column('Top-1', 'top1', 'test'), Column('Top-5', 'top5', 'test')),
    rows=(
        Row('Older', (50.0, None), why='another system'),
        Row('Net', (40.0, 20.0), 'paper', protocol='ten', parameters=500),
        Row('Net, one crop', (42.0, 21.0), 'paper', protocol='centre', parameters=500),
        Row('3 nets', (38.0, 19.0), members=('paper', 'paper', 'wide'), protocol='ten', pretraining=2_000_000),
        Row('Without', (1.5, None), 'ablated', minus='paper'),
    ),
    examples=1000, epochs=10, train_examples=500_000)
RACE = Race('Figure 9', 'BIRDS', 'birds', 'race', 'relu', 'tanh', 6, 'six times', 25.0,
            {'relu': '~5', 'tanh': '~35'}, memory=True)

RESULTS = {
    'paper': 'net', 'experiment': 'paper', 'overrides': {}, 'differences': {}, 'seed': 0, 'commit': 'abc',
    'versions': {'jax': '0'}, 'device': 'cpu', 'devices': 1, 'mesh': 'data:1', 'batch_size': 4, 'seconds': 9.0,
    'data': {'name': 'birds 1.0 train', 'validation_name': 'birds 1.0 test', 'train_examples': 5000,
             'validation_examples': 1000},
    'peak_memory_gib': 1.5, 'command': 'python -m launch.net', 'date': '2026-01-02', 'machine': 'a box',
    'epochs': 10, 'steps': 12500, 'training_loss': 0.5, 'parameters': 500,
    'errors': [{'split': 'validation', 'protocol': 'centre', 'top1': 43.25, 'top5': 20.0, 'seen': 1000, 'loss': 1.5},
               {'split': 'validation', 'protocol': 'ten', 'top1': 39.0, 'top5': 20.04, 'seen': 1000, 'loss': 1.25}],
}

LONG = Experiment('', '', 'paper', None, Data('birds', 32), Optimizer(0.1), batch_size=4, epochs=10)
NAMES = ('paper', 'ablated', 'wide', 'race')
PAPERS = {'alexnet': Paper('alexnet', dict.fromkeys(NAMES, LONG), None, (TABLE, RACE), 'conv1', None,
                           {name: f'{name} flies' for name in NAMES}, counts={})}


def arm(name, rate, epochs_to, seed=0, epochs=40, seen=5000):
    return {'name': name, 'learning_rate': rate, 'seed': seed, 'epochs_to': epochs_to, 'epochs': epochs_to or epochs,
            'seen': seen, 'curve': [[1, 70.0], [epochs_to or epochs, 24.0 if epochs_to else 30.0]]}


COMPARED = {key: value for key, value in RESULTS.items() if key not in TRAINING} | {
    'experiment': 'race', 'target': 25.0,
    'arms': [arm('relu', 0.01, 6), arm('relu', 0.1, 4), arm('relu', 1.0, None), arm('tanh', 0.01, 22),
             arm('tanh', 0.1, 30)]}


def shown(results, tables=(TABLE, RACE), speaks_to='paper', **options):
    stream = io.StringIO()
    report.show(results, tables, Console(file=stream, width=160), speaks_to, **options)
    return stream.getvalue()


def line(text, start):
    """The cells of the first line of `text` that starts so."""
    found = next(row for row in text.splitlines() if row.strip().startswith(start + '  '))
    return re.split(r'\s{2,}', found.strip())


def test_a_row_names_its_experiment_or_says_why_it_has_none():
    with pytest.raises(ValueError, match='must name its experiment'):
        Row('Net', (1.0,))
    with pytest.raises(ValueError, match='must name its experiment'):
        Row('Net', (1.0,), 'paper', why='no reason')


def test_a_row_has_one_value_a_column():
    with pytest.raises(ValueError, match='1 values for 2 columns'):
        Table('T', 'd', None, TABLE.columns, (Row('Net', (1.0,), 'paper'),))


def test_ours_stand_in_the_row_of_the_same_experiment_and_crops():
    text = shown(RESULTS)
    assert line(text, 'Net') == ['Net', '40.0', '39.0 (-1.0)', '20.0', '20.0 (+0.0)']
    assert line(text, 'Net, one crop') == ['Net, one crop', '42.0', '43.2 (+1.2)', '21.0', '20.0 (-1.0)']
    assert line(text, 'Older') == ['Older', '50.0', '-']


def test_a_like_run_has_no_dagger():
    assert report.DAGGER not in shown(RESULTS)


def test_the_sign_is_ours_minus_the_papers():
    assert report.beside(41.0, 40.0) == '41.0 (+1.0)'
    assert report.beside(39.0, 40.0) == '39.0 (-1.0)'
    assert report.beside(39.96, 40.0) == '40.0 (+0.0)'


@pytest.mark.parametrize('change, said', [
    ({'data': RESULTS['data'] | {'name': 'cats 2.0 train', 'validation_name': 'cats 2.0 test'}},
     'Other data: 1,000 examples of cats 2.0 test are not BIRDS test.'),
    ({'data': RESULTS['data'] | {'validation_name': 'birds 1.0 train[90%:]'}},
     'Other split: the paper measured on the test set, this run on birds 1.0 train[90%:].'),
    ({'errors': [error | {'seen': 300} for error in RESULTS['errors']]},
     'Fewer examples: the paper evaluated 1,000, this run 300.'),
    ({'parameters': 499}, 'Another network: 499 parameters, 500 in the paper.'),
    ({'epochs': 1}, '1 epochs of training here, 10 in the paper.'),
    ({'differences': {'model.dropout': [0.5, None]}}, 'A changed recipe: see below.'),
])
def test_what_is_unlike_carries_a_dagger_and_its_reason(change, said):
    text = shown(RESULTS | change)
    assert line(text, 'Net')[2] == '39.0 (-1.0)†'
    assert f'† {said}' in text


def test_the_changed_recipe_is_listed():
    text = shown(RESULTS | {'differences': {'model.dropout': [0.5, None], 'data.reflect': [True, False]}})
    assert ('Departs in 2 fields from the recipe here that it is a version of: model.dropout = none (there: 0.5); '
            'data.reflect = false (there: true).') in text


@pytest.mark.parametrize('ours, said', [
    (['a' * 99, 'b' * 99, 'd'], 'model.layers: 1 of 3 differ (results.json has both)'),
    (['a' * 99, 'b' * 99], 'model.layers: 2, there 3 (results.json has both)'),
    (['d'], 'model.layers: 1, there 3 (results.json has both)'),
])
def test_long_lists_are_counted(ours, said):
    text = shown(RESULTS | {'differences': {'model.layers': [['a' * 99, 'b' * 99, 'c'], ours]}})
    assert f'of: {said}.' in ' '.join(text.split())


def test_other_crops_are_no_departure_for_a_row_that_names_them():
    results = RESULTS | {'differences': {'evaluation.crops': ['ten', 'dense'], 'evaluation.scales': [[], [256]]}}
    assert report.DAGGER not in shown(results)
    silent = dataclasses.replace(TABLE, rows=(dataclasses.replace(TABLE.rows[1], protocol=None),))
    assert line(shown(results, [silent]), 'Net')[2] == '43.2 (+3.2)†'
    assert '† A changed recipe: see below.' in shown(results, [silent])
    changed = RESULTS | {'differences': results['differences'] | {'model.dropout': [0.5, None]}}
    assert line(shown(changed), 'Net')[2] == '39.0 (-1.0)†'


def test_crops_that_were_not_measured_are_not_replaced_by_others():
    text = shown(RESULTS | {'errors': RESULTS['errors'][:1]})
    assert line(text, 'Net') == ['Net', '40.0', '-†', '20.0', '-†']
    assert 'Net: not measured by this run with ten crops averaged.' in text


def test_a_part_of_the_split_is_called_a_part():
    text = shown(RESULTS | {'errors': [RESULTS['errors'][0] | {'seen': 300}]})
    assert line(text, 'birds 1.0 test')[-1] == '300 of 1,000'


@pytest.mark.parametrize('top1', [math.nan, None, math.inf])
def test_an_error_that_is_not_a_number_is_called_so(top1):
    text = shown(RESULTS | {'errors': [error | {'top1': top1} for error in RESULTS['errors']], 'training_loss': top1})
    assert line(text, 'Net')[2] == 'not a number'
    assert line(text, 'birds 1.0 test')[2] == 'not a number'
    assert 'Last training loss not a number: training diverged.' in text


def test_an_ablation_shows_its_own_row_and_the_rows_it_is_a_version_of():
    text = shown(RESULTS | {'experiment': 'ablated'})
    assert line(text, 'Without') == ['Without', '+1.5', '-']
    assert 'Without: a difference between two runs, ablated minus paper.' in text
    assert line(text, 'Net')[2] == '39.0 (-1.0)'


def test_an_experiment_that_stands_for_a_row_s_own_speaks_to_it():
    row = dataclasses.replace(TABLE.rows[2], shorter=('quick',))
    table = dataclasses.replace(TABLE, rows=(row,))
    quick = RESULTS | {'experiment': 'quick', 'differences': {'epochs': [10, 1]}}
    assert [f.ours for f in report.findings(quick, [table], 'quick')] == ['43.2 (+1.2)†', '20.0 (-1.0)†']
    assert report.measured_of(quick, 'paper', (table, row, {'top1': 0})) == 'top-1 43.2 (+1.2)†'
    assert not list(report.findings(RESULTS | {'experiment': 'other'}, [table], 'other'))


def test_a_run_that_no_row_is_about_still_prints_what_it_measured():
    text = shown(RESULTS | {'experiment': 'new'}, speaks_to='new')
    assert 'Table 9' not in text
    assert line(text, 'birds 1.0 test') == ['birds 1.0 test', 'one central crop', '43.25', '20.00', '1.50', '1,000']


def test_a_number_from_memory_says_so():
    assert report.printed(9.0, Column('c', 'top1', 'test', decimals=0), Row('r', (9.0,), 'e', memory=True)) == \
        '9 (from memory)'


def test_where_it_was_measured_is_printed_in_full():
    text = shown(RESULTS | {'command': 'python -m launch.net --set checkpoint.keep=[a,b] ' + 'x' * 200},
                 workdir=Path('/here'))
    assert f'--set checkpoint.keep=[a,b] {"x" * 200}\n' in text
    assert 'Took 9 s and at most 1.50 GiB on 1 x cpu' in text
    assert 'Written to /here' in text


def test_a_comparison_compares_the_best_of_each_grid():
    text = shown(COMPARED, speaks_to='race')
    assert 'tanh needs 5.5 times the epochs of relu' in text
    assert 'the paper: six times.' in text
    rows = [re.split(r'\s{2,}', row.strip()) for row in text.splitlines() if row.strip().startswith(('relu ', 'tanh '))]
    assert ['relu', '0.1', '1', '4', '24.0', '~5 (from memory)'] in rows
    assert ['relu', '0.01', '1', '6', '24.0'] in rows
    assert ['relu', '1', '1', 'not in 40', '30.0'] in rows
    assert report.DAGGER not in text
    assert 'The best learning rate of tanh lies at the edge of its grid' in text
    assert 'The best learning rate of relu' not in text


def test_seeds_of_a_comparison_are_averaged():
    grid = races.entrants(COMPARED | {'arms': [arm('relu', 0.1, 4), arm('relu', 0.1, 6, seed=1),
                                               arm('relu', 0.2, 3), arm('relu', 0.2, None, seed=1)]})
    assert [(e.seeds, e.arrived, e.reached) for e in grid] == [(2, 2, 5.0), (2, 1, None)]
    assert races.best(grid)['relu'].learning_rate == 0.1
    once = races.entrants(COMPARED | {'arms': [arm('relu', 0.1, 4), arm('relu', 0.1, 6, seed=1),
                                               arm('relu', 0.2, 4.5)]})
    assert races.best(once)['relu'].learning_rate == 0.1        # 4.5 is of seed 0 alone, as is 4
    pairs = COMPARED | {'arms': [arm('relu', 0.1, 4), arm('tanh', 0.1, 10), arm('relu', 0.1, 5, seed=1),
                                 arm('tanh', 0.1, 20, seed=1), arm('tanh', 0.2, 50)]}
    assert 'six times. By seed: 2.50, 4.00.' in shown(pairs, speaks_to='race')
    partly = COMPARED | {'arms': [arm('relu', 0.1, 4), arm('relu', 0.1, None, seed=1), arm('tanh', 0.1, 9)]}
    assert line(shown(partly, speaks_to='race'), 'relu')[3] == 'with 1 of 2 seeds'


def test_an_arm_that_never_arrives_bounds_the_factor():
    late = COMPARED | {'arms': [arm('relu', 0.1, 4), arm('tanh', 0.1, None, epochs=40)]}
    assert 'tanh needs more than 10.0 times the epochs of relu' in shown(late, speaks_to='race')
    lost = COMPARED | {'arms': [arm('relu', 0.1, None), arm('tanh', 0.1, 9)]}
    assert races.speed_up(COMPARED | {'arms': [arm('relu', 0.1, 4)]}, RACE) is None
    assert 'relu and tanh have no seed with which both can be compared' in shown(lost, speaks_to='race')


@pytest.mark.parametrize('change, said', [
    ({'data': RESULTS['data'] | {'name': 'cats 2.0 train'}}, 'Other data: cats 2.0 train is not BIRDS.'),
    ({'target': 30.0}, 'Another line: 30 % here, 25 % in the paper.'),
    ({'overrides': {'epochs': '3'}}, 'Changed for this run: epochs.'),
    ({'arms': [arm('relu', 0.1, 4, seen=100), arm('tanh', 0.1, 8, seen=100)]}, 'Error on 100 of 5,000 training images'),
])
def test_an_unlike_comparison_carries_a_dagger(change, said):
    text = shown(COMPARED | change, speaks_to='race')
    assert f'† {said}' in text
    assert '†' in next(row for row in text.splitlines() if 'times' in row)


def test_results_come_back_as_written_and_nothing_else_is_left(tmp_path):
    path = write(tmp_path, RESULTS)
    assert read(path) == RESULTS
    assert list(tmp_path.iterdir()) == [path]


def test_results_are_strict_json(tmp_path):
    path = write(tmp_path, RESULTS | {'training_loss': math.nan})
    assert json.loads(path.read_text(), parse_constant=pytest.fail)['training_loss'] is None


@pytest.mark.parametrize('key', ['command', 'data.name', 'errors[1].top5', 'parameters'])
def test_a_missing_key_is_named_with_its_file(tmp_path, key):
    broken = copy.deepcopy(RESULTS)
    inner = broken['data'] if key.startswith('data') else broken['errors'][1] if '[' in key else broken
    del inner[key.rpartition('.')[2]]
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(broken))
    with pytest.raises(UsageError) as caught:
        read(path)
    assert str(caught.value) == f'{path} lacks the key {key!r}: run its experiment again with this version.'
    with pytest.raises(UsageError, match='lacks the key'):
        write(tmp_path, broken)


def test_a_comparison_lacking_its_target_is_refused(tmp_path):
    path = tmp_path / 'results.json'
    path.write_text(json.dumps({key: value for key, value in COMPARED.items() if key != 'target'}))
    with pytest.raises(UsageError, match='target'):
        read(path)


@pytest.mark.parametrize('content, said', [(b'{"paper": ', 'is not JSON'), (b'\xff\xfe', 'is not JSON'),
                                           (b'5', 'lacks the key'), (None, 'cannot be read')])
def test_a_broken_file_gives_one_sentence(tmp_path, content, said):
    path = tmp_path / 'results.json'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        read(path)
    assert str(path) in str(caught.value) and '\n' not in str(caught.value)


@pytest.fixture
def repository(tmp_path):
    """A repository with two committed results, its READMEs up to date."""
    folder = tmp_path / 'reproductions' / 'alexnet'
    for name, results in (('birds', RESULTS), ('race', COMPARED)):
        (folder / 'results' / name).mkdir(parents=True)
        write(folder / 'results' / name, results)
    (folder / 'results' / 'race' / 'curve.png').write_bytes(b'')
    (folder / 'results' / 'race' / 'kernels.png').write_bytes(b'')
    (folder / 'results' / 'race' / 'kernels.json').write_text('{"statement": "Half of them are blue."}')
    (folder / 'README.md').write_text('Before\n<!-- generated: birds -->\n<!-- end -->\nbetween\n'
                                      '<!-- generated: race -->\n<!-- end -->\nafter\n'
                                      '<!-- generated: claims -->\n<!-- end -->\n')
    (tmp_path / 'README.md').write_text('<!-- generated: headline -->\n<!-- end -->\n')
    for path, text in readme.regenerate(tmp_path, PAPERS).items():
        path.write_text(text)
    return tmp_path


def test_blocks_are_filled_and_the_rest_is_left(repository):
    text = (repository / 'reproductions' / 'alexnet' / 'README.md').read_text()
    assert text.startswith('Before\n<!-- generated: birds -->\n<a id="birds"></a>\n\n**Measured')
    assert '<!-- end -->\nafter\n' in text
    assert '<!-- end -->\nbetween\n<!-- generated: race -->' in text
    assert '| **Net** | **40.0** | **39.0 (-1.0)** | **20.0** | **20.0 (+0.0)** |' in text
    assert '![curve](results/race/curve.png)\n\n![kernels](results/race/kernels.png)\n\nHalf of them are blue.' in text
    for fact in ('abc', '2026-01-02', 'a box', 'Took 9 s', 'birds 1.0 test', '1,000', 'seed 0', 'ten crops averaged',
                 '10 epochs', '```\npython -m launch.net\n```'):
        assert fact in text
    assert '| alexnet, Figure 9: relu against tanh | 6 times | 5.5 times |' in (repository / 'README.md').read_text()


def test_every_claim_has_a_line_with_its_cost_whether_it_was_run_or_not(repository):
    text = (repository / 'reproductions' / 'alexnet' / 'README.md').read_text()
    lines = dict(line.strip('| ').split(' | ', 1) for line in text.partition('generated: claims')[2].splitlines()
                 if line.startswith('| '))
    assert lines['Older'] == 'Top-1 50.0 |  |  |  | another system'
    assert lines['Net'].split(' | ') == ['Top-1 40.0, Top-5 20.0: ten crops averaged',
                                         '[birds](#birds): 39.0 (-1.0), 20.0 (+0.0)',
                                         '`--experiment=paper`', '5 M', 'paper flies']
    assert lines['Without'].split(' | ') == ['Top-1 +1.5', 'not run', '`--experiment=ablated minus --experiment=paper`',
                                             '10 M', 'ablated flies']
    assert lines['3 nets'].split(' | ')[1:] == ['not run', '`--ensemble=DIR,... of 2 x paper and 1 x wide`', '17 M',
                                                'paper flies; wide flies']
    assert lines['relu against tanh'] == 'six times | [race](#race): 5.5 times | `race` | - | race flies'


def test_code_is_not_escaped():
    assert readme._escape('`a_b` c_d | *e* `f`') == r'`a_b` c\_d \| \*e\* `f`'


def test_writing_the_blocks_again_changes_nothing(repository):
    texts = readme.regenerate(repository, PAPERS)
    assert len(texts) == 2 and all(path.read_text() == text for path, text in texts.items())


@pytest.mark.parametrize('text, said', [
    ('<!-- generated: birds -->\n', 'not closed'),
    ('<!-- generated: birds -->\n<!-- generated: race -->\n<!-- end -->\n', 'without an end'),
    ('<!-- generated: lost -->\n<!-- end -->\n', 'lost has no results.json'),
])
def test_a_block_that_cannot_be_filled_is_named(repository, text, said):
    (repository / 'reproductions' / 'alexnet' / 'README.md').write_text(text)
    with pytest.raises(UsageError, match=said):
        readme.regenerate(repository, PAPERS)


def test_committed_results_are_listed_with_date_and_command(repository):
    text = report.committed(repository / 'reproductions' / 'alexnet', (TABLE, RACE))
    assert 'birds (2026-01-02, ' in text and '  $ python -m launch.net' in text
    assert '  Table 9, Net, Top-1: paper 40.0, ours 39.0 (-1.0)' in text
    assert '  Figure 9: relu against tanh: paper 6 times, ours 5.5 times' in text


def launch_report(root, *flags):
    here = Path(__file__).parent.parent
    return subprocess.run([sys.executable, '-m', 'launch.report', f'--root={root}', *flags], cwd=here,
                          capture_output=True, text=True)


def test_check_finds_a_changed_digit(repository):
    assert launch_report(repository).returncode == 0
    assert launch_report(repository, '--check').returncode == 0
    path = repository / 'reproductions' / 'alexnet' / 'README.md'
    right = path.read_text()
    path.write_text(right.replace('39.0', '38.0', 1))
    found = launch_report(repository, '--check')
    assert found.returncode == 1 and str(path) in found.stderr and found.stderr.count('\n') == 1
    assert '38.0' in path.read_text()
    assert launch_report(repository).returncode == 0
    assert path.read_text() == right


def test_the_report_command_refuses_what_it_does_not_know(repository):
    assert launch_report(repository, '--chekc').returncode == 2
    (repository / 'reproductions' / 'alexnet' / 'results' / 'birds' / 'results.json').write_text('{}')
    found = launch_report(repository)
    assert found.returncode == 2 and found.stderr.count('\n') == 1 and 'Traceback' not in found.stderr


def write_lines(path, *lines):
    path.write_text(''.join(text if isinstance(text, str) else json.dumps(text) + '\n' for text in lines))
    return path


def test_of_a_repeated_step_the_last_line_counts(tmp_path):
    def train(step, loss):
        return {'kind': 'train', 'step': step, 'loss': loss}

    def evaluation(protocol, top1):
        return {'kind': 'evaluation', 'step': 2, 'split': 'validation', 'protocol': protocol, 'top1': top1}

    path = write_lines(tmp_path / 'metrics.jsonl', train(1, 3.0), train(2, 2.5), evaluation('centre', 9.0),
                       train(3, 2.0), '{"kind": "train", "st\n', train(2, 2.4), evaluation('centre', 8.0),
                       evaluation('ten', 7.0))
    lines = figures.metrics(path)
    assert [(e['step'], e['loss']) for e in lines if e['kind'] == 'train'] == [(1, 3.0), (2, 2.4), (3, 2.0)]
    assert [e['top1'] for e in lines if e['kind'] == 'evaluation'] == [8.0, 7.0]


def test_the_training_curve_is_drawn_from_any_metrics(tmp_path):
    lines = [{'kind': 'train', 'step': i, 'epoch': i / 10, 'loss': 2 / i, 'error': 90 - i} for i in range(1, 40)]
    lines += [{'kind': 'evaluation', 'step': i, 'epoch': i / 10, 'split': 'validation', 'protocol': 'centre',
               'top1': 80 - i, 'top5': 40 - i} for i in (10, 20, 30)]
    for name, chosen in (('whole', lines), ('started', lines[:1]), ('empty', []),
                         ('diverged', [lines[0] | {'loss': None, 'error': math.nan}, lines[-1] | {'top1': None}])):
        figures.training_curve(write_lines(tmp_path / 'metrics.jsonl', *chosen), 'test', tmp_path / f'{name}.png')
        assert image.imread(tmp_path / f'{name}.png').shape[:2] == (640, 1600)


def test_a_comparison_is_drawn_whether_or_not_its_arms_arrive(tmp_path):
    pictures = []
    for arms in (COMPARED['arms'], [arm('relu', 0.1, 4), arm('tanh', 0.1, None)],
                 [arm(f'unit {number}', 0.1, 4 + number) for number in range(9)]):
        figures.comparison(COMPARED | {'arms': arms}, (), tmp_path / 'curve.png')
        pictures.append(image.imread(tmp_path / 'curve.png'))
    assert {picture.shape for picture in pictures} == {(832, 1120, 4)}
    assert (pictures[0] != pictures[1]).any()


def test_a_curve_names_what_its_errors_are_of(tmp_path):
    line = {'kind': 'evaluation', 'step': 1, 'epoch': 1, 'split': 'validation', 'protocol': 'centre', 'top1': 8.0,
            'top5': 4.0}
    pictures = []
    for judged in ('test', 'train[4000:]'):
        figures.training_curve(write_lines(tmp_path / 'metrics.jsonl', line), judged, tmp_path / 'curve.png')
        pictures.append(image.imread(tmp_path / 'curve.png'))
    assert (pictures[0] != pictures[1]).any()


def test_the_readmes_are_what_the_committed_results_say():
    done = launch_report(Path(__file__).parent.parent, '--check')
    assert done.returncode == 0, done.stderr


def evaluated(*members, **changes):
    """Results of an evaluation of networks that were trained before."""
    kept = {key: value for key, value in RESULTS.items() if key not in TRAINING or key == 'errors'}
    found = [{'experiment': name, 'origin': f'{name} {i}', 'seed': i, 'epochs': epochs, 'parameters': 500}
             for i, (name, epochs) in enumerate(members)]
    return kept | {'members': found, 'experiment': members[0][0] if len(members) == 1 else 'ensemble'} | changes


def cells_of(results, row, columns=TABLE.columns, **changes):
    table = dataclasses.replace(TABLE, rows=(row,), columns=columns, **changes)
    return [report.cell(results, table, row, i)[0] for i in range(len(columns))]


def test_a_row_without_a_protocol_has_the_experiments_own():
    ten_first = RESULTS | {'errors': RESULTS['errors'][::-1]}
    assert cells_of(ten_first, Row('Net', (40.0, 20.0), 'paper')) == ['39.0 (-1.0)', '20.0 (+0.0)']


def test_words_stand_where_the_paper_prints_no_number():
    row = Row('Without', (2.0, None), 'x', minus='y', words='about 2')
    assert [report.printed(value, TABLE.columns[0], row) for value in row.values] == ['about 2', '-']


def test_a_test_set_without_public_labels_is_left_open():
    columns = (Column('Top-1 (val)', 'top1', 'validation'), Column('Top-1 (test)', 'top1', 'test'))
    row = Row('Net', (40.0, 41.0), 'paper', protocol='ten')
    assert cells_of(RESULTS, row, columns) == ['39.0 (-1.0)', '']


def test_weights_of_others_are_unlike_every_row_but_their_own():
    theirs = evaluated(('theirs', None))
    own, other = (Row(name, (40.0, 20.0), name, protocol='ten') for name in ('theirs', 'paper'))
    assert cells_of(theirs, own) == ['39.0 (-1.0)', '20.0 (+0.0)']
    assert cells_of(theirs, other) == ['39.0 (-1.0)†', '20.0 (+0.0)†']


def test_an_average_is_like_the_papers_if_its_networks_are():
    row = Row('3 nets', (38.0, 19.0), members=('paper', 'paper', 'wide'), protocol='ten')
    assert cells_of(evaluated(('paper', 10), ('wide', 10), ('paper', 10)), row) == ['39.0 (+1.0)', '20.0 (+1.0)']
    assert cells_of(evaluated(('paper', 10), ('paper', 10)), row) == ['39.0 (+1.0)†', '20.0 (+1.0)†']
    assert cells_of(evaluated(('paper', 10), ('wide', 9), ('paper', 10)), row)[0] == '39.0 (+1.0)†'


VERDICTS = [
    ({}, 'undecided: 1.0 off (one seed)'),                          # 39.0 beside 40.0
    ({'top1': 39.96}, 'holds: 0.0 off, 0.1 allowed (one seed)'),    # which rounds to 40.0
    ({'top1': 40.2}, 'undecided: 0.2 off (one seed)'),
    ({'seen': 100, 'top1': 45.0}, 'holds: 5.0 off, 9.8 allowed (one seed)'),        # on 100 images of 1,000
    ({'top1': 41.0, 'each': {'top1': [40.0, 42.0]}}, 'holds: 1.0 off, 22.1 allowed'),     # 12.71 * 3^0.5
    ({'top1': 41.0, 'each': {'top1': [40.99, 41.0, 41.01]}}, 'missed: 1.0 off, 0.1 allowed'),
    ({'top1': 39.0, 'each': {'top1': [38.99, 39.0, 39.01]}}, 'lower: 1.0 off, 0.1 allowed'),
]


@pytest.mark.parametrize('changes, expected', VERDICTS)
def test_a_number_holds_if_chance_allows_it(changes, expected):
    errors = [error | changes if error['protocol'] == 'ten' else error for error in RESULTS['errors']]
    row = next(row for row in TABLE.rows if row.name == 'Net')
    assert report.verdict(RESULTS | {'errors': errors}, TABLE, row, 0) == expected


@pytest.mark.parametrize('changes', [{'data': RESULTS['data'] | {'name': 'fish 1.0'}},
                                     {'differences': {'epochs': [10, 2]}}])
def test_another_quantity_says_nothing_of_a_number(changes):
    assert report.verdict(RESULTS | changes, TABLE, TABLE.rows[1], 0) is None


@pytest.mark.parametrize('arms, expected', [
    ([arm('relu', 0.1, 4), arm('tanh', 0.1, 22)], 'undecided, leans towards it (one seed)'),     # 5.5 rounds to six
    ([arm('relu', 0.1, 4), arm('tanh', 0.1, 27)], 'undecided, leans towards it: more than 6 times (one seed)'),
    ([arm('relu', 0.1, 4), arm('tanh', 0.1, 12)], 'undecided, leans against it; relu is faster (one seed)'),
    ([arm('relu', 0.1, 4), arm('tanh', 0.1, 3)], 'undecided, leans against it; relu is slower (one seed)'),
    ([arm('relu', 0.1, 4), arm('tanh', 0.1, None, epochs=12)], 'undecided'),
    ([arm('relu', 0.1, None), arm('tanh', 0.1, 12)], 'undecided: no seed with which relu and tanh can be compared'),
    ([arm('relu', 0.1, 4, 0), arm('tanh', 0.1, 24, 1)], 'undecided: no seed with which relu and tanh can be compared'),
    ([arm('relu', 0.1, 4), arm('tanh', 0.1, None, epochs=40)],
     'undecided, leans towards it: more than 6 times (one seed)'),
    ([arm(name, 0.1, epochs * (1 + seed), seed) for seed in (0, 1) for name, epochs in (('relu', 4), ('tanh', 24))],
     'holds'),
    ([arm(name, 0.1, epochs * (1 + seed), seed) for seed in (0, 1) for name, epochs in (('relu', 4), ('tanh', 28))],
     'holds: more than 6 times'),
    ([arm(name, 0.1, epochs * (1 + seed), seed) for seed in (0, 1) for name, epochs in (('relu', 4), ('tanh', 8))],
     'not 6 times; relu is faster'),
    ([arm('relu', 0.1, 4, 0), arm('tanh', 0.1, 6, 0), arm('relu', 0.1, 4, 1), arm('tanh', 0.1, 5, 1)],
     'not 6 times; undecided which is faster'),
    ([arm('relu', 0.1, 4, 0), arm('tanh', 0.1, 4, 0), arm('relu', 0.1, 4, 1), arm('tanh', 0.1, 8, 1)], 'undecided'),
])
def test_a_race_holds_if_its_factor_does(arms, expected):
    others = [arm('relu', 0.01, None), arm('tanh', 0.01, None)]
    assert races.verdict(races.speed_up(COMPARED | {'arms': arms + others}, RACE), RACE) == expected


def test_a_race_at_one_rate_says_so():
    arms = [arm('relu', 0.1, 4), arm('tanh', 0.1, 22), arm('tanh', 0.01, None)]
    assert races.verdict(races.speed_up(COMPARED | {'arms': arms}, RACE), RACE) == \
        'undecided, leans towards it (one seed and one rate)'
    text = shown(COMPARED | {'arms': arms}, speaks_to='race')
    assert 'One learning rate of relu was tried: another may be faster.' in text and 'rate of tanh was' not in text


def test_all_results_are_one_page_whose_links_and_pictures_are_there(repository):
    texts = readme.regenerate(repository, PAPERS)
    text = overview.page(repository, texts)
    ids = re.findall(r'id="([^"]+)"', text)
    assert len(set(ids)) == len(ids) and {'alexnet', 'alexnet-birds', 'alexnet-race'} <= set(ids)
    sources = re.findall(r'(?:src|href)="([^#"][^"]*)"', text)
    assert 'alexnet/results/race/kernels.png' in sources
    assert all((repository / overview.PLACE.parent / source).exists() for source in sources)


def test_links_of_the_page_of_this_repository_lead_somewhere():
    root = Path(__file__).parent.parent
    text = (root / overview.PLACE).read_text()
    ids = set(re.findall(r'id="([^"]+)"', text))
    assert {link for link in re.findall(r'href="#([^"]+)"', text)} <= ids
    for source in re.findall(r'(?:src|href)="((?!http)[^#"][^"#]*)', text):
        assert (root / overview.PLACE.parent / source).exists(), source
