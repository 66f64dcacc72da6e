"""Images with the classes that a network finds most likely and, of a layer, those of the nearest training images."""
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
from lib.visualize import FAINT, MARGIN, OTHER, SAME, Sheet, class_name, crop, neighbours
from lib.visualize.request import Method, Request

TOP = 5
IMAGES, NEAREST = 8, 50     # training images that vote, with --layer
COLUMNS, SIDE, GAP, BAR = 4, 224, 22, 22


def look(request: Request, options: None, picture: Path) -> tuple[dict[str, Any], str]:
    """With --layer, beside the network's own probabilities, the shares of classes among the images of the training
    split that are nearest in that layer's space."""
    split, at = request.examples(IMAGES)
    found = measure(request.network.task.predict, request.params, request.network.statistics, request.data, split, at)
    said, layer = [], request.layer and request.chosen_layer()
    if layer:
        nearest = min(NEAREST, len(request.train))
        near = neighbours.of_images(request, layer, split, at, nearest)
        for image, query in zip(found['images'], near['queries']):
            image['votes'] = votes([entry['label'] for entry in query['nearest'][layer]], request.train)
        right = [image['votes'][0]['label'] == image['label'] for image in found['images']]
        said = [f'The commonest label of the {nearest} images of {request.train.name} that are nearest in {layer} is '
                f"the image's own for {sum(right)}; the lower bars are shares among these."]
    lines = [request.network.origin, f'{len(at)} images of {split.name}, central crop of {request.size} pixels', *said]
    draw(found, split, request.data, 'The most likely classes', lines, picture)
    return {'layer': layer, 'data': split.name} | found, ' '.join([statement(found), *said])


def votes(labels: Sequence[int], train: Split) -> list[dict[str, Any]]:
    """The five commonest of some labels with their shares, as entries of `measure`; of equal ones the first leads."""
    classes, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind='stable')[:TOP]
    return [{'label': int(classes[i]), 'name': class_name(train, classes[i]), 'probability': counts[i] / len(labels)}
            for i in order]


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
    if all(image['label'] < 0 for image in found['images']):
        seen = ', '.join(f'{image["top"][0]["name"]} ({100 * image["top"][0]["probability"]:.0f} %)'
                         for image in found['images'])
        return f'Most likely in these {len(places)} images without labels, under the central crop: {seen}.'
    return (f'Of {len(places)} images, {places.count(1)} have their label as the most likely class and '
            f'{len(places) - places.count(None)} among the {most} most likely, under the central crop.')


def draw(found: dict[str, Any], split: Split, data: Data, title: str, lines: Sequence[str], path: Path) -> None:
    """Draws each image, its label below, and bars as long as the probabilities, then as the shares; the label's own are
    in blue."""
    images = found['images']
    columns = min(COLUMNS, len(images))
    bars = max(len(image['top']) for image in images)
    tall = SIDE + 30 + BAR * bars + 26 + (BAR * TOP + 8 if 'votes' in images[0] else 0)
    sheet = Sheet(columns * (SIDE + GAP) - GAP, -(-len(images) // columns) * tall - 26, title, lines)
    for i, image in enumerate(images):
        x, y = MARGIN + i % columns * (SIDE + GAP), sheet.top + i // columns * tall
        sheet.image(x, y, SIDE, SIDE, crop(split.images[image['image']], data.image_size))
        sheet.text(x + SIDE / 2, y + SIDE + 6, image['name'], SIDE, size=15, weight='bold', ha='center')
        _bars(sheet, x, y + SIDE + 30, image['label'], image['top'])
        _bars(sheet, x, y + SIDE + 38 + BAR * bars, image['label'], image.get('votes', []))
    sheet.save(path)


def _bars(sheet: Sheet, x: float, y: float, label: int, entries: Sequence[dict[str, Any]]) -> None:
    for j, entry in enumerate(entries):
        top, colour = y + j * BAR, SAME if entry['label'] == label else OTHER
        sheet.box(x, top, SIDE, BAR - 3, FAINT)
        sheet.box(x, top, SIDE * entry['probability'], BAR - 3, colour + '70')
        sheet.text(x + 5, top + 3, entry['name'], SIDE - 70)
        sheet.text(x + SIDE - 5, top + 3, f'{100 * entry["probability"]:.1f} %', 60, ha='right')


METHOD = Method(look, takes=frozenset({'layer', 'images'}))
