"""Runs that differ in nothing but their seed, as one result: means, with what each of them gave."""
import collections
import statistics
from collections.abc import Sequence
from typing import Any

from lib.experiment import UsageError

SAME = ('paper', 'experiment', 'differences', 'batch_size', 'data', 'mesh', 'device', 'devices')
OF_NETWORK = ('epochs', 'parameters')


def together(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The results of several trainings, comparisons or evaluations of one network each, as one of the same form, in
    which `errors` and `training_loss` are means, `seconds` a sum, `members` all networks, and `seeds` is new; each
    error has `each`, the top-1 and top-5 errors of the runs in the order of their seeds.

    Raises:
      UsageError: if they differ in something else, or a seed stands twice.
    """
    runs = sorted(runs, key=lambda run: run['seed'])
    kinds = {next((key for key in ('arms', 'members') if key in run), 'training') for run in runs}
    if len(kinds) > 1 or any(len(run.get('members', [run])) > 1 for run in runs):
        raise UsageError(f'The results of {_named(runs)} cannot be averaged, since they are not all trainings, all '
                         'comparisons, or all evaluations of one network: keep them in folders of their own.')
    if kinds == {'arms'}:
        return _arms(runs)
    _check(runs, SAME)
    networks = [run.get('members', [run])[0] for run in runs]
    _check(runs, OF_NETWORK, networks)
    if any(_kinds(run) != _kinds(runs[0]) for run in runs):
        raise UsageError(f'The results of {_named(runs)} cannot be averaged, since they have not the same evaluations: '
                         'evaluate all of them alike.')
    numbers = [run['seed'] for run in runs]
    if len(set(numbers)) < len(numbers):
        raise UsageError(f'The results of {_named(runs)} have one seed twice: keep one of the two.')
    errors = []
    for parts in zip(*(run['errors'] for run in runs), strict=True):
        means = {key: _mean([part[key] for part in parts]) for key in ('top1', 'top5', 'loss')}
        errors.append(parts[0] | means | {'each': {key: [part[key] for part in parts] for key in ('top1', 'top5')}})
    own = {'members': networks} if kinds == {'members'} else {
        'training_loss': _mean([run['training_loss'] for run in runs])}
    return _summed(runs) | own | {'errors': errors, 'seeds': numbers}


def _kinds(run: dict[str, Any]) -> list[tuple[str, str]]:
    return [(error['split'], error['protocol']) for error in run['errors']]


def _mean(values: Sequence[float | None]) -> float | None:
    """None if one of them is not a number, for which results.json has null."""
    return None if None in values else statistics.fmean(values)


def _arms(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Comparisons as one, with the arms of all; a seed may have run its arms in several turns."""
    _check(runs, (*SAME, 'target'))
    found = collections.Counter((arm['name'], arm.get('learning_rate'), arm['seed']) for run in runs
                                for arm in run['arms'])
    (name, _, seed), times = found.most_common(1)[0]
    if times > 1:
        raise UsageError(f'The results of {_named(runs)} have the arm {name} of seed {seed} twice: keep one of the '
                         'two.')
    changes: dict[str, dict[str, str]] = {}
    for arm in (arm for run in runs for arm in run['arms'] if run['target'] is None):
        if changes.setdefault(arm['name'], arm['changes']) != arm['changes']:
            raise UsageError(f'The results of {runs[0]["paper"]} {runs[0]["experiment"]} cannot be averaged, since '
                             f'their arms {arm["name"]} change different things: run the older ones again.')
    return _summed(runs) | {'arms': [arm for run in runs for arm in run['arms']],
                            'steps': sum(run['steps'] for run in runs)}


def _check(runs: Sequence[dict[str, Any]], same: Sequence[str], parts: Sequence[dict[str, Any]] | None = None) -> None:
    """Raises UsageError if the runs, or the given parts of them, are not the `same` in one of these keys."""
    parts = runs if parts is None else parts
    for key in same:
        if any(part[key] != parts[0][key] for part in parts):
            raise UsageError(f'The results of {_named(runs)} cannot be averaged, since they differ in {key}: keep them '
                             'in folders of their own.')


def _named(runs: Sequence[dict[str, Any]]) -> str:
    return f'{runs[0]["paper"]} {runs[0]["experiment"]}, seeds {", ".join(str(run["seed"]) for run in runs)}'


def _summed(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first run with what all of them took, and where they come from."""
    return runs[0] | origins(runs) | {
        'seconds': sum(run['seconds'] for run in runs),
        'overrides': {path: value for run in runs for path, value in run['overrides'].items()},
    }


def origins(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What results.json says of the processes that numbers come from, for all of `parts` together: those of one process
    each, or of several already."""
    def joined(key, by=' and ', parts=parts):
        values = list(dict.fromkeys(part.get(key, 'unknown') for part in parts))
        return values[0] if len(values) == 1 else by.join(
            dict.fromkeys(word for value in values for word in str(value).split(by)))

    days = joined('date', ' to ').split(' to ')
    versions = [part['versions'] for part in parts]
    return {
        'commit': joined('commit'), 'versions': {name: joined(name, parts=versions) for name in versions[0]},
        'device': joined('device'), 'devices': joined('devices'), 'mesh': joined('mesh'),
        'machine': joined('machine'), 'peak_memory_gib': max(part['peak_memory_gib'] for part in parts),
        'command': joined('command', '\n'), 'date': ' to '.join(dict.fromkeys((min(days), max(days)))),
    }


def spread(error: dict[str, Any]) -> str:
    """What each of the seeds gave for top-1, and how far apart they are, in words."""
    values = error['each']['top1']
    return (f'{statistics.fmean(values):.2f} is the mean of {len(values)} seeds: '
            f'{", ".join(f"{value:.2f}" for value in values)}; standard deviation {statistics.stdev(values):.2f}')
