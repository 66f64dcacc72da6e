"""The training images that are nearest to an image in a layer's space, beside the nearest in pixel space."""
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from lib.data import augment, batches
from lib.data.sources import Split
from lib.data.statistics import Statistics, require_fits
from lib.experiment import Data
from lib.layers import at_least_float32
from lib.visualize import GREY, MARGIN, OTHER, SAME, Sheet, class_name, crop
from lib.visualize.request import Method, Request

PIXELS = 'pixels'
QUERIES = 5
LARGE, SIDE, GAP = 220, 132, 12


def look(request: Request, options: None, picture: Path) -> tuple[dict[str, Any], str]:
    layer, (split, at) = request.chosen_layer(), request.examples(QUERIES)
    found = of_images(request, layer, split, at)
    lines = [request.network.origin, f'{len(at)} images of {split.name}, central crop of {request.size} pixels',
             f'neighbours: {len(request.train):,} images of {request.train.name}']
    draw(found, split, request.train, request.data, f'Nearest training images in {layer}', lines, picture)
    return {'layer': layer, 'data': split.name, 'images': at.tolist(), 'train': request.train.name} | found, \
        statement(found)


def of_images(request: Request, layer: str, split: Split, at: np.ndarray, count: int = 6) -> dict[str, Any]:
    """`measure` among the images that a network was trained on."""
    return measure(request.network.task.activations, layer, request.params, request.network.statistics, request.data,
                   split, at, request.train, request.batch_size, count)


def measure(activations: Callable, layer: str, params, statistics: Statistics, data: Data, queries: Split,
            at: np.ndarray, train: Split, batch_size: int, count: int = 6) -> dict[str, Any]:
    """The `count` images of `train` whose vectors have the smallest Euclidean distance to that of a query.

    The vectors are what `activations(params, images)` has under `layer`, maps flattened, and beside it the pixels
    themselves, 0 to 255, both of the central crop. Of equal distances the first image leads. `train` is read once, in
    batches, so memory does not grow with it.

    {'chance', 'queries': [{'image', 'label', 'name', 'nearest': {layer: [{'image', 'label', 'name', 'distance'}, ...],
    'pixels': [...]}}, ...]}; 'chance' is the mean share of `train` that has the label of a query.

    Args:
      at: the numbers of the query images in `queries`.

    Raises:
      UsageError: if the images do not fit the mean image or the crop.
    """
    require_fits(statistics, queries)
    require_fits(statistics, train)
    vectors = functools.partial(_vectors, activations, layer, data, params, statistics)
    # A batch like any other: another size would round otherwise, and an image would not be its own neighbour.
    chosen = [jax.tree.map(lambda v: v[0], vectors(np.repeat(queries.images[[i]], batch_size, axis=0))) for i in at]
    chosen = jax.tree.map(lambda *rows: jnp.stack(rows), *chosen)
    nearest = np.zeros((2, len(at), 0), np.int64)
    smallest = np.zeros((2, len(at), 0), np.float32)
    steps = track(enumerate(batches.evaluation(train, batch_size, None)), f'Looking at {len(train):,} training images',
                  total=-(-len(train) // batch_size), console=Console(stderr=True), transient=True)
    for step, (images, _, mask) in steps:
        new = np.stack(jax.device_get(_distances(vectors(images), chosen)))[..., mask]
        number = np.broadcast_to(step * batch_size + np.arange(new.shape[-1]), new.shape)
        smallest, nearest = np.concatenate([smallest, new], -1), np.concatenate([nearest, number], -1)
        keep = np.argsort(smallest, axis=-1, kind='stable')[..., :count]
        smallest, nearest = (np.take_along_axis(a, keep, -1) for a in (smallest, nearest))
    return {'chance': float(np.mean(train.labels == queries.labels[at][:, None])),
            'queries': [_describe(queries, i) | {'nearest': {
                space: [_describe(train, n) | {'distance': float(d)} for n, d in zip(nearest[s, q], smallest[s, q])]
                for s, space in enumerate((layer, PIXELS))}} for q, i in enumerate(at)]}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _vectors(activations, layer, data, params, statistics, images):
    crops = augment.centre(images, statistics, data)
    features = at_least_float32(activations(params, crops)[layer])
    return features.reshape(len(images), -1), data.pixel_scale * crops.reshape(len(images), -1)


@jax.jit
def _distances(vectors, queries):
    """Pairs of [queries, n]. Differences are squared themselves, one query at a time: |a|^2 - 2ab + |b|^2 would be
    shorter, but gives an image a distance from itself."""
    return [jax.lax.map(lambda query, v=v: jnp.sqrt(jnp.square(v - query).sum(1)), q) for v, q in zip(vectors, queries)]


def _describe(split: Split, number: int) -> dict[str, Any]:
    label = int(split.labels[number])
    return {'image': int(number), 'label': label, 'name': class_name(split, label)}


def statement(found: dict[str, Any]) -> str:
    """An image at distance 0 is the query itself, and is not counted."""
    if all(query['label'] < 0 for query in found['queries']):
        return 'The images have no labels to compare with those of their neighbours.'
    counts = []
    for space in found['queries'][0]['nearest']:
        right = [entry['label'] == query['label'] for query in found['queries'] for entry in query['nearest'][space]
                 if entry['distance'] > 0]
        counts.append(f'{sum(right)} of {len(right)} in {_words(space)}')
    return f'Nearest images with the label of the query: {", ".join(counts)} ({100 * found["chance"]:.1f} % by chance).'


def draw(found: dict[str, Any], queries: Split, train: Split, data: Data, title: str, lines: Sequence[str],
         path: Path) -> None:
    """Draws each query at the left; beside it its neighbours in the layer above those in pixel space, the nearest
    first, with labels below: blue if it is that of the query."""
    count = max(len(entries) for query in found['queries'] for entries in query['nearest'].values())
    tall = 2 * (SIDE + 44) + 24
    sheet = Sheet(LARGE + 30 + count * (SIDE + GAP) - GAP, len(found['queries']) * tall - 24, title, lines)
    for i, query in enumerate(found['queries']):
        y = sheet.top + i * tall
        sheet.image(MARGIN, y + 20, LARGE, LARGE, crop(queries.images[query['image']], data.image_size))
        sheet.text(MARGIN + LARGE / 2, y + 20 + LARGE + 6, query['name'], LARGE, size=15, weight='bold', ha='center')
        for j, (space, entries) in enumerate(query['nearest'].items()):
            top = y + j * (SIDE + 44)
            sheet.text(MARGIN + LARGE + 30, top, f'nearest in {_words(space)}', 400, color=GREY)
            for k, entry in enumerate(entries):
                x = MARGIN + LARGE + 30 + k * (SIDE + GAP)
                sheet.image(x, top + 20, SIDE, SIDE, crop(train.images[entry['image']], data.image_size))
                colour = SAME if entry['label'] == query['label'] else OTHER
                sheet.text(x + SIDE / 2, top + 20 + SIDE + 4, entry['name'], SIDE + GAP - 4, color=colour, ha='center')
    sheet.save(path)


def _words(space: str) -> str:
    return 'pixel space' if space == PIXELS else space


METHOD = Method(look, takes=frozenset({'layer', 'images'}))
