"""How much of the classes each layer tells: a linear classifier fitted on the outputs of one layer after the other
(Zeiler and Fergus 2013, section 5.3 and Table 7).

The paper's network was trained on ImageNet, and the classifiers on Caltech-101 and 256. Here they are fitted on the
training images of the network itself, or of other data: --set data.source=folder:~/caltech101.
"""
import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from lib import features
from lib.data import sources
from lib.data.sources import Split
from lib.experiment import require
from lib.geometry import Geometry
from lib.visualize import FAINT, GREY, MARGIN, OTHER, SAME, Sheet
from lib.visualize.request import Method, Request

MOST = 7                # layers by default, if the sizes of maps allow
NAME, BAR, TALL = 170, 380, 34      # pixels: of a row


@dataclasses.dataclass(frozen=True)
class Options:
    layers: tuple[str, ...] = ()        # none: see `stages`
    classifiers: tuple[str, ...] = ('svm',)     # of svm and softmax
    train: int = 2000                   # images at most that a classifier is fitted on, as many of each class
    examples: int | None = None         # images at most that it is judged on, evenly spaced; None for all

    def __post_init__(self):
        for name in self.classifiers:
            require(name in features.CLASSIFIERS, f'table7.classifiers: {name} is not one of '
                                                  f'{", ".join(features.CLASSIFIERS)}.')
        require(len(self.classifiers) > 0, 'table7.classifiers is empty: name svm, softmax or both.')
        require(self.train >= 2, f'table7.train={self.train} must be at least 2.')
        require(self.examples is None or self.examples >= 1, f'table7.examples={self.examples} must be at least 1.')


def stages(geometry: Geometry) -> tuple[str, ...]:
    """The last layer before each convolution or fully connected layer, where nothing goes past it; of more than MOST,
    of those with maps only the first of each size that is smaller than the image, and the last."""
    number = {layer.name: i for i, layer in enumerate(geometry.layers)}
    reads = [[number.get(name, -1) for name in layer.reads] for layer in geometry.layers]
    found = [before for i, (before, after) in enumerate(itertools.pairwise(geometry.layers))
             if not after.is_pooling and after.kind not in ('subsampling', 'elementwise', 'normalisation')
             and min(itertools.chain(*reads[i + 1:])) >= i]
    if len(found) > MOST:
        sizes, kept = {(geometry.image_size,) * 2}, []
        for layer in found:
            if not layer.has_places or layer.size[:-1] not in sizes or layer is found[-1]:
                kept.append(layer)
            sizes.add(layer.size[:-1])
        found = kept
    return tuple(layer.name for layer in found)


def balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """int64: the numbers of `count` images at most, in their order, with as many of each class as there are: the first
    of every class, then the second ones."""
    turn = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        own = labels == label
        turn[own] = np.arange(own.sum())
    return np.sort(np.argsort(turn, kind='stable')[:count])


def selected(split: Split, at: np.ndarray) -> Split:
    return Split(split.name, split.images[at], split.labels[at], split.class_names)


def measure(request: Request, layers: Sequence[str], classifiers: Sequence[str], train: Split,
            judged: Split) -> list[dict[str, Any]]:
    """What features.measure finds for each layer and classifier, with their names.

    Raises:
      UsageError: if a class has one training image only, or there is no room for the features.
    """
    for layer in layers:
        features.require_room(layer, math.prod(request.geometry[layer].size), len(train), len(judged), request.scratch,
                              'set table7.train and table7.examples lower, or choose other table7.layers.')
    _, counts = np.unique(train.labels, return_counts=True)
    require(counts.min() >= 2, f'A class has only one of the {len(train):,} training images, and some have to choose '
                               'C: set table7.train higher.')
    task, network = request.network.task, request.network
    return [{'layer': layer, 'classifier': classifier} |
            features.measure(task.activations, layer, network.params, network.statistics, request.data, train, judged,
                             classifier, request.batch_size, request.scratch)
            for layer in layers for classifier in classifiers]


def look(request: Request, options: Options, picture: Path) -> tuple[dict[str, Any], str]:
    asked = (request.layer,) if request.layer else options.layers
    for layer in asked:
        require(layer in request.layers, f'table7.layers: {layer} is not in this network: choose of '
                                         f'{", ".join(request.layers)}.')
    layers = asked or stages(request.geometry)
    # The classes need not be those of the network: the classifiers are new.
    train, judged = sources.load(request.data, request.data_dir, request.cache)
    train = selected(train, balanced(train.labels, options.train))
    if options.examples is not None and options.examples < len(judged):
        count = options.examples
        judged = selected(judged, (2 * np.arange(count) + 1) * len(judged) // (2 * count))
    rows = measure(request, layers, options.classifiers, train, judged)
    found = {'layers': list(layers), 'data': judged.name, 'train': train.name, 'train_examples': len(train),
             'examples': len(judged), 'class_chance': 100 / len(np.unique(judged.labels)), 'rows': rows,
             'table': {'columns': ['Layer', 'Classifier', 'Outputs', 'C', 'Error, %', 'Accuracy, mean over classes, %'],
                       'rows': [[row['layer'], row['classifier'], f'{row["dimensions"]:,}', f'{row["C"]:g}',
                                 f'{row["error"]:.1f}', f'{row["class_accuracy"]:.1f}'] for row in rows]}}
    draw(request, found, picture)
    return found, statement(found)


def statement(found: dict[str, Any]) -> str:
    rows = found['rows']
    best = max(rows, key=lambda row: row['class_accuracy'])
    said = (f'Linear classifiers on {len(found["layers"])} layers, fitted on {found["train_examples"]:,} images of '
            f'{found["train"]} and judged on {found["examples"]:,} of {found["data"]}. ')
    if len(rows) == 1:
        return f'{said}{_words(best)} (chance {found["class_chance"]:.1f} %).'
    return (f'{said}Best: {_words(best)}; first: {_words(rows[0])}; last: {_words(rows[-1])} (chance '
            f'{found["class_chance"]:.1f} %).')


def _words(row: dict[str, Any]) -> str:
    return f'{row["classifier"]} on {row["layer"]}, {row["class_accuracy"]:.1f} % accuracy as the mean over classes'


def draw(request: Request, found: dict[str, Any], path: Path) -> None:
    """A bar a layer and classifier: the accuracy as the mean over classes, with a line at chance."""
    rows = found['rows']
    sheet = Sheet(NAME + BAR + NAME, 26 + len(rows) * TALL + 30, 'What a linear classifier makes of each layer', [
        request.network.origin, f'fitted on {found["train_examples"]:,} images of {found["train"]}',
        f'judged on {found["examples"]:,} images of {found["data"]}'])
    left, top = MARGIN + NAME, sheet.top + 26
    sheet.text(left, sheet.top, 'accuracy as the mean over classes, %', BAR, size=14, color=GREY)
    sheet.text(left + BAR + 10, sheet.top, 'outputs', NAME - 10, size=14, color=GREY)
    for i, row in enumerate(rows):
        y, long = top + i * TALL, BAR * row['class_accuracy'] / 100
        sheet.box(left, y, BAR, TALL - 8, FAINT)
        bar = SAME if row['classifier'] == 'svm' else OTHER
        sheet.axes.add_patch(Rectangle((left, y), long, TALL - 8, color=bar, linewidth=0))
        name = row['layer'] + f', {row["classifier"]}' * (len({row['classifier'] for row in rows}) > 1)
        sheet.text(left - 10, y + 3, name, NAME - 10, size=15, ha='right')
        inside = long > BAR / 2
        sheet.text(left + long + (-8 if inside else 8), y + 3, f'{row["class_accuracy"]:.1f}', 80, size=15,
                   ha='right' if inside else 'left', color='white' if inside else 'black')
        sheet.text(left + BAR + 10, y + 3, f'{row["dimensions"]:,}', NAME - 10, size=15, color=GREY)
    x, below = left + BAR * found['class_chance'] / 100, top + len(rows) * TALL
    sheet.axes.plot([x, x], [top - 2, below - 6], color='black', linewidth=1.2, linestyle=':')
    sheet.text(x, below - 2, f'chance: {found["class_chance"]:.1f}', 200, size=14, color=GREY)
    sheet.save(path)


METHOD = Method(look, takes=frozenset({'layer'}), options=Options())
