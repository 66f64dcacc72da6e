"""launch.benchmark: what it times, in which order, and what it makes of the times. How long things take is no test."""
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from launch import benchmark as command
from launch.papers import PAPERS
from lib import benchmark, geometry, readme, speed
from lib.experiment import UsageError
from tests.commands import ROOT

# A process without PyTorch, which no module but launch.peer may import.
WITHOUT_TORCH = ['-c', 'import runpy, sys; sys.modules["torch"] = None; '
                       'runpy.run_module("launch.benchmark", run_name="__main__", alter_sys=True)']


def run(tmp_path, *words, start=('-m', 'launch.benchmark')):
    environment = os.environ | {'XDG_CACHE_HOME': str(tmp_path / 'cache'), 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'}
    return subprocess.run([sys.executable, *start, *words], cwd=ROOT, env=environment, text=True, capture_output=True,
                          timeout=300)


# --------------------------------------------------------------------------------------------------- times and figures

def test_subjects_take_turns_round_after_round(monkeypatch):
    monkeypatch.setattr(benchmark, 'PAUSE', 0)
    order = []

    def turn(name):
        return lambda: order.append(name) or len(order)

    found = benchmark.in_turns({name: turn(name) for name in 'abc'}, 3, lambda: order.append('-'))
    assert ''.join(order) == 'a-b-c-' * 3
    assert found == {'a': [1, 7, 13], 'b': [3, 9, 15], 'c': [5, 11, 17]}


def test_a_turn_repeats_short_work_and_gives_the_seconds_of_one(monkeypatch):
    clock, calls = [0.0], []

    def work():
        calls.append(clock[0])
        clock[0] += 5.0 if len(calls) == 1 else 0.03    # the first one compiles

    monkeypatch.setattr(benchmark.time, 'perf_counter', lambda: clock[0])
    turn = benchmark.timed(work)
    assert len(calls) == 2
    assert turn() == pytest.approx(0.03) and len(calls) == 2 + 7       # 7 x 0.03 are more than 0.2
    clock[0] += 100
    assert turn() == pytest.approx(0.03)


def test_ratios_and_rates_are_those_of_each_round():
    seconds = {'ours': [1.0, 2.0, 2.0, 4.0], 'theirs': [2.0, 3.0, 8.0, 2.0], 'product': [0.1, 0.2, 0.1, 0.1]}
    found = benchmark.compared(seconds)
    assert found['ratio'] == {'median': 1.75, 'least': 0.5, 'greatest': 4.0}       # of 2, 1.5, 4 and 0.5
    assert found['seconds']['ours'] == {'median': 2.0, 'least': 1.0, 'greatest': 4.0}
    assert benchmark.compared({'ours': [1.0]})['ratio'] is None
    limit = benchmark.beside_a_product(seconds, operations=1e6, size=100)
    assert limit['operations_a_second'] == {'median': 5e5, 'least': 2.5e5, 'greatest': 1e6}
    assert limit['product_operations_a_second'] == {'median': 2e7, 'least': 1e7, 'greatest': 2e7}
    assert limit['fraction_of_product'] == pytest.approx({'median': 0.0375, 'least': 0.0125, 'greatest': 0.05})


def test_weights_keep_the_size_of_a_signal():
    shape = dict.fromkeys(['kernel'], jax.ShapeDtypeStruct((3, 3, 50, 400), np.float32))
    kernel = benchmark.draw({'conv': shape})['conv']['kernel']
    assert kernel.dtype == np.float32 and kernel.std() == pytest.approx((2 / 450)**0.5, rel=0.01)


@pytest.mark.parametrize('name', ['random', 'small, global contrast, whitened'])
def test_batches_are_changed_as_often_as_they_are_asked_for(name):
    data = command.CHANGES[name]
    data = dataclasses.replace(data, image_size=8, resize=None if data.resize is None else 10)
    work = benchmark.augmenting(benchmark.random_split(4, data.resize or data.image_size), data, 2)
    assert [next(work), next(work)] == [None, None]
    work.close()


# ----------------------------------------------------------------------------------------------------------- by command

def test_a_step_is_timed_beside_pytorch_and_a_product(tmp_path):
    pytest.importorskip('torch', reason='needs torch: install requirements-peer.txt')
    done = run(tmp_path, 'step', '--networks=cifar_80sec', '--rounds=2', '--set', 'batch_size=2', '--json',
               f'--workdir={tmp_path}/run')
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results == json.loads((tmp_path / 'run' / 'step.json').read_text())
    assert {'command', 'commit', 'date', 'machine', 'device', 'threads'} <= results.keys()
    assert {'python', 'jax', 'jaxlib'} <= results['versions'].keys() and results['peer']['version']
    assert results['peer']['threads'] == results['threads'] == os.cpu_count() or 'NPROC' in os.environ
    assert [row['name'] for row in results['rows']] == ['cifar_80sec']
    for row in results['rows']:
        rounds = row['rounds']
        assert list(rounds) == ['ours', 'theirs', 'training_step', 'product']
        assert all(len(turns) == 2 and min(turns) > 0 for turns in rounds.values()) and row['batch_size'] == 2
        assert row['ratio'] == benchmark.ratios(rounds['theirs'], rounds['ours'])._asdict()
        experiment = PAPERS[row['paper']].experiments[row['experiment']]
        work = geometry.measure(PAPERS[row['paper']].build(experiment), experiment.data.image_size).multiply_adds
        assert row['multiply_adds'] == work
        rates = [6 * work * 2 / seconds for seconds in rounds['ours']]
        assert row['operations_a_second']['greatest'] == pytest.approx(max(rates))
    title, header, rows, notes = speed.sheet(results)
    assert 'PyTorch / ours' in header and {len(row) for row in rows} == {len(header)}


def test_without_pytorch_ours_is_timed_alone(tmp_path):
    done = run(tmp_path, 'eval', '--networks=cifar_13pct', '--rounds=1', '--set', 'batch_size=2',
               f'--workdir={tmp_path}/run', start=WITHOUT_TORCH)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / 'run' / 'eval.json').read_text())
    assert results['peer'] is None and 'PyTorch is not installed' in done.stdout
    assert [(row['crops'], list(row['rounds']), row['ratio']) for row in results['rows']] == [
        ('centre', ['ours'], None), ('ten', ['ours'], None)]
    assert speed.sheet(results).header == ('network', 'crops', 'batch', 'ours, images/s')


@pytest.mark.parametrize('words, sentence', [
    (['fast'], 'one of step, eval, input, profile, compile'),
    (['step', '--networks=lenet5', '--set', 'batch=2'], 'Did you mean batch_size'),
])
def test_a_mistake_is_one_sentence_and_exit_code_2(words, sentence, tmp_path):
    done = run(tmp_path, *words, f'--workdir={tmp_path}/run')
    assert done.returncode == 2 and sentence in done.stderr
    assert done.stderr.startswith('error: ') and len(done.stderr.strip().splitlines()) == 1


def test_dropout_of_pytorchs_side_draws_new_masks_in_training():
    torch = pytest.importorskip('torch', reason='needs torch: install requirements-peer.txt')
    drop, ones = pytest.importorskip('lib.peer').Dropout(0.3), torch.ones(100, 100)
    first, second = drop(ones), drop(ones)
    assert set(first.unique().tolist()) == {0, 1} and float(first.mean()) == pytest.approx(0.7, abs=0.03)
    assert not torch.equal(first, second)
    assert torch.equal(drop.eval()(ones), 0.7 * ones)


@pytest.mark.slow
def test_compiling_and_starting_leave_programs_in_a_cache_of_their_own(tmp_path):
    done = run(tmp_path, 'compile', '--networks=lenet5,cifar_80sec', f'--workdir={tmp_path}/run')
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / 'run' / 'compile.json').read_text())
    assert min(results['start']['empty'], results['start']['again']) > 0
    for row in results['rows']:
        assert row['seconds'].keys() == {'initialise', 'lower', 'compile', 'cached'}
        assert min(row['seconds'].values()) > 0
    assert results['rows'][0]['batch_size'] == PAPERS['lenet5'].experiments['paper'].batch_size
    assert 'From the start of a process' in done.stdout


# ------------------------------------------------------------------------------------------------------------- networks

def test_a_word_names_a_network_or_all_whose_names_begin_with_it():
    assert list(command.chosen(['nin', 'alexnet'])) == ['nin', 'alexnet']
    cifar = list(command.chosen(['cifar']))
    assert cifar == ['cifar_80sec', 'cifar_19pct', 'cifar_18pct', 'cifar_13pct', 'cifar_11pct']


def test_networks_and_folders_that_are_not_there_are_named(tmp_path):
    with pytest.raises(UsageError, match='--networks=resnet is none of alexnet, '):
        command.chosen(['alexnet', 'resnet'])
    with pytest.raises(UsageError, match='nowhere/step.json cannot be written'):
        command.results_file(Path('/proc/nowhere'), 'step')
    (tmp_path / 'step.json').write_text('earlier')
    assert command.results_file(tmp_path, 'step').read_text() == 'earlier'      # until there are new ones


def test_pytorch_that_ends_is_told_of_in_one_sentence(monkeypatch):
    monkeypatch.setenv('NPROC', '1')
    monkeypatch.setattr(command, '_serve', print)       # which ends without an answer
    with pytest.raises(UsageError, match='PyTorch has ended'):
        command.Peer('cpu')


def test_crops_can_be_cut_from_what_is_stored():
    for network in command.NETWORKS.values():
        assert network.stored >= PAPERS[network.paper].experiments[network.experiment].data.image_size


# --------------------------------------------------------------------------------------------------------------- README

STEP = {
    'benchmark': 'step', 'command': 'python -m launch.benchmark step', 'commit': 'abc', 'date': '2026-01-01',
    'versions': {'python': '3.11', 'jax': '0.10'}, 'machine': 'a machine, 2 cores', 'device': 'cpu', 'threads': 2,
    'load': 0.1, 'set': [], 'peer': {'version': '2.13', 'device': 'cpu', 'threads': 2}, 'rounds': 2, 'product': 2048,
    'rows': [{'name': 'cifar_80sec', 'batch_size': 128, 'multiply_adds': 1}
             | benchmark.compared({'ours': [0.1, 0.3], 'theirs': [0.2, 0.3], 'training_step': [0.5, 0.5]})
             | benchmark.beside_a_product({'ours': [0.1, 0.3], 'product': [0.001, 0.001]}, 3e10, 1000)]}


@pytest.fixture
def root(tmp_path):
    (tmp_path / 'README.md').write_text('a\n<!-- generated: speed -->\n<!-- end -->\nb\n')
    return tmp_path


def speeds(root):
    return readme.regenerate(root, {})[root / 'README.md']


def test_the_readme_shows_committed_benchmarks_and_nothing_if_there_are_none(root):
    assert speeds(root) == (root / 'README.md').read_text()
    for machine in ('h100', 'laptop'):
        (root / 'launch' / 'results' / machine).mkdir(parents=True)
        (root / 'launch' / 'results' / machine / 'step.json').write_text(json.dumps(STEP | {'machine': machine}))
    text = speeds(root)
    assert r'| cifar\_80sec | 128 | 200.0 | 250.0 | 1.50 (1.00 to 2.00) | 500.0 | 256 | 200 | 10 % |' in text
    assert text.index('h100; JAX on cpu') < text.index('laptop; JAX on cpu')


def test_a_result_that_is_none_is_named(root):
    (root / 'launch' / 'results' / 'laptop').mkdir(parents=True)
    (root / 'launch' / 'results' / 'laptop' / 'step.json').write_text('{"benchmark": "step"}')
    with pytest.raises(UsageError, match='laptop/step.json is not a result of launch.benchmark'):
        speeds(root)


# ------------------------------------------------------------------------------------------- the cache of all commands

PROGRAM = 'from launch import cli; cli.prepare(); import jax; print(jax.jit(lambda x: x + 1)(1))'


def compute(cache):
    return subprocess.run([sys.executable, '-c', PROGRAM], cwd=ROOT, text=True, capture_output=True,
                          env=os.environ | {'XDG_CACHE_HOME': str(cache)})


def test_programs_are_kept_and_a_damaged_one_does_no_harm(tmp_path):
    assert compute(tmp_path).stdout == '2\n'
    program, = (tmp_path / 'classic-convnets' / 'xla').glob('jit__lambda*')
    program.write_bytes(b'nonsense')
    done = compute(tmp_path)
    assert done.stdout == '2\n' and 'Error reading persistent compilation cache entry' in done.stderr


def test_a_cache_that_cannot_be_written_is_done_without():
    done = compute('/proc/nowhere')
    assert done.stdout == '2\n' and done.returncode == 0 and 'Traceback' not in done.stderr
