"""A trained network in one small file: its parameters as 16-bit floating-point numbers, what it knows of its training
set, and what it is. The format is safetensors, so that others can read the arrays without this code."""
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from lib.data.statistics import Statistics
from lib.experiment import UsageError
from lib.task import Params

MOVING = ('.mean', '.var')      # averages of batch normalisation, too small for 16 bits in a silent map
KEY = 'classic-convnets'        # of the entry in the file's header under which the rest is described


def write(path: Path, params: Params, statistics: Statistics, about: dict[str, Any]) -> None:
    """Writes the file, or leaves what was there.

    Args:
      params: rounded to float16, but for moving averages; a number beyond its range, 65,504, is an error.
      about: what JSON can hold.

    Raises:
      UsageError: if a parameter is too large, or the file cannot be written.
    """
    arrays = {f'params.{layer}.{name}': np.asarray(array) for layer, own in params.items()
              for name, array in own.items()}
    with np.errstate(over='ignore'):
        arrays = {name: array if name.endswith(MOVING) else array.astype(np.float16) for name, array in arrays.items()}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise UsageError('A parameter of this network is too large for 16 bits: keep its --workdir instead.')
    mean = statistics.mean
    same = np.ptp(mean, axis=(0, 1)).max() == 0         # at every pixel: one is enough
    known = statistics._replace(mean=mean[:1, :1] if same else mean)._asdict()
    arrays |= {f'statistics.{name}': np.asarray(array, np.float32) for name, array in known.items()}
    whole = safetensors.numpy.save(arrays, {KEY: json.dumps(about | {'stored_size': mean.shape[0]})})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + '.part')
        unfinished.write_bytes(whole)
        unfinished.rename(path)
    except OSError as error:
        raise UsageError(f'{path} cannot be written ({error.strerror}): choose another --output.') from error


def read(path: Path) -> tuple[Params, Statistics, dict[str, Any]] | None:
    """Parameters in float32, statistics and `about` of a file that `write` has written; None for any other file."""
    try:
        with safetensors.safe_open(path, 'numpy') as file:
            header = (file.metadata() or {}).get(KEY)
            if header is None:
                return None
            arrays = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}
        about = json.loads(header)
        size = about['stored_size']
    except (OSError, safetensors.SafetensorError):
        return None         # of another format, or not there: the readers of those formats say what is wrong
    params: Params = {}
    known = {}
    for name, array in arrays.items():
        kind, _, rest = name.partition('.')
        if kind == 'params':
            layer, _, own = rest.rpartition('.')
            params.setdefault(layer, {})[own] = array
        else:
            known[rest] = array
    if known['mean'].shape[0] != size:
        known['mean'] = np.broadcast_to(known['mean'], (size, size, 3))
    return params, Statistics(**known), about


def rounding(params: Params) -> float:
    """The greatest change that 16 bits make to a parameter, relative to the largest of its array."""
    changes = [np.abs(array - array.astype(np.float16).astype(np.float32)).max() / max(np.abs(array).max(), 1e-30)
               for array in jax.tree.leaves(params) if array.size]
    return float(max(changes))
