"""Images with the classes that a network finds most likely."""
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lib.data import augment
from lib.data.sources import Split
from lib.data.statistics import Statistics, require_fits
from lib.experiment import Data
from lib.visualize import FAINT, MARGIN, OTHER, SAME, Sheet, class_name, crop

TOP = 5
COLUMNS, SIDE, GAP, BAR = 4, 224, 22, 22


def measure(predict: Callable, params, statistics: Statistics, data: Data, split: Split,
            at: np.ndarray) -> dict[str, Any]:
    """The five most likely classes (all, where there are fewer) of the images at the numbers `at` of the split, under
    its central crop; of equal probabilities the first class leads, as in an evaluation.

    {'images': [{'image', 'label', 'name', 'top': [{'label', 'name', 'probability'}, ...]}, ...]}

    Raises:
      UsageError: if the images do not fit the mean image or the crop.
    """
    require_fits(statistics, split)
    probabilities, labels = jax.device_get(_most_likely(predict, data, params, split.images[at], statistics))
    return {'images': [
        {'image': int(number), 'label': int(split.labels[number]), 'name': class_name(split, split.labels[number]),
         'top': [{'label': int(label), 'name': class_name(split, label), 'probability': float(probability)}
                 for label, probability in zip(*best)]}
        for number, *best in zip(at, labels, probabilities)]}


@functools.partial(jax.jit, static_argnames=('predict', 'data'))
def _most_likely(predict, data, params, images, statistics):
    probabilities = predict(params, augment.centre(images, statistics, data))
    return jax.lax.top_k(probabilities, min(TOP, probabilities.shape[1]))


def statement(found: dict[str, Any]) -> str:
    places = [[entry['label'] for entry in image['top']].index(image['label']) + 1
              if image['label'] in {entry['label'] for entry in image['top']} else None for image in found['images']]
    most = max(len(image['top']) for image in found['images'])
    return (f'Of {len(places)} images, {places.count(1)} have their label as the most likely class and '
            f'{len(places) - places.count(None)} among the {most} most likely, under the central crop.')


def draw(found: dict[str, Any], split: Split, data: Data, title: str, lines: Sequence[str], path: Path) -> None:
    """Draws each image, its label below, and bars as long as the probabilities; the label's own is in blue."""
    images = found['images']
    columns = min(COLUMNS, len(images))
    tall = SIDE + 30 + BAR * max(len(image['top']) for image in images) + 26
    sheet = Sheet(columns * (SIDE + GAP) - GAP, -(-len(images) // columns) * tall - 26, title, lines)
    for i, image in enumerate(images):
        x, y = MARGIN + i % columns * (SIDE + GAP), sheet.top + i // columns * tall
        sheet.image(x, y, SIDE, SIDE, crop(split.images[image['image']], data.image_size))
        sheet.text(x + SIDE / 2, y + SIDE + 6, image['name'], SIDE, size=15, weight='bold', ha='center')
        for j, entry in enumerate(image['top']):
            y_bar = y + SIDE + 30 + j * BAR
            colour = SAME if entry['label'] == image['label'] else OTHER
            sheet.box(x, y_bar, SIDE, BAR - 3, FAINT)
            sheet.box(x, y_bar, SIDE * entry['probability'], BAR - 3, colour + '70')
            sheet.text(x + 5, y_bar + 3, entry['name'], SIDE - 62)
            sheet.text(x + SIDE - 5, y_bar + 3, f'{100 * entry["probability"]:.1f} %', 52, ha='right')
    sheet.save(path)
