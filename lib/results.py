"""results.json: what a run leaves behind, and those that are committed."""
import json
import math
import os
from pathlib import Path
from typing import Any

from lib import seeds
from lib.experiment import UsageError, require

COMMON = ('paper', 'experiment', 'overrides', 'differences', 'seed', 'commit', 'versions', 'device', 'devices', 'mesh',
          'data.name', 'data.validation_name', 'data.train_examples', 'data.validation_examples', 'batch_size',
          'seconds', 'peak_memory_gib', 'command', 'date', 'machine')
TRAINING = ('epochs', 'steps', 'training_loss', 'parameters', 'errors')
ERROR = ('split', 'protocol', 'top1', 'top5', 'seen', 'loss')
EVALUATION = ('members', 'errors')                      # of networks that were trained before, averaged if several
MEMBER = ('experiment', 'origin', 'seed', 'epochs', 'parameters')
ARM = ('name', 'seed', 'epochs')
RACED = ('learning_rate', 'epochs_to', 'seen', 'curve')     # an arm of a race
PAIRED = ('changes', 'errors', 'parameters')            # of another comparison


def write(workdir: Path, results: dict[str, Any]) -> Path:
    """Writes results.json into `workdir`, at once or not at all. Numbers that are not finite become null.

    Raises:
      UsageError: if a key that a report needs is missing.
    """
    path = Path(workdir) / 'results.json'
    _check(results, path)
    partial = path.with_name('results.json.partial')
    partial.write_text(json.dumps(_finite(results), indent=1, ensure_ascii=False, allow_nan=False) + '\n')
    os.replace(partial, path)
    return path


def read(path: Path) -> dict[str, Any]:
    """The results in the file `path`.

    Raises:
      UsageError: if the file cannot be read, is no JSON, or lacks a key.
    """
    try:
        results = json.loads(Path(path).read_text())
    except OSError as error:
        raise UsageError(f'{path} cannot be read ({error.strerror}): run the experiment that writes it.') from error
    except ValueError as error:
        raise UsageError(f'{path} is not JSON ({error}): restore it, or run its experiment again.') from error
    _check(results, path)
    return results


def _check(results: Any, path: Path) -> None:
    kinds = {'arms': ('arms', 'target'), 'members': EVALUATION}
    kind = next((name for name in kinds if isinstance(results, dict) and name in results), None)
    for key in (*COMMON, *kinds.get(kind, TRAINING)):
        _need(results, key, key, path)
    arm = (*ARM, *(PAIRED if results.get('target') is None else RACED))
    for name, inner in (('arms', arm), ('errors', ERROR), ('members', MEMBER)):
        for i, item in enumerate(results.get(name, ())):
            for key in inner:
                _need(item, key, f'{name}[{i}].{key}', path)


def _need(value: Any, key: str, shown: str, path: Path) -> None:
    for part in key.split('.'):
        if not isinstance(value, dict) or part not in value:
            raise UsageError(f'{path} lacks the key {shown!r}: run its experiment again with this version.')
        value = value[part]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def origin(name: str) -> tuple[str, str]:
    """The data set that the name of a split begins with, and the part of it: 'cifar10 3.0.2' and 'train[:40000]'."""
    source, part = name.partition(', ')[0].rsplit(' ', 1)
    return source, part


def kept(folder: Path) -> dict[str, dict[str, Any]]:
    """The results committed in `folder`/results, by the name of their folder, which has results.json, or a folder
    seed-* for each of several runs, which become one result.

    Raises:
      UsageError: if one of them cannot be read, the runs are not the same but for their seeds, or one of them is in no
        folder seed-*.
    """
    found = {}
    for place in sorted(Path(folder).glob('results/*/')):
        for path in place.glob('*/results.json'):
            require(path.parent.name.startswith('seed-'),
                    f'{path.parent} is named neither seed-N nor seed-N-ARMS, by which its results would be found.')
        if runs := sorted(place.glob('seed-*/results.json')):
            if (place / 'results.json').exists():
                raise UsageError(f'{place} has a results.json beside folders of seeds: move it into one of its own, '
                                 'seed-N.')
            found[place.name] = seeds.together([read(path) for path in runs])
        elif (place / 'results.json').exists():
            found[place.name] = read(place / 'results.json')
    return found
