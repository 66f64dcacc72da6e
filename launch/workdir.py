"""The folder of a run: whose it is, one process at a time, and what results.json says of every run."""
import datetime
import fcntl
import functools
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from launch.cli import FLAGS
from lib import seeds
from lib.experiment import Experiment, UsageError
from lib.optimizers import STRETCHED
from lib.paper import Paper

MAY_CHANGE = ('steps', 'epochs', 'checkpoint.keep', 'checkpoint.minutes', 'evaluation.batch_size',
              'rematerialize')                      # of a run that is continued
LOCK = 'lock'
UNDESCRIBED = (LOCK, 'experiment.json.partial')     # what a command may leave that ended before it described its run


def path(given: str | None, default: str) -> Path:
    """The folder that --workdir names, or runs/`default`."""
    return Path(given or Path('runs') / default).expanduser().absolute()


def claim(workdir: Path, identity: dict[str, Any]) -> None:
    """Makes the folder this process's own, until it ends, for what `identity` describes.

    Raises:
      UsageError: if it cannot be written, holds something else, or another process writes to it.
    """
    check(workdir, identity)
    hold(workdir)


def check(workdir: Path, identity: dict[str, Any]) -> None:
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
    if all(file.name in UNDESCRIBED for file in workdir.iterdir()):
        return
    try:
        theirs = json.loads(path.read_text())
        others = [f'{key} {theirs.get(key)}' for key in ('paper', 'experiment', 'init_from', 'networks')
                  if theirs.get(key) != identity.get(key)]
        mine, kept = identity['fields'], theirs['fields']
        may_change = set(MAY_CHANGE) - ({'epochs'} if kept.get('optimizer.schedule') in STRETCHED else set())
        others = others or [f'{key}={kept.get(key)} (now {mine.get(key)})' for key in kept
                            if key not in may_change and kept.get(key) != mine.get(key)]
    except FileNotFoundError as error:
        raise UsageError(f'{workdir} holds other files and no experiment: choose another --workdir.') from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f'{path} is damaged: choose another --workdir.') from error
    if others:
        raise UsageError(f'{workdir} holds another experiment, with {", ".join(others)}: choose another --workdir.')


def describe(workdir: Path, about: dict[str, Any]) -> None:
    """Writes experiment.json, at once or not at all.

    Raises:
      UsageError: if the run that is there was on other data, or the file cannot be written.
    """
    path, partial = workdir / 'experiment.json', workdir / 'experiment.json.partial'
    try:
        before = json.loads(path.read_text()) if path.exists() else {}
        if 'data' in before and before['data'] != about.get('data'):
            raise UsageError(f'{workdir} holds a run on other data, {_splits(before)}; now it is {_splits(about)}, or '
                             'has other labels: choose another --workdir.')
        partial.write_text(json.dumps(about, indent=1))
        os.replace(partial, path)
    except OSError as error:
        raise UsageError(f'{path} cannot be written ({error.strerror}): make room there, or choose another '
                         '--workdir.') from error


def _splits(about: dict[str, Any]) -> str:
    return ' and '.join(f'{name} ({examples:,} images)' for name, examples, _ in about['data'])


def hold(workdir: Path) -> None:
    """Keeps other processes from writing to the workdir until this one ends, those on other machines too.

    Raises:
      UsageError: if another one writes to it, or its file system has no locks.
    """
    try:
        lock = os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT, 0o666)       # NFS locks files open to write only
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f'Another run is writing to {workdir}: wait for it, or choose another --workdir.') from error
    except OSError as error:
        raise UsageError(f'{workdir} cannot be locked ({error.strerror}): choose a --workdir on another file '
                         'system.') from error


def about(paper: Paper, name: str, experiment: Experiment, differences: dict, data: dict[str, Any],
          processes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All that results.json says of a run besides what it found; `name` is its experiment's, `data` says on what, and
    `processes` are those that had a part in it, as `process` tells of each."""
    return {
        'paper': paper.name, 'experiment': name, 'seed': experiment.seed,
        'overrides': dict(assignment.split('=', 1) for assignment in FLAGS.set),
        'differences': json.loads(json.dumps(differences, default=repr)),
        'batch_size': experiment.batch_size, 'init_from': FLAGS.init_from,
        'data': data, **seeds.origins(processes),
    }


def process(paper: Paper, mesh: Mesh) -> dict[str, Any]:
    """What results.json says of this process."""
    versions = {name: metadata.version(name) for name in ('jax', 'jaxlib', 'flax', 'optax', 'numpy')}
    stats = jax.devices()[0].memory_stats() or {}
    peak = stats.get('peak_bytes_in_use', 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return {
        'commit': commit(), 'versions': {'python': platform.python_version(), **versions},
        'device': jax.devices()[0].device_kind, 'devices': mesh.size, 'mesh': FLAGS.mesh,
        'machine': f'{platform.machine()}, {os.cpu_count()} cores', 'peak_memory_gib': peak / 2**30,
        'command': shlex.join(['python', '-m', f'launch.{paper.name}', *sys.argv[1:]]),
        'date': datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


@functools.cache
def commit() -> str:
    """The commit that this code is of, and whether it was changed since, as it was when this was first asked: a
    checkout may go on while a process runs."""
    def git(*words):
        here = Path(__file__).parent
        return subprocess.run(['git', *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    try:
        return git('rev-parse', '--short=12', 'HEAD') + (' with changes' if git('status', '--porcelain') else '')
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
