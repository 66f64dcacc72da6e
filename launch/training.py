"""Training from the command line: a run, or the runs of a comparison, reported beside the paper's tables."""
import contextlib
import functools
import signal
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from launch import comparison, workdir
from launch.cli import CACHE, FLAGS, console, say
from lib import evaluate, figures, report, trained
from lib import mesh as meshes
from lib.checkpoint import undamaged
from lib.data import sources, statistics
from lib.experiment import Comparison, Data, Experiment, change, diff, require
from lib.paper import Paper
from lib.results import origin, write
from lib.task import Params, count
from lib.train import Outcome, fit, require_trainable
from lib.visualize import kernels


def run(paper: Paper) -> None:
    """Trains or continues what the flags say, prints it beside the paper's tables, and writes it to the workdir."""
    chosen = paper.choose(FLAGS.experiment, FLAGS.set)
    first = _first(chosen)
    require(not (isinstance(chosen, Comparison) and FLAGS.init_from),
            f'{FLAGS.experiment} trains several networks from the beginning: leave out --init_from.')
    require(FLAGS.init_from is not None or first.starts_from is None,
            f'{FLAGS.experiment} starts from a run of {first.starts_from}: train that with --experiment='
            f'{first.starts_from}, and name its workdir with --init_from=DIR.')
    require(isinstance(chosen, Comparison) or FLAGS.arms is None, f'{FLAGS.experiment} has no arms: leave out --arms.')
    arms = comparison.chosen(chosen, FLAGS.arms) if isinstance(chosen, Comparison) else {}
    by_arms = set.intersection(*(set(dict(arm.changes)) for arm in chosen.arms)) if arms else set()
    given = {assignment.partition('=')[0].strip() for assignment in FLAGS.set}
    own = given & {path for arm in arms.values() for path, _ in arm.changes}
    require(not own, f'--set {", ".join(sorted(own))}: arms of {FLAGS.experiment} have their own; name one with '
                     f'--experiment={FLAGS.experiment}/ARM, or others with --arms.')
    experiments = [chosen.experiment(arm) for arm in arms.values()] or [chosen]
    for experiment in experiments:
        sources.require_held_out(experiment.data)
    differences = diff(first, _first(paper.experiments[first.published]))
    differences = {path: change for path, change in differences.items() if path not in by_arms}
    if FLAGS.init_from and not first.starts_from:
        differences['init_from'] = (None, FLAGS.init_from)
    mesh = meshes.make(FLAGS.mesh)
    for experiment in experiments:
        require_trainable(paper.build(experiment), experiment, mesh)
    folder = workdir.path(FLAGS.workdir, f'{paper.name}-{FLAGS.experiment}'.replace('/', '-'))
    identity = trained.identity(paper, FLAGS.experiment, FLAGS.set, first, FLAGS.init_from)
    workdir.claim(folder, identity)
    earlier = comparison.earlier(chosen, arms, folder) if arms else None
    workdir.commit()            # now: a long training may end in a checkout that has gone on
    say(f'{paper.name} {FLAGS.experiment}: {chosen.summary} ({chosen.source})')
    say('Differs from the published recipe in:' if differences else 'The recipe is as published.')
    for path, (published, ours) in differences.items():
        say(f'  {path}: {ours} (published: {published})')
    start = _start(paper, chosen) if FLAGS.init_from and not undamaged(folder / 'checkpoints') else None
    say(f'Output goes to {folder}')
    train, validation, facts = _data(first.data)
    data = {'name': train.name, 'validation_name': validation.name, 'train_examples': len(train),
            'validation_examples': len(validation)}
    about = functools.partial(workdir.about, paper, FLAGS.experiment, first, differences, data)
    if earlier:
        comparison.require_joinable(earlier, about([workdir.process(paper, mesh)]), folder)
    _describe(folder, identity, train, validation, facts)
    with _stop_on_signal() as stop:
        if isinstance(chosen, Comparison):
            found = comparison.run(chosen, arms, folder, functools.partial(_train_arm, paper, mesh, stop),
                                   functools.partial(_measure, paper, mesh))
        else:
            outcome = _train(paper, mesh, stop, chosen, folder, start)
            found = {'parameters': count(outcome.params), 'errors': outcome.errors,
                     'training_loss': _last_epoch_loss(folder, outcome.step),
                     'steps': outcome.step, 'epochs': outcome.epoch, 'seconds': outcome.seconds,
                     'processes': outcome.processes}
            figures.training_curve(folder / 'metrics.jsonl', origin(validation.name)[1], folder / 'curve.png')
            weights = jax.device_get(outcome.params[paper.first_layer]['kernel'])
            kernels.draw(weights, getattr(chosen.model, 'groups', 1), f'Kernels of {paper.first_layer}',
                         [f'{paper.name} {FLAGS.experiment}, step {outcome.step}', f'trained on {train.name}'],
                         folder / 'kernels.png')
    processes = found.pop('processes') or [workdir.process(paper, mesh)]    # this one, if there was no step to take
    results = about(processes) | found
    if earlier:
        results = comparison.joined(chosen, earlier, results)
    write(folder, results)
    if isinstance(chosen, Comparison):
        figures.comparison(results, paper.tables, folder / 'curve.png')
    report.show(results, paper.tables, console, first.published, folder)
    say(report.committed(Path(__file__).parent.parent / 'reproductions' / paper.name, paper.tables))


def _train(paper: Paper, mesh: jax.sharding.Mesh, stop: Callable[[], bool], experiment: Experiment, folder: Path,
           start: Params | None = None) -> Outcome:
    return fit(paper.build(experiment), experiment, *_data(experiment.data), mesh, folder, console, stop, start,
               functools.partial(workdir.process, paper, mesh))


def _train_arm(paper: Paper, mesh: jax.sharding.Mesh, stop: Callable[[], bool], label: str, experiment: Experiment,
               folder: Path) -> Outcome:
    """Trains an arm in a folder that every command reads like that of a single run."""
    name = f'{FLAGS.experiment}/{label}'
    own = paper.choose(name, FLAGS.set)     # of a race `experiment` may have fewer epochs
    identity = trained.identity(paper, name, FLAGS.set, own, None)
    workdir.claim(folder, identity)
    train, validation, facts = _data(own.data)
    _describe(folder, identity, train, validation, facts)
    return _train(paper, mesh, stop, experiment, folder)


def _measure(paper: Paper, mesh: jax.sharding.Mesh, experiment: Experiment, outcome: Outcome,
             split: str) -> dict[str, Any]:
    """The errors of an arm on another split of its data."""
    if split == experiment.data.train_split:
        images = _data(experiment.data)[0]
    else:
        images = sources.load_one(change(experiment.data, 'validation_split', split), 'validation', FLAGS.data_dir,
                                  CACHE)
    with jax.set_mesh(mesh):
        errors = evaluate.evaluate(paper.build(experiment), outcome.params, images, _data(experiment.data)[2],
                                   experiment.data, experiment.evaluation, mesh)
    return {'split': split, 'protocol': experiment.evaluation.protocol} | errors.record()


@functools.cache
def _data(data: Data) -> tuple[sources.Split, sources.Split, statistics.Statistics]:
    """Training and validation split, and what is known of the first."""
    train, validation = sources.load(data, FLAGS.data_dir, CACHE)
    return train, validation, statistics.compute(train, data, CACHE)


def _describe(folder: Path, identity: dict[str, Any], train: sources.Split, validation: sources.Split,
              facts: statistics.Statistics) -> None:
    """Writes what the commands need that look at the network in a folder, and by what data a run is known."""
    data = [[split.name, len(split), zlib.crc32(split.labels)] for split in (train, validation)]
    workdir.describe(folder, identity | {'classes': train.class_names, 'data': data})
    statistics.save(folder / 'statistics.npz', facts)


def _start(paper: Paper, experiment: Experiment) -> Params:
    """The layers to begin with, from the run or the weights that --init_from names."""
    source = trained.find(paper, FLAGS.init_from)
    start, new, left = trained.beginning(source, paper.build(experiment), experiment)
    say(f'Starts from {source.origin}')
    before, now = (getattr(one.model, 'dropout', None) for one in (source.experiment, experiment))
    if before != now:
        say(f'  its dropout was {before} and is {now} here: a test scales what dropout puts out by 1 - dropout, so the '
            'network begins as another function')
    say(f'  taken: {", ".join(start)}; new: {", ".join(new) or "none"}; left out: {", ".join(left) or "none"}')
    return start


def _first(experiment: Experiment | Comparison) -> Experiment:
    return experiment.base if isinstance(experiment, Comparison) else experiment


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


def _last_epoch_loss(folder: Path, step: int) -> float:
    rows = [row for row in figures.metrics(folder / 'metrics.jsonl') if row['kind'] == 'train' and row['step'] <= step]
    steps = [row['step'] - before for row, before in zip(rows, [0, *(row['step'] for row in rows)])]
    last = [(row['loss'], count) for row, count in zip(rows, steps) if row['epoch'] > rows[-1]['epoch'] - 1]
    return sum(loss * count for loss, count in last) / sum(count for _, count in last)
