"""How much of the classes a layer of a trained network tells: a linear classifier is fitted on its outputs (Zeiler and
Fergus 2013, section 5.3).

The network is not trained. Images are seen under their central crop, once each.
"""
import functools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import track
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import LinearSVC

from lib import hardware
from lib.data import augment, batches
from lib.data.sources import Split
from lib.data.statistics import Statistics, require_fits
from lib.experiment import Data, require

CLASSIFIERS = {
    'svm': LinearSVC(random_state=0, max_iter=10_000),      # one class against the rest
    'softmax': LogisticRegression(max_iter=1000),
}
CS = (0.1, 1.0, 10.0, 100.0)            # the inverse strengths of regularisation that are tried
FOLDS = 5                               # one part in so many of the training images judges them
COLUMNS = 4096                          # numbers of a feature vector that are worked on at a time
RANK = 1e-10                            # directions with less than this part of the largest variance count as none
FLOAT32, FLOAT64 = 4, 8                 # bytes
FITTED, JUDGED = 5, 3                   # copies of the vectors of either set that `coordinates` and `fit` have at once


def measure(activations: Callable, layer: str, params, statistics: Statistics, data: Data, train: Split, judged: Split,
            classifier: str, batch_size: int, scratch: Path) -> dict[str, Any]:
    """The error on `judged` of a linear classifier that is fitted on the outputs of a layer for `train`.

    Args:
      activations: params, images -> outputs by layer; maps are flattened.
      classifier: 'svm' or 'softmax'.
      scratch: a folder in which the features lie while they are read, not in memory.

    {'dimensions', 'C', 'examples', 'wrong', 'error': % of the images, 'class_accuracy': % as the mean over classes,
    'classes': [{'name', 'images', 'right'}, ...]}.

    Raises:
      UsageError: if the images do not fit the mean image or the crop, a class has only one training image, or there
        is no room for the features.
    """
    for split in (train, judged):
        require_fits(statistics, split)
    require(len(np.unique(train.labels)) > 1, f'{train.name} has images of one class only, from which nothing can be '
                                              'told apart: choose more with data.train_split.')
    smallest = np.unique(train.labels, return_counts=True)[1].min()
    require(smallest >= 2, f'A class of {train.name} has only one image, and some of them have to choose C: set '
                           'data.train_per_class to at least 2.')
    vectors = functools.partial(_vectors, activations, layer, data, jax.device_put(params), statistics)
    require_room(layer, jax.eval_shape(vectors, train.images[:1]).shape[1], len(train), len(judged), scratch,
                 'choose fewer images with --set data.train_per_class=N, and with data.validation_per_class=N or '
                 'data.validation_split=NAME[:N].')
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        first, second = (extract(vectors, split, batch_size, Path(folder) / name)
                         for name, split in (('train', train), ('judged', judged)))
        dimensions = first.shape[1]
        first, second = coordinates(first, second)
    chosen = fit(first, train.labels, classifier, min(FOLDS, smallest))
    right = chosen.predict(second) == judged.labels
    assert len(right) == len(judged), f'judged {len(right)} images of {len(judged)}'
    classes = [{'name': judged.class_names[label], 'images': int((judged.labels == label).sum()),
                'right': int(right[judged.labels == label].sum())} for label in np.unique(judged.labels)]
    return {'dimensions': dimensions, 'C': chosen.best_params_['C'], 'examples': len(judged),
            'wrong': int((~right).sum()), 'error': 100 * float(np.mean(~right)),
            'class_accuracy': 100 * float(np.mean([c['right'] / c['images'] for c in classes])),
            'classes': classes}


def require_room(layer: str, dimensions: int, train: int, judged: int, scratch: Path, remedy: str) -> None:
    """Raises UsageError, which ends with the remedy, if the outputs of a layer for so many images do not fit the disk,
    or the classifier on them the memory."""
    free, needed = shutil.disk_usage(scratch).free, FLOAT32 * dimensions * (train + judged)
    require(needed < free, f'The outputs of {layer} for {train + judged:,} images take {needed / 2**30:.1f} GiB, and '
                           f'{scratch} has {free / 2**30:.1f}: {remedy}')
    memory = hardware.host_memory()
    needed = FLOAT64 * min(train, dimensions) * (FITTED * train + JUDGED * judged)
    require(needed < memory, f'A classifier on {layer}, fitted on {train:,} images and judged on {judged:,}, takes '
                             f'{needed / 2**30:.1f} GiB of memory, and this machine has {memory / 2**30:.1f}: {remedy}')


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _vectors(activations, layer, data, params, statistics, images):
    return activations(params, augment.centre(images, statistics, data))[layer].reshape(len(images), -1)


def extract(vectors: Callable, split: Split, batch_size: int, path: Path) -> np.ndarray:
    """float32 [n, d] in a file: `vectors(images)` of every image of the split, in its order."""
    found, done = None, 0
    steps = track(batches.evaluation(split, batch_size, None), f'Features of {len(split):,} images of {split.name}',
                  total=-(-len(split) // batch_size), console=Console(stderr=True), transient=True)
    for images, _, mask in steps:
        new = np.asarray(vectors(images))[mask]
        if found is None:
            found = np.memmap(path, np.float32, 'w+', shape=(len(split), new.shape[1]))
        found[done:done + len(new)] = new
        done += len(new)
    assert done == len(split), f'read {done} images of {len(split)}'
    return found


def coordinates(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sets of vectors [n, d] about the mean of the first and in one scale, in which those of the first have a mean
    square length of 1, so that the same C fits every layer; float64 [n, min(n, d)].

    Numbers are not scaled one by one, which would make as much of a unit that is hardly ever active as of the others.
    Where there are more numbers than vectors, vectors are given in a basis of what the first set spans: inner products
    there are the same, and all that a linear classifier with a squared penalty finds in them depends on those. Its
    time and memory then grow with the images, not with the 290,400 outputs of a layer.
    """
    n, d = first.shape
    mean = np.mean(first, axis=0, dtype=np.float64)
    blocks = [slice(start, start + COLUMNS) for start in range(0, d, COLUMNS)]
    if d <= n:
        first, second = first - mean, second - mean
    else:
        inner, across = np.zeros((n, n)), np.zeros((len(second), n))
        for block in track(blocks, 'Inner products', console=Console(stderr=True), transient=True):
            part = first[:, block] - mean[block]
            inner += part @ part.T
            across += (second[:, block] - mean[block]) @ part.T
        variances, directions = np.linalg.eigh(inner)
        spanned = variances > RANK * variances[-1]
        if not spanned.any():           # all vectors are the same, as those of a silent layer
            return np.zeros((n, 1)), np.zeros((len(second), 1))
        scale = np.sqrt(variances[spanned])
        first, second = directions[:, spanned] * scale, across @ directions[:, spanned] / scale
    length = np.sqrt(np.mean(np.square(first).sum(1)))
    length = length if length > 0 else 1.0
    first /= length
    second /= length
    return first, second


def fit(vectors: np.ndarray, labels: Sequence[int], classifier: str, folds: int = FOLDS) -> GridSearchCV:
    """The classifier on all the vectors, with the C of `CS` that is best on one part in `folds` of each class when it
    is fitted on the rest."""
    held_out = next(StratifiedKFold(folds).split(vectors, labels))
    return GridSearchCV(CLASSIFIERS[classifier], {'C': CS}, cv=[held_out]).fit(vectors, labels)


def statement(found: dict[str, Any]) -> str:
    return (f'{found["error"]:.1f} % error on {found["examples"]:,} images; {found["class_accuracy"]:.1f} % accuracy '
            f'as the mean over {len(found["classes"])} classes. {found["dimensions"]:,} features, C = {found["C"]:g}.')
