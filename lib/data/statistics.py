"""What augmentation needs to know of the training set: the mean of each pixel, the principal colours, and how its
pixels are decorrelated."""
import hashlib
import json
import os
import re
import sys
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from lib.data import contrast
from lib.data.sources import Split
from lib.experiment import Data, UsageError, require

CHUNK_BYTES = 2**21         # of uint8 images: their float64 copy then stays in the processor's cache
WHITENED = 2000             # images whose pixels are correlated at once
SAMPLE = 256                # images by which a cached file recognises its training set
FILTER_BIAS = 0.1           # added to every variance before whitening divides by its root
LARGEST = 64                # pixels a side of images that can be whitened: the matrix then has 151 million entries


class Statistics(NamedTuple):
    """Of the stored training images, before any crop; pixel values are 0 to 255. All float32."""
    mean: np.ndarray            # [size, size, 3], of the images after contrast normalisation
    eigenvalues: np.ndarray     # [3], of the covariance of R, G and B over all pixels, the greatest first
    eigenvectors: np.ndarray    # [3, 3], one a column; the component of greatest magnitude is positive
    whitening: np.ndarray = np.zeros((0, 0), np.float32)    # [d, d], symmetric, d = size * size * 3; [0, 0] for none


def compute(train: Split, data: Data, cache_dir: Path) -> Statistics:
    """The mean image and the principal colours of the training split (AlexNet paper, sections 2 and 4.1).

    With data.mean == 'channel' the mean is the same at every pixel, and with three numbers it is these; with
    data.contrast it is 0, since an image's own is subtracted. With data.whiten it is the mean of each pixel over the
    contrast-normalised images, whatever data.mean says. The colours are always those of the stored images. The result
    is kept in `cache_dir`/statistics and read from there as long as the file is intact and was made from the same
    split.

    Raises:
      UsageError: if the cache directory cannot be written, or images are too large to be whitened.
    """
    size = train.images.shape[1]
    require(not data.whiten or size <= LARGEST, f'data.whiten is for images of at most {LARGEST} pixels and these have '
                                                f'{size}: set data.resize={LARGEST}, or data.whiten=false.')
    whitened = {'whitened': data.contrast} if data.whiten else {}
    key = json.dumps({'of': 'pixel mean, RGB covariance', 'split': train.name, 'shape': train.images.shape,
                      'sample': _sample_digest(train.images)} | whitened)
    name = re.sub(r'[^\w.]+', '-', train.name).strip('-')
    path = cache_dir / 'statistics' / f'{name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.npz'
    statistics = _read(path, key)
    if statistics is None:
        if path.exists():
            print(f'{path} is damaged: computing the statistics again.', file=sys.stderr)
        statistics = _compute(train)
        if data.whiten:
            statistics = statistics._replace(**_whitening(train, data.contrast))
        _write(path, key, statistics)
    if data.whiten:
        return statistics
    if data.contrast != 'none':
        return statistics._replace(mean=np.zeros_like(statistics.mean))
    if data.mean == 'channel':
        return statistics._replace(mean=_everywhere(np.mean(statistics.mean, axis=(0, 1), dtype=np.float64),
                                                    statistics.mean.shape))
    if data.mean != 'pixel':
        return statistics._replace(mean=_everywhere(data.mean, statistics.mean.shape))
    return statistics


def fixed(mean: tuple[float, float, float], size: int) -> Statistics:
    """Given means of R, G and B (0 to 255) for stored images of `size` pixels a side, with no training set.

    Nothing is known of the colours then: the eigenvalues are 0 and the eigenvectors the axes, so that colour noise adds
    nothing. This is for evaluating weights that were trained elsewhere.
    """
    return Statistics(_everywhere(mean, (size, size, 3)), np.zeros(3, np.float32), np.eye(3, dtype=np.float32))


def resized(statistics: Statistics, size: int) -> Statistics:
    """For stored images of another size, where the mean is the same at every pixel and nothing is whitened; otherwise
    as they are."""
    mean = statistics.mean
    if statistics.whitening.size or np.any(mean != mean[0, 0]):
        return statistics
    return statistics._replace(mean=_everywhere(mean[0, 0], (size, size, 3)))


def save(path: Path, statistics: Statistics) -> None:
    """Writes a file for `load`, for example WORKDIR/statistics.npz: what a run needs beside its parameters.

    Raises:
      UsageError: if it cannot be written.
    """
    _write(path, '', statistics)


def load(path: Path) -> Statistics:
    """What `save` wrote.

    Raises:
      UsageError: if the file is missing or damaged.
    """
    statistics = _read(path, '')
    if statistics is None:
        raise UsageError(f'{path} is {"damaged" if path.exists() else "missing"}: start the run of that directory '
                         f'again, which writes it.')
    return statistics


def require_fits(statistics: Statistics, split: Split) -> None:
    """Raises UsageError if the mean image and the images of the split differ in size."""
    ours, theirs = statistics.mean.shape[0], split.images.shape[1]
    if ours != theirs:
        raise UsageError(f'The images of {split.name} are of {theirs} pixels and the mean image that the network '
                         f'subtracts is of {ours}: set data.resize={ours}.')


def _everywhere(mean: np.ndarray | tuple[float, float, float], shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.asarray(mean, np.float32), shape).copy()


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


def _whitening(train: Split, kind: str) -> dict[str, np.ndarray]:
    """The mean of the training set after contrast normalisation and its ZCA matrix: with d = size * size * 3 and the
    covariance of all pixels V diag(v) V^T, V diag(1 / sqrt(v + 0.1)) V^T, float32 [d, d] (as pylearn2's ZCA)."""
    count, *shape = train.images.shape
    normalize = jax.jit(lambda images: contrast.normalize(images, kind).reshape(len(images), -1))
    total, moments = np.zeros(np.prod(shape)), np.zeros((np.prod(shape),) * 2)
    for start in track(range(0, count, WHITENED), 'Covariance of pixels', console=Console(stderr=True), transient=True):
        pixels = np.asarray(normalize(train.images[start:start + WHITENED]), np.float64)
        total += pixels.sum(axis=0)
        moments += pixels.T @ pixels
    mean = total / count
    values, vectors = np.linalg.eigh(moments / count - np.outer(mean, mean))
    whitening = (vectors / np.sqrt(np.maximum(values, 0) + FILTER_BIAS)) @ vectors.T
    return {'mean': mean.reshape(shape).astype(np.float32), 'whitening': whitening.astype(np.float32)}


def _sample_digest(images: np.ndarray) -> str:
    at = np.linspace(0, len(images) - 1, min(len(images), SAMPLE)).astype(int)
    return hashlib.sha256(np.ascontiguousarray(images[at])).hexdigest()


def _digest(statistics: Statistics) -> str:
    return hashlib.sha256(b''.join(np.ascontiguousarray(array).tobytes() for array in statistics)).hexdigest()


def _read(path: Path, key: str) -> Statistics | None:
    """The file's statistics; None if it is missing, damaged or was written with another key."""
    try:
        with np.load(path) as file:
            found = {name: file[name] for name in Statistics._fields if name in file or name != 'whitening'}
            statistics = Statistics(**found)    # files from before there was whitening lack it
            if str(file['key']) == key and str(file['digest']) == _digest(statistics):
                return statistics
    except (OSError, EOFError, KeyError, NotImplementedError, ValueError, zipfile.BadZipFile, zlib.error):
        pass
    return None


def _write(path: Path, key: str, statistics: Statistics) -> None:
    temporary = path.with_suffix(f'.{os.getpid()}.npz')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(temporary, key=key, digest=_digest(statistics), **statistics._asdict())
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f'{path} cannot be written ({error.strerror or error}): make room there or choose another '
                         f'directory.') from error
