"""The command line as a user types it: what it prints, its exit codes, and that it overwrites nothing."""
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from launch import cli, comparison, workdir
from lib import checkpoint
from lib.experiment import UsageError
from tests.commands import ROOT, TINY, command, launch


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp('cache')


def test_list_has_a_line_for_every_experiment(cache):
    done = launch('--list', cache=cache)
    assert done.returncode == 0
    for name, part in [('paper', 'Table 2, 1 CNN'), ('figure1', 'Figure 1'), ('no_lrn', 'section 3.3'),
                       ('cifar_11pct', 'layers-conv-local-11pct')]:
        assert any(line.startswith(name + ' ') and part in line for line in done.stdout.splitlines()), name


def test_help_exits_with_0(cache):
    done = launch('--help', cache=cache)
    assert done.returncode == 0 and '--experiment' in done.stdout and '--workdir' in done.stdout


@pytest.mark.parametrize('flags, message', [
    (['--experimnt=paper'], "Unknown command line flag 'experimnt'"),
    (['paper'], "'paper' is not a flag"),
    (['--experiment=alexnet'], 'The experiments are: paper, quickstart'),
    (['--set', 'model.dropot=0'], 'Did you mean model.dropout'),
    (['--set', 'epochs=soon'], 'takes a whole number'),
    (['--mesh=2x2'], 'data:N,model:M'),
    (['--mesh=model:3'], 'does not divide the 2 groups'),       # said before there is any data
    ([], 'tfds build imagenet2012'),
    (['--set', 'data.source=cifar10'], 'pip install -r requirements-prepare.txt'),
    (['--workdir=/proc/nowhere'], 'cannot be written'),
    ([*TINY, '--set', 'data.validation_split=train[:9]'], 'data.train_split=train and data.validation_split=train[:9] '
                                                          'share images: hold some out'),
])
def test_a_mistake_is_one_sentence_and_exit_code_2(flags, message, tmp_path, cache):
    done = launch(f'--workdir={tmp_path}/run', *flags, cache=cache)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith('error: ') and len(done.stderr.strip().splitlines()) == 1


def test_a_workdir_of_another_experiment_or_of_other_files_is_left_alone(tmp_path):
    ours = {'paper': 'alexnet', 'experiment': 'paper', 'fields': {'epochs': 90, 'model.dropout': 0.5}}
    run = tmp_path / 'run'
    workdir.check(run, ours)
    (run / 'experiment.json').write_text(json.dumps(ours))
    with pytest.raises(UsageError, match='another experiment, with experiment paper'):
        workdir.check(run, ours | {'experiment': 'no_lrn'})
    with pytest.raises(UsageError, match=r'model.dropout=0.5 \(now 0.0\)'):
        workdir.check(run, ours | {'fields': {'epochs': 90, 'model.dropout': 0.0}})
    workdir.check(run, ours | {'fields': {'epochs': 5, 'model.dropout': 0.5}})      # a longer or shorter run
    assert [path.name for path in run.iterdir()] == ['experiment.json']
    stretched = ours | {'fields': {'epochs': 90, 'optimizer.schedule': 'cosine'}}
    (run / 'experiment.json').write_text(json.dumps(stretched))
    with pytest.raises(UsageError, match=r'epochs=90 \(now 5\)'):
        workdir.check(run, stretched | {'fields': {'epochs': 5, 'optimizer.schedule': 'cosine'}})
    (run / 'experiment.json').write_text('{"paper"')
    with pytest.raises(UsageError, match='is damaged'):
        workdir.check(run, ours)
    shutil.rmtree(run)
    run.mkdir()
    data = [['birds 1.0 train', 12, 7], ['birds 1.0 test', 3, 8]]
    workdir.describe(run, ours | {'data': data})
    workdir.describe(run, ours | {'data': data})
    assert json.loads((run / 'experiment.json').read_text())['data'] == data
    with pytest.raises(UsageError, match=r'on other data, birds 1.0 train \(12 images\).*now it is birds 1.1 train'):
        workdir.describe(run, ours | {'data': [['birds 1.1 train', 12, 7], data[1]]})
    with pytest.raises(UsageError, match='has other labels'):
        workdir.describe(run, ours | {'data': [['birds 1.0 train', 12, 6], data[1]]})
    (tmp_path / 'thesis').mkdir()
    (tmp_path / 'thesis' / 'chapter1.tex').write_text('text')
    with pytest.raises(UsageError, match='holds other files'):
        workdir.check(tmp_path / 'thesis', ours)
    assert [path.name for path in (tmp_path / 'thesis').iterdir()] == ['chapter1.tex']


def test_two_runs_do_not_share_a_workdir(tmp_path):
    holder = f'import pathlib, sys; from launch import workdir; workdir.hold(pathlib.Path({str(tmp_path)!r}))\n' \
             'print("held", flush=True); sys.stdin.read()'
    with subprocess.Popen([sys.executable, '-c', holder], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as other:
        assert other.stdout.readline() == 'held\n'
        with pytest.raises(UsageError, match='Another run is writing'):
            workdir.hold(tmp_path)
        other.communicate('')
    workdir.hold(tmp_path)
    assert (tmp_path / 'lock').is_file()


@pytest.mark.parametrize('left', ['lock', 'experiment.json.partial'])
def test_a_workdir_of_a_command_that_ended_early_is_as_good_as_new(left, tmp_path):
    (tmp_path / left).touch()
    workdir.check(tmp_path, {'paper': 'alexnet', 'fields': {}})


def test_a_file_system_without_locks_is_not_told_as_another_run(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, 'flock', refuse)
    with pytest.raises(UsageError, match='cannot be locked .No locks available.: choose a --workdir on another file'):
        workdir.hold(tmp_path)


def test_a_full_disk_is_one_sentence(capsys):
    def write():
        with open('/dev/full', 'w') as file:
            file.write('text')

    with pytest.raises(SystemExit, match='2'):
        cli.guarded(write)
    assert capsys.readouterr().err == ('error: A file cannot be read or written (No space left on device): mend that '
                                       'and run the same command again.\n')
    with pytest.raises(SystemExit, match='2'):
        cli.guarded(lambda: open('/proc/nowhere'))
    assert capsys.readouterr().err.startswith('error: /proc/nowhere cannot be read or written (No such file')


def test_too_little_memory_of_a_device_is_one_sentence(capsys):
    def fail(text):
        raise jax.errors.JaxRuntimeError(text)

    with pytest.raises(SystemExit, match='2'):
        cli.guarded(lambda: fail('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\nmore'))
    error = capsys.readouterr().err
    assert 'rematerialize=true' in error and '--mesh' in error and 'launch.plan' in error and error.count('\n') == 1
    with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'):
        cli.guarded(lambda: fail('INTERNAL: a fault'))


def test_a_run_is_continued_with_less_memory(tmp_path):
    ours = {'paper': 'alexnet', 'fields': {'evaluation.batch_size': 128, 'rematerialize': False}}
    (tmp_path / 'experiment.json').write_text(json.dumps(ours))
    workdir.check(tmp_path, ours | {'fields': {'evaluation.batch_size': 16, 'rematerialize': True}})


@pytest.mark.parametrize('curve, expected', [
    ([[0, 90.0], [1, 40.0], [2, 20.0]], 1.75), ([[0, 90.0], [1, 25.0], [2, 24.0]], 1.0), ([[0, 90.0], [1, 40.0]], None),
    ([[0, 90.0], [1, 20.0], [2, 30.0], [3, 10.0]], 65 / 70)])
def test_epochs_to_a_target_are_read_off_the_straight_line(curve, expected):
    assert comparison.epochs_to(curve, 25.0) == (expected if expected is None else pytest.approx(expected))


def test_a_run_writes_its_results_and_can_be_run_again(tmp_path, cache):
    """On two CPU devices, with Ctrl-C in the middle: it continues and ends as a run that was left alone."""
    flags = [*TINY, '--mesh=data:1,model:2', '--set', 'epochs=2', '--set', 'checkpoint.keep=[1]']
    whole = launch(*flags, f'--workdir={tmp_path}/whole', cache=cache)
    assert whole.returncode == 0, whole.stderr
    results = json.loads((tmp_path / 'whole' / 'results.json').read_text())
    assert results['experiment'] == 'quickstart' and results['devices'] == 2 and results['steps'] == 90
    assert {e['protocol']: e['seen'] for e in results['errors']} == {'ten': 20, 'centre': 20}
    assert 'evaluation.examples' in results['overrides'] and results['differences']['epochs'] == [90, 2]
    assert 0.1 < results['peak_memory_gib'] < 4 and results['parameters'] > 0 and results['training_loss'] > 0
    assert 'Table 2' in whole.stdout and 'Other data' in whole.stdout
    for picture in ('curve.png', 'kernels.png'):
        assert (tmp_path / 'whole' / picture).stat().st_size > 1000

    interrupted = subprocess.Popen(**command(*flags, f'--workdir={tmp_path}/pieces', cache=cache))
    deadline = time.monotonic() + 200
    while not (tmp_path / 'pieces' / 'checkpoints' / '00000045').exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    interrupted.send_signal(signal.SIGINT)
    out, error = interrupted.communicate(timeout=200)
    assert interrupted.returncode == 130 and 'Run the same command again' in out, out + error
    assert not (tmp_path / 'pieces' / 'results.json').exists()
    continued = launch(*flags, f'--workdir={tmp_path}/pieces', cache=cache)
    assert continued.returncode == 0 and 'Continuing at step' in continued.stdout, continued.stderr
    one, other = (checkpoint.read(tmp_path / name / 'checkpoints' / '00000090') for name in ('whole', 'pieces'))
    for layer in one:
        for kind in one[layer]:
            np.testing.assert_array_equal(one[layer][kind], other[layer][kind])


def test_a_comparison_runs_its_arms_and_draws_them(tmp_path, cache):
    done = launch('--experiment=figure1', '--set', 'data.source=digits', '--set', 'data.validation_split=validation',
                  '--set', 'data.resize=32', '--set', 'data.train_split=train[:320]', '--set', 'batch_size=32',
                  '--set', 'epochs=1', '--set', 'evaluation.stop_below=20',
                  f'--workdir={tmp_path}/run', cache=cache)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / 'run' / 'results.json').read_text())
    assert [(arm['name'], arm['learning_rate']) for arm in results['arms']] == [
        ('relu', 0.02), ('relu', 0.04), ('relu', 0.01), ('tanh', 0.04), ('tanh', 0.02), ('tanh', 0.08)]
    assert results['target'] == 20
    for arm in results['arms']:
        assert arm['seen'] == 320 and arm['curve'][0][0] == 0
        assert (arm['epochs_to'] is not None) == (arm['curve'][-1][1] < 20)
    assert {arm['epochs_to'] is None for arm in results['arms']} == {True, False}
    assert 'Figure 1' in done.stdout and (tmp_path / 'run' / 'curve.png').stat().st_size > 1000


def test_training_never_imports_tensorflow(tmp_path, cache):
    """Nor torch: packages of that name that raise stand first on the path."""
    for name in ('tensorflow', 'torch'):
        (tmp_path / name).mkdir()
        (tmp_path / name / '__init__.py').write_text(f'import os\nos._exit(77)  # {name} was imported\n')
    asked = command(*TINY, '--set', 'steps=1', f'--workdir={tmp_path}/run', cache=cache)
    asked['env']['PYTHONPATH'] = str(tmp_path)
    done = subprocess.run(**asked, timeout=200)
    assert done.returncode == 0, (done.returncode, done.stderr)


@pytest.mark.slow
def test_the_main_job_reaches_five_percent_within_its_memory(tmp_path, cache):
    """What `make reproduce` runs."""
    asked = command('--experiment=quickstart', '--mesh=data:1,model:2', f'--workdir={tmp_path}/run', cache=cache)
    del asked['env']['JAX_DISABLE_MOST_OPTIMIZATIONS'], asked['env']['XLA_FLAGS']
    done = subprocess.run(**asked, timeout=900)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / 'run' / 'results.json').read_text())
    assert [e['seen'] for e in results['errors']] == [360, 360]
    assert all(e['top1'] < 5 for e in results['errors'])
    assert results['peak_memory_gib'] < 2
