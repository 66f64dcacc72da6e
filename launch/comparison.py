"""The arms of a comparison, one training after another."""
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.cli import console, say
from lib import seeds
from lib.experiment import Arm, Comparison, Experiment, UsageError, require
from lib.results import read
from lib.task import count
from lib.train import Diverged, Outcome


def chosen(comparison: Comparison, names: list[str] | None) -> dict[str, Arm]:
    """The arms by their labels: all of them, or those that --arms names.

    Raises:
      UsageError: if one of the names is none of an arm.
    """
    arms = comparison.labelled
    require(names != [], f'--arms names none; the arms are: {", ".join(arms)}.')
    unknown = [name for name in names or () if name not in arms]
    require(not unknown, f'--arms={",".join(names or ())} names {", ".join(unknown)}; the arms are: {", ".join(arms)}.')
    return {label: arm for label, arm in arms.items() if names is None or label in names}


def run(comparison: Comparison, arms: Mapping[str, Arm], folder: Path,
        train: Callable[[str, Experiment, Path], Outcome],
        measure: Callable[[Experiment, Outcome, str], dict[str, Any]]) -> dict[str, Any]:
    """Trains the arms, each in a folder of its own, and returns what results.json says of them, and `processes`, those
    that took their steps.

    In a race an arm that has not reached the target in as many epochs as the fastest of its name so far is not run
    further.

    Args:
      comparison: of which the arms are a part.
      arms: by their labels.
      folder: the workdir.
      train: trains the arm with a label, an experiment, in a folder.
      measure: the error of an experiment's outcome on another split of its data.
    """
    target = comparison.base.evaluation.stop_below
    fastest: dict[str, float] = {}
    found, processes = [], []
    for label, arm in arms.items():
        experiment = comparison.experiment(arm)
        if target is not None:
            limit = min(experiment.epochs, math.ceil(fastest.get(arm.name, experiment.epochs)))
            experiment = dataclasses.replace(experiment, epochs=limit)
        place = folder / label
        place.mkdir(exist_ok=True)
        console.print(f'{label}, at most {experiment.epochs} epochs: {place}', markup=False, soft_wrap=True)
        errors = []
        try:
            outcome = train(label, experiment, place)
            splits = (*comparison.splits, *[experiment.data.train_split] * comparison.in_training)
            errors = outcome.errors + [measure(experiment, outcome, split) for split in splits]
        except Diverged as diverged:
            console.print(str(diverged), markup=False, soft_wrap=True)
            outcome = diverged.outcome
        processes += outcome.processes
        curve = [[e['epoch'], e['top1']] for e in outcome.evaluations]
        reached = None if target is None else epochs_to(curve, target)
        if reached is not None:
            fastest[arm.name] = min(reached, fastest.get(arm.name, math.inf))
        found.append({'name': arm.name, 'changes': _changes(arm),
                      'learning_rate': experiment.optimizer.learning_rate, 'seed': experiment.seed,
                      'epochs_to': reached, 'epochs': outcome.epoch, 'steps': outcome.step, 'seconds': outcome.seconds,
                      'seen': outcome.evaluations[0]['seen'], 'curve': curve, 'errors': errors,
                      'parameters': count(outcome.params)})
    return {'arms': found, 'target': target, 'processes': processes} | _totals(found)


def earlier(comparison: Comparison, arms: Mapping[str, Arm], folder: Path) -> dict[str, Any] | None:
    """What earlier commands left in the workdir of those arms that the comparison has still, but for `arms`, which are
    trained or measured now; None for nothing."""
    path = folder / 'results.json'
    if not path.exists():
        return None
    try:
        before = read(path)
    except UsageError as error:
        say(f'{error} The arms in it that are not trained now are left out.')
        return None
    others = {_known_by(comparison, arm): _changes(arm) for label, arm in comparison.labelled.items()
              if label not in arms}
    kept = [arm for arm in before['arms'] if others.get((arm['name'], arm['learning_rate'])) == arm['changes']]
    return before | {'arms': kept} | _totals(kept) if kept else None


def require_joinable(before: Mapping[str, Any], about: Mapping[str, Any], folder: Path) -> None:
    """Raises UsageError if results that `about` describes could not be joined with those of earlier commands."""
    differing = [key for key in seeds.SAME if before[key] != about[key]]
    require(not differing, f'{folder}/results.json has other arms, which differ from these in {", ".join(differing)}: '
                           'train these likewise, or choose another --workdir.')


def joined(comparison: Comparison, before: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """The results with the arms that earlier commands trained, in the order of all.

    Raises:
      UsageError: if they are not alike but for their arms.
    """
    both = seeds.together([before, results])
    order = [_known_by(comparison, arm) for arm in comparison.arms]
    return both | {'arms': sorted(both['arms'], key=lambda arm: order.index((arm['name'], arm['learning_rate'])))}


def _totals(arms: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What all of them took."""
    return {key: sum(arm[key] for arm in arms) for key in ('steps', 'seconds')}


def _changes(arm: Arm) -> dict[str, str]:
    """What the arm changes, as results.json has it."""
    return {path: str(value) for path, value in arm.changes}


def _known_by(comparison: Comparison, arm: Arm) -> tuple[str, float]:
    """The name and the learning rate by which results.json knows an arm."""
    return arm.name, comparison.experiment(arm).optimizer.learning_rate


def epochs_to(curve: list[list[float]], target: float) -> float | None:
    """Epochs until the error of a curve [[epoch, %], ...] first falls below the target, on the straight line between
    the two evaluations around it; None if it never does."""
    for (epoch, error), (next_epoch, next_error) in zip(curve, curve[1:]):
        if next_error < target:
            return epoch + (next_epoch - epoch) * (error - target) / (error - next_error)
    return None
