"""What augmentation needs to know of the training set: the mean of each pixel and the principal colours."""
import hashlib
import json
import os
import re
import sys
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from lib.data.sources import Split
from lib.experiment import Data, UsageError

CHUNK_BYTES = 2**21         # of uint8 images: their float64 copy then stays in the processor's cache
SAMPLE = 256                # images by which a cached file recognises its training set


class Statistics(NamedTuple):
    """Of the stored training images, before any crop; pixel values are 0 to 255. All float32."""
    mean: np.ndarray            # [size, size, 3]
    eigenvalues: np.ndarray     # [3], of the covariance of R, G and B over all pixels, the greatest first
    eigenvectors: np.ndarray    # [3, 3], one a column; the component of greatest magnitude is positive


def compute(train: Split, data: Data, cache_dir: Path) -> Statistics:
    """The mean image and the principal colours of the training split (AlexNet paper, sections 2 and 4.1).

    With data.mean == 'channel' the mean is the same at every pixel. The result is kept in `cache_dir`/statistics and
    read from there as long as the file is intact and was made from the same split.

    Raises:
      UsageError: if the cache directory cannot be written.
    """
    key = json.dumps({'of': 'pixel mean, RGB covariance', 'split': train.name, 'shape': train.images.shape,
                      'sample': _sample_digest(train.images)})
    name = re.sub(r'[^\w.]+', '-', train.name).strip('-')
    path = cache_dir / 'statistics' / f'{name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.npz'
    statistics = _read(path, key)
    if statistics is None:
        statistics = _compute(train)
        _write(path, key, statistics)
    if data.mean == 'channel':
        mean = np.mean(statistics.mean, axis=(0, 1), dtype=np.float64).astype(np.float32)
        statistics = statistics._replace(mean=np.broadcast_to(mean, statistics.mean.shape).copy())
    return statistics


def _compute(train: Split) -> Statistics:
    count, *shape = train.images.shape
    step = max(1, CHUNK_BYTES // int(np.prod(shape)))
    total, moments = np.zeros(shape), np.zeros((3, 3))
    for start in track(range(0, count, step), 'Mean image and colours', console=Console(stderr=True), transient=True):
        chunk = train.images[start:start + step]
        total += chunk.sum(axis=0, dtype=np.uint32)
        colours = chunk.reshape(-1, 3).astype(np.float64)
        moments += colours.T @ colours
    mean = total / count
    colour = mean.mean(axis=(0, 1))
    covariance = moments / (count * shape[0] * shape[1]) - np.outer(colour, colour)
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    largest = vectors[np.abs(vectors).argmax(axis=0), range(3)]
    return Statistics(*(a.astype(np.float32) for a in (mean, values, vectors * np.sign(largest))))


def _sample_digest(images: np.ndarray) -> str:
    at = np.linspace(0, len(images) - 1, min(len(images), SAMPLE)).astype(int)
    return hashlib.sha256(np.ascontiguousarray(images[at])).hexdigest()


def _digest(statistics: Statistics) -> str:
    return hashlib.sha256(b''.join(np.ascontiguousarray(array).tobytes() for array in statistics)).hexdigest()


def _read(path: Path, key: str) -> Statistics | None:
    if not path.exists():
        return None
    try:
        with np.load(path) as file:
            statistics = Statistics(file['mean'], file['eigenvalues'], file['eigenvectors'])
            if str(file['key']) == key and str(file['digest']) == _digest(statistics):
                return statistics
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error):
        pass
    print(f'{path} is damaged: computing the statistics again.', file=sys.stderr)
    return None


def _write(path: Path, key: str, statistics: Statistics) -> None:
    temporary = path.with_suffix(f'.{os.getpid()}.npz')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(temporary, key=key, digest=_digest(statistics), **statistics._asdict())
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f'{path} cannot be written ({error.strerror or error}): choose another cache directory.') \
            from error
