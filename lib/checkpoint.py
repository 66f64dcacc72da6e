"""Checkpoints that survive a kill, a full disk and a flipped bit (Orbax restores a flipped byte without a word).

    directory/00000200/     one a step, complete as soon as it has this name
        state/ ...          the arrays as Orbax writes them: a plain nested dict
        progress.json       what the training loop knows besides its arrays
        permanent, best     empty files: marks that keep the step from being deleted
        digest.json         {file: SHA-256} of all the above, written last
"""
import concurrent.futures
import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp
from rich.console import Console

from lib.experiment import UsageError

LATEST = 2      # so many of the newest stay: a damaged one needs another to fall back on

# Orbax logs three tracebacks of each error that it then raises.
logging.getLogger('absl').addFilter(lambda record: '_SignalingThread.run() raised' not in record.getMessage())


class Checkpoints(contextlib.AbstractContextManager):
    """The checkpoints of one run, in one process. Use it in a `with` statement, which waits for the last save: Orbax
    cannot finish one while the interpreter shuts down.

    Raises:
      UsageError: if the directory cannot be written.
    """

    def __init__(self, directory: Path):
        self.directory = Path(directory).absolute()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.directory).close()
        except OSError as error:
            raise UsageError(f'Checkpoints cannot be written to {self.directory} ({error.strerror}): choose another '
                             '--workdir.') from error
        self._worker = concurrent.futures.ThreadPoolExecutor(1, 'checkpoint')
        self._pending: concurrent.futures.Future | None = None
        self._damaged: set[int] = set()

    def __exit__(self, *exception: Any) -> None:
        self.wait()

    def path(self, step: int) -> Path:
        """The folder of a step, whether it exists or not."""
        return self.directory / f'{step:08d}'

    def save(self, step: int, state: Any, progress: dict[str, Any], *, permanent: bool = False,
             best: bool = False) -> None:
        """Finishes the previous save, then starts this one: the rest happens in the background, and the arrays may be
        donated at once (on a CPU their memory is only used again when they are written). The latest two steps, the
        newest best and all permanent ones stay. A step that is saved again replaces the old one, whose marks it keeps.

        Args:
          state: nested dict of jax arrays.
          progress: a dict that JSON can hold.

        Raises:
          UsageError: if the previous checkpoint could not be written.
        """
        self.wait()
        for leftover in self.directory.glob('*.tmp*'):
            shutil.rmtree(leftover, ignore_errors=True)
        marks = {mark for mark, wanted in (('permanent', permanent), ('best', best)) if wanted}
        text = json.dumps(progress)
        with self._explained(step):
            response = ocp.save_async(self.path(step).with_suffix('.tmp'), state)
        self._pending = self._worker.submit(self._finish, step, response, text, marks)

    def wait(self) -> None:
        """Returns when the checkpoint that is being written, if any, is complete.

        Raises:
          UsageError: if it could not be written. Earlier ones are untouched.
        """
        if pending := self._pending:
            concurrent.futures.wait([pending])
            self._pending = None
            pending.result()

    def restore(self, abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest undamaged checkpoint as (step, state, progress), or None. Damaged ones are reported on stderr, and
        deleted after the next save.

        Args:
          abstract_state: the state as `jax.ShapeDtypeStruct`s, with the shardings that its arrays shall have.

        Raises:
          UsageError: if the checkpoint holds other names, shapes or types.
        """
        self.wait()
        for step in reversed(_steps(self.directory)):
            path = self.path(step)
            if _sound(path):
                _require_same(ocp.metadata(path).metadata, abstract_state, path)
                return step, ocp.load(path, abstract_state), json.loads((path / 'progress.json').read_text())
            self._damaged.add(step)
        return None

    def _finish(self, step: int, response: ocp.AsyncResponse, progress: str, marks: set[str]) -> None:
        path = self.path(step)
        new, replaced = path.with_suffix('.tmp'), path.with_suffix('.tmp-replaced')
        with self._explained(step):
            response.result()
            (new / 'progress.json').write_text(progress)
            for mark in marks | {mark for mark in ('permanent', 'best') if step in self._marked(mark)}:
                (new / mark).touch()
            digests = {str(file.relative_to(new)): _digest(file) for file in new.rglob('*') if file.is_file()}
            (new / 'digest.tmp').write_text(json.dumps(digests, indent=1))
            (new / 'digest.tmp').rename(new / 'digest.json')
            if path.exists():
                path.rename(replaced)
            new.rename(path)
            shutil.rmtree(replaced, ignore_errors=True)
            self._damaged.discard(step)
            self._delete_old()

    def _delete_old(self) -> None:
        undamaged = [step for step in _steps(self.directory) if step not in self._damaged]
        keep = {*undamaged[-LATEST:], *self._marked('permanent'), *self._marked('best')[-1:]}
        for path in self.directory.iterdir():
            if path.name.isdigit() and int(path.name) not in keep:
                (path / 'digest.json').unlink(missing_ok=True)      # killed from here on, it is incomplete, not damaged
                shutil.rmtree(path, ignore_errors=True)     # the next save tries what cannot be deleted again

    def _marked(self, mark: str) -> list[int]:
        return [step for step in _steps(self.directory)
                if step not in self._damaged and (self.path(step) / mark).exists()]

    @contextlib.contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            for leftover in self.directory.glob(f'{step:08d}.tmp*'):
                shutil.rmtree(leftover, ignore_errors=True)
            code = re.search(r"os_error_code='(\d+)'", str(error))      # TensorStore's, in a ValueError
            reason = os.strerror(int(code[1])) if code else getattr(error, 'strerror', None)
            if reason is None:
                raise
            raise UsageError(f'The checkpoint of step {step} could not be written to {self.directory} ({reason}): mend '
                             'that and run the same command again, which goes on from the one before.') from error


def newest(path: Path) -> Path:
    """The folder of the newest undamaged step.

    Args:
      path: the folder of all steps, or that of one, which is then the answer.

    Raises:
      UsageError: if there is no undamaged checkpoint.
    """
    path = Path(path).absolute()
    steps = [path / f'{step:08d}' for step in reversed(_steps(path))]
    found = next(filter(_sound, [path] if (path / 'digest.json').exists() else steps), None)
    if found is None:
        raise UsageError(f'There is no undamaged checkpoint in {path}: name the folder of a step, or of all steps.')
    return found


def undamaged(directory: Path) -> list[Path]:
    """The folders of all steps that are not damaged, in the order of training."""
    return list(filter(_sound, (Path(directory).absolute() / f'{step:08d}' for step in _steps(Path(directory)))))


def read(path: Path, name: str = 'params') -> dict[str, Any]:
    """One entry of a saved state, as a nested dict of numpy arrays.

    Args:
      path: as in `newest`.

    Raises:
      UsageError: if there is no undamaged checkpoint, or it has no such entry.
    """
    found = newest(path)
    saved = ocp.metadata(found).metadata
    if name not in saved:
        raise UsageError(f'The checkpoint {found} has no {name}: it has {", ".join(saved)}.')
    wanted = jax.tree.map(lambda leaf: ocp.PLACEHOLDER, saved)
    wanted[name] = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved[name])
    return ocp.load(found, wanted)[name]


def _steps(directory: Path) -> list[int]:
    return sorted(int(file.parent.name) for file in directory.glob('*/digest.json') if file.parent.name.isdigit())


def _digest(file: Path) -> str:
    with file.open('rb') as opened:
        return hashlib.file_digest(opened, 'sha256').hexdigest()


def _sound(path: Path) -> bool:
    file = path / 'digest.json'
    try:
        for name, digest in json.loads(file.read_text()).items():
            file = path / name
            if _digest(file) != digest:
                break
        else:
            return True
    except (OSError, ValueError, AttributeError):
        pass
    Console(stderr=True).print(f'The checkpoint {path} is damaged ({file.relative_to(path)}) and is passed over.',
                               soft_wrap=True, markup=False)
    return False


def _require_same(saved: Any, wanted: Any, path: Path) -> None:
    there, here = ({jax.tree_util.keystr(keys, simple=True, separator='.'): f'{np.dtype(leaf.dtype)}{[*leaf.shape]}'
                    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]} for tree in (saved, wanted))
    for name in here | there:
        if here.get(name) != there.get(name):
            raise UsageError(f'The checkpoint {path} is of another network: {name} is {there.get(name, "absent")} '
                             f'there and {here.get(name, "absent")} here, so choose another --workdir.')
