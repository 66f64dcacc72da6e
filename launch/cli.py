"""What every paper's launch script does with a command line: choose an experiment, train, evaluate, report."""
import contextlib
import dataclasses
import datetime
import fcntl
import functools
import json
import math
import os
import platform
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from rich.console import Console

from lib import figures, report
from lib import mesh as meshes
from lib.data import sources, statistics
from lib.experiment import Comparison, Experiment, UsageError, change, diff, fields, override
from lib.task import Task
from lib.train import Diverged, Interrupted, Outcome, fit

FLAGS = flags.FLAGS
CACHE = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'classic-convnets'
MAY_CHANGE = ('steps', 'epochs', 'checkpoint.keep', 'checkpoint.minutes')   # of a run that is continued

console = Console(highlight=False)


@dataclasses.dataclass(frozen=True)
class Paper:
    """What the launch script of a paper hands over."""
    name: str
    experiments: Mapping[str, Experiment | Comparison]
    build: Callable[[Experiment], Task]
    tables: Sequence[report.Table | report.Race]
    first_layer: str        # whose kernels are drawn


def main(paper: Paper) -> None:
    """Runs the command line as `paper`. Exits with 0, with 2 and one sentence on a mistake of the user's, or with 130
    when interrupted."""
    flags.DEFINE_string('experiment', 'paper', 'what to run; --list prints the choices')
    flags.DEFINE_string('workdir', None, 'where everything is written (default runs/PAPER-EXPERIMENT)')
    flags.DEFINE_string('data_dir', None, 'where TFDS data sets lie (default $TFDS_DATA_DIR or ~/tensorflow_datasets)')
    flags.DEFINE_multi_string('set', [], 'change a field, as in --set model.dropout=0; may be repeated')
    flags.DEFINE_string('mesh', 'data:1', 'devices, as in data:2,model:2; a CPU becomes as many as are needed')
    flags.DEFINE_bool('list', False, 'print the experiments and what each reproduces')
    app.run(lambda argv: guarded(lambda: _list(paper) if FLAGS.list else run(paper)), flags_parser=parse_flags)


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser with the exit codes of other programs: 0 after --help, 2 after a mistake, said in one line."""
    if {'-h', '-help', '--help', '--helpshort', '--helpfull'} & set(argv[1:]):
        print(sys.modules['__main__'].__doc__, FLAGS.main_module_help(), FLAGS.module_help(__name__), sep='\n')
        sys.exit(0)
    try:
        rest = FLAGS(argv)
    except flags.Error as error:
        _fail(f'{error} --help lists the flags.')
    if rest[1:]:
        _fail(f'{rest[1]!r} is not a flag: flags begin with --, and --help lists them.')
    return rest


def _fail(sentence: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f'error: {sentence}', markup=False)
    sys.exit(2)


def guarded(action: Callable[[], None]) -> None:
    """Runs a launch script's work; a mistake of the user's or an interruption ends it with one sentence."""
    try:
        action()
    except UsageError as error:
        _fail(str(error))
    except Interrupted as interrupted:
        console.print(f'Interrupted; everything up to step {interrupted.step} is saved. Run the same command again to '
                      'continue.', soft_wrap=True)
        sys.exit(130)
    except KeyboardInterrupt:
        console.print('Interrupted. Run the same command again to continue.')
        sys.exit(130)


def _list(paper: Paper) -> None:
    width = max(map(len, paper.experiments)) + 2
    for name, experiment in paper.experiments.items():
        console.print(f'{name:{width}}{experiment.summary} ({experiment.source})', markup=False, soft_wrap=True)


def choose(paper: Paper, name: str, assignments: list[str]) -> Experiment | Comparison:
    """An experiment of the paper by name, with the assignments of `--set` made in it.

    Raises:
      UsageError: if there is no such experiment, or an assignment does not fit.
    """
    if name not in paper.experiments:
        raise UsageError(f'{paper.name} has no experiment {name!r}. The experiments are: '
                         f'{", ".join(paper.experiments)}.')
    chosen = paper.experiments[name]
    if isinstance(chosen, Comparison):
        return dataclasses.replace(chosen, base=override(chosen.base, assignments))
    return override(chosen, assignments)


def run(paper: Paper) -> None:
    """Trains or continues what the flags say, prints it beside the paper's tables, and writes it to the workdir."""
    logging.set_verbosity(logging.WARNING)      # Orbax tells of every file it writes
    jax.config.update('jax_compilation_cache_dir', str(CACHE / 'xla'))
    chosen = choose(paper, FLAGS.experiment, FLAGS.set)
    first = _first(chosen)
    differences = diff(first, _first(paper.experiments[first.published]))
    workdir = Path(FLAGS.workdir or Path('runs') / f'{paper.name}-{FLAGS.experiment}').expanduser().absolute()
    identity = json.loads(json.dumps({'paper': paper.name, 'experiment': FLAGS.experiment, 'fields': fields(first)},
                                     default=repr))
    check_workdir(workdir, identity)
    _hold(workdir)
    mesh = meshes.make(FLAGS.mesh)
    say = functools.partial(console.print, markup=False, soft_wrap=True)
    say(f'{paper.name} {FLAGS.experiment}: {chosen.summary} ({chosen.source})')
    say('Differs from the published recipe in:' if differences else 'The recipe is as published.')
    for path, (published, ours) in differences.items():
        say(f'  {path}: {ours} (published: {published})')
    say(f'Output goes to {workdir}')
    train, validation = sources.load(first.data, FLAGS.data_dir, CACHE)
    facts = statistics.compute(train, first.data, CACHE)
    (workdir / 'experiment.json').write_text(json.dumps(identity, indent=1))
    with _stop_on_signal() as stop:
        def go(experiment: Experiment, folder: Path) -> Outcome:
            return fit(paper.build(experiment), experiment, train, validation, facts, mesh, folder, console, stop)

        if isinstance(chosen, Comparison):
            found = _compare(chosen, workdir, go)
        else:
            outcome = go(chosen, workdir)
            found = {'parameters': sum(leaf.size for leaf in jax.tree.leaves(outcome.params)),
                     'errors': outcome.errors, 'training_loss': _last_epoch_loss(workdir, outcome.step),
                     'steps': outcome.step, 'epochs': outcome.epoch, 'seconds': outcome.seconds}
            figures.training_curve(workdir / 'metrics.jsonl', workdir / 'curve.png')
            figures.kernels(jax.device_get(outcome.params[paper.first_layer]['kernel']), workdir / 'kernels.png',
                            getattr(chosen.model, 'groups', 1))
    results = _about(paper, first, differences, train, validation, mesh) | found
    if isinstance(chosen, Comparison):
        figures.comparison(results, workdir / 'curve.png')
    report.write(workdir, results)
    report.show(results, paper.tables, console, first.published, workdir)
    committed = report.committed(Path(__file__).parent.parent / 'reproductions' / paper.name, paper.tables)
    say(committed)


def _first(experiment: Experiment | Comparison) -> Experiment:
    return experiment.base if isinstance(experiment, Comparison) else experiment


def check_workdir(workdir: Path, identity: dict[str, Any]) -> None:
    """Makes the workdir if need be, and makes sure that it is empty or holds a run of the same experiment.

    Raises:
      UsageError: if it cannot be written, or holds another experiment or something else.
    """
    path = workdir / 'experiment.json'
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=workdir).close()
    except OSError as error:
        raise UsageError(f'{workdir} cannot be written ({error.strerror}): choose another --workdir.') from error
    if not any(workdir.iterdir()):
        return
    try:
        theirs = json.loads(path.read_text())
        others = [f'{key} {theirs[key]}' for key in ('paper', 'experiment') if theirs[key] != identity[key]]
        mine, kept = identity['fields'], theirs['fields']
        others = others or [f'{key}={kept.get(key)} (now {mine.get(key)})' for key in kept | mine
                            if key not in MAY_CHANGE and kept.get(key) != mine.get(key)]
    except FileNotFoundError as error:
        raise UsageError(f'{workdir} holds other files and no experiment: choose another --workdir.') from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f'{path} is damaged: choose another --workdir.') from error
    if others:
        raise UsageError(f'{workdir} holds another experiment, with {", ".join(others)}: choose another --workdir.')


def _hold(workdir: Path) -> None:
    """Keeps other processes from writing to the workdir until this one ends."""
    folder = os.open(workdir, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UsageError(f'Another run is writing to {workdir}: wait for it, or choose another --workdir.') from error


@contextlib.contextmanager
def _stop_on_signal():
    """Within it, Ctrl-C and SIGTERM let the step in hand finish and be saved; a second one ends the program at once."""
    asked = []

    def ask(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        console.print('Finishing the step in hand and saving; once more ends at once.')

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _compare(comparison: Comparison, workdir: Path, go: Callable[[Experiment, Path], Outcome]) -> dict[str, Any]:
    """Runs the arms one after another. Of the arms of one name the fastest counts, so one that has not reached the
    target in as many epochs as the fastest so far is not run further."""
    target = comparison.base.evaluation.stop_below
    fastest: dict[str, float] = {}
    arms, seconds, steps = [], 0.0, 0
    for arm in comparison.arms:
        experiment = comparison.base
        for path, value in arm.changes:
            experiment = change(experiment, path, value)
        limit = min(experiment.epochs, math.ceil(fastest.get(arm.name, experiment.epochs)))
        experiment = dataclasses.replace(experiment, epochs=limit)
        rate = experiment.optimizer.learning_rate
        folder = workdir / f'{arm.name}-{rate:g}'
        folder.mkdir(exist_ok=True)
        console.print(f'{arm.name}, learning rate {rate:g}, at most {limit} epochs: {folder}', soft_wrap=True)
        try:
            outcome = go(experiment, folder)
        except Diverged as diverged:
            console.print(str(diverged), markup=False, soft_wrap=True)
            outcome = diverged.outcome
        curve = [[e['epoch'], e['top1']] for e in outcome.evaluations]
        reached = epochs_to(curve, target)
        if reached is not None:
            fastest[arm.name] = min(reached, fastest.get(arm.name, math.inf))
        seconds, steps = seconds + outcome.seconds, steps + outcome.step
        arms.append({'name': arm.name, 'learning_rate': rate, 'seed': experiment.seed, 'epochs_to': reached,
                     'epochs': outcome.epoch, 'seen': outcome.errors[0]['seen'], 'curve': curve})
    found = {'arms': arms, 'target': target, 'errors': [], 'training_loss': None, 'steps': steps,
             'epochs': sum(arm['epochs'] for arm in arms), 'seconds': seconds}
    return found


def epochs_to(curve: list[list[float]], target: float) -> float | None:
    """Epochs until the error of a curve [[epoch, %], ...] first falls below the target, on the straight line between
    the two evaluations around it; None if it never does."""
    for (epoch, error), (next_epoch, next_error) in zip(curve, curve[1:]):
        if next_error < target:
            return epoch + (next_epoch - epoch) * (error - target) / (error - next_error)
    return None


def _last_epoch_loss(workdir: Path, step: int) -> float:
    rows = [row for row in figures.metrics(workdir / 'metrics.jsonl') if row['kind'] == 'train' and row['step'] <= step]
    last = [row['loss'] for row in rows if row['epoch'] > rows[-1]['epoch'] - 1]
    return sum(last) / len(last)


def _about(paper: Paper, experiment: Experiment, differences: dict, train, validation, mesh) -> dict[str, Any]:
    """All that results.json says of a run besides what it found."""
    versions = {name: metadata.version(name) for name in ('jax', 'jaxlib', 'flax', 'optax', 'numpy')}
    stats = jax.devices()[0].memory_stats() or {}
    peak = stats.get('peak_bytes_in_use', 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return {
        'paper': paper.name, 'experiment': FLAGS.experiment, 'seed': experiment.seed,
        'overrides': dict(assignment.split('=', 1) for assignment in FLAGS.set),
        'differences': json.loads(json.dumps(differences, default=repr)),
        'batch_size': experiment.batch_size,
        'data': {'name': train.name, 'validation_name': validation.name, 'train_examples': len(train),
                 'validation_examples': len(validation)},
        'commit': _commit(), 'versions': {'python': platform.python_version(), **versions},
        'device': jax.devices()[0].device_kind, 'devices': mesh.size, 'mesh': FLAGS.mesh,
        'machine': f'{platform.machine()}, {os.cpu_count()} cores', 'peak_memory_gib': peak / 2**30,
        'command': shlex.join(['python', '-m', f'launch.{paper.name}', *sys.argv[1:]]),
        'date': datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _commit() -> str:
    def git(*words):
        here = Path(__file__).parent
        return subprocess.run(['git', *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    try:
        return git('rev-parse', '--short=12', 'HEAD') + (' with changes' if git('status', '--porcelain') else '')
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
