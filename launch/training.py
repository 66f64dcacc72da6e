"""Training from the command line: a run, or the runs of a comparison, reported beside the paper's tables."""
import contextlib
import dataclasses
import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from launch import workdir
from launch.cli import CACHE, FLAGS, console, say
from lib import figures, report, trained
from lib import mesh as meshes
from lib.data import sources, statistics
from lib.experiment import Comparison, Experiment, change, diff, require
from lib.paper import Paper
from lib.task import Params, count
from lib.train import Diverged, Outcome, fit
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
    differences = diff(first, _first(paper.experiments[first.published]))
    if FLAGS.init_from and not first.starts_from:
        differences['init_from'] = (None, FLAGS.init_from)
    folder = workdir.path(FLAGS.workdir, f'{paper.name}-{FLAGS.experiment}')
    identity = trained.identity(paper, FLAGS.experiment, FLAGS.set, first, FLAGS.init_from)
    workdir.claim(folder, identity)
    mesh = meshes.make(FLAGS.mesh)
    say(f'{paper.name} {FLAGS.experiment}: {chosen.summary} ({chosen.source})')
    say('Differs from the published recipe in:' if differences else 'The recipe is as published.')
    for path, (published, ours) in differences.items():
        say(f'  {path}: {ours} (published: {published})')
    begun = any(folder.glob('checkpoints/*/digest.json'))
    start = _start(paper, chosen) if FLAGS.init_from and not begun else None
    say(f'Output goes to {folder}')
    train, validation = sources.load(first.data, FLAGS.data_dir, CACHE)
    facts = statistics.compute(train, first.data, CACHE)
    statistics.save(folder / 'statistics.npz', facts)
    (folder / 'experiment.json').write_text(json.dumps(identity | {'classes': train.class_names}, indent=1))
    with _stop_on_signal() as stop:
        def go(experiment: Experiment, place: Path) -> Outcome:
            return fit(paper.build(experiment), experiment, train, validation, facts, mesh, place, console, stop, start)

        if isinstance(chosen, Comparison):
            found = _compare(chosen, folder, go)
        else:
            outcome = go(chosen, folder)
            found = {'parameters': count(outcome.params), 'errors': outcome.errors,
                     'training_loss': _last_epoch_loss(folder, outcome.step),
                     'steps': outcome.step, 'epochs': outcome.epoch, 'seconds': outcome.seconds}
            figures.training_curve(folder / 'metrics.jsonl', folder / 'curve.png')
            weights = jax.device_get(outcome.params[paper.first_layer]['kernel'])
            kernels.draw(weights, getattr(chosen.model, 'groups', 1), f'Kernels of {paper.first_layer}',
                         [f'{paper.name} {FLAGS.experiment}, step {outcome.step}', f'trained on {train.name}'],
                         folder / 'kernels.png')
    data = {'name': train.name, 'validation_name': validation.name, 'train_examples': len(train),
            'validation_examples': len(validation)}
    results = workdir.about(paper, FLAGS.experiment, first, differences, data, mesh) | found
    if isinstance(chosen, Comparison):
        figures.comparison(results, folder / 'curve.png')
    report.write(folder, results)
    report.show(results, paper.tables, console, first.published, folder)
    say(report.committed(Path(__file__).parent.parent / 'reproductions' / paper.name, paper.tables))


def _start(paper: Paper, experiment: Experiment) -> Params:
    """The layers to begin with, from the run or the weights that --init_from names."""
    source = trained.find(paper, FLAGS.init_from)
    start, new, left = trained.beginning(source, paper.build(experiment), experiment)
    say(f'Starts from {source.origin}')
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


def _compare(comparison: Comparison, folder: Path, go: Callable[[Experiment, Path], Outcome]) -> dict[str, Any]:
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
        place = folder / f'{arm.name}-{rate:g}'
        place.mkdir(exist_ok=True)
        console.print(f'{arm.name}, learning rate {rate:g}, at most {limit} epochs: {place}', soft_wrap=True)
        try:
            outcome = go(experiment, place)
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


def _last_epoch_loss(folder: Path, step: int) -> float:
    rows = [row for row in figures.metrics(folder / 'metrics.jsonl') if row['kind'] == 'train' and row['step'] <= step]
    last = [row['loss'] for row in rows if row['epoch'] > rows[-1]['epoch'] - 1]
    return sum(last) / len(last)
