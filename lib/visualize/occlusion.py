"""What a network says while a grey square hides a part of the image, for every place of the square (Zeiler and Fergus
2013, section 4.2 and Figure 7)."""
import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from rich.console import Console
from rich.progress import track

from lib.data import augment
from lib.experiment import require
from lib.visualize import GREY, MARGIN, OTHER, SAME, Sheet
from lib.visualize.request import Method, Request

EXAMPLES = 3
DRAWN = 12              # rows of a picture at most
SIDE, GAP, LINE = 202, 14, 20
BELOW = 4               # lines of text below a panel, or more if its classes are
OTHERS = (OTHER, '#4c9f70', '#8a5fb0', '#c9a227')      # of classes other than the true one, the commonest first
SHADES = matplotlib.colormaps['viridis']


@dataclasses.dataclass(frozen=True)
class Options:
    """The paper gives neither the size of its square, nor its steps, nor the grey: these are our choices."""
    square: int | None = None       # pixels a side; none for a fifth of the image
    stride: int | None = None       # pixels between places, at most; none for a fifteenth of the image
    grey: int = 128                 # of the square, 0 to 255

    def __post_init__(self):
        require(self.square is None or self.square >= 1, f'occlusion.square={self.square} must be at least 1, or none.')
        require(self.stride is None or self.stride >= 1, f'occlusion.stride={self.stride} must be at least 1, or none.')
        require(0 <= self.grey <= 255, f'occlusion.grey={self.grey} must be 0 to 255.')


class Hidden(NamedTuple):
    """What the network says of one image without the square, and with it at each of n x n places."""
    label: int                  # the true class
    unit: int                   # of the layer: the strongest map without the square, or the one asked for
    before: tuple[float, int, float]    # probability of the true class, most likely class, total activity of the map
    probability: np.ndarray     # float32 [n, n]
    likely: np.ndarray          # int64 [n, n]
    activity: np.ndarray        # float32 [n, n]

    @property
    def worst(self) -> tuple[int, int]:
        """Row and column of the place with the smallest probability, the first of equal ones."""
        row, column = np.unravel_index(self.probability.argmin(), self.probability.shape)
        return int(row), int(column)


def last_maps(request: Request) -> str:
    """The last layer that has more than one place, or the last with a place."""
    layers = request.geometry.layers
    several = [layer.name for layer in layers if layer.has_places and math.prod(layer.size[:-1]) > 1]
    return several[-1] if several else request.geometry.last_maps.name


def side(square: int | None, size: int) -> int:
    """Pixels a side of the square: as set, or a fifth of the image's.

    Raises:
      UsageError: if it is larger than the image.
    """
    require((square or 0) <= size, f'square={square} is larger than the image of {size} pixels: choose less.')
    return square or max(1, round(size / 5))


def corners(size: int, square: int, stride: int) -> np.ndarray:
    """int64 [n]: the first row (or column) of the square at places at most `stride` pixels from each other, whose
    middles are spread evenly over the image. At its edges, a part of the square lies outside."""
    count = -(-size // stride)
    return np.floor((np.arange(count) + 0.5) * size / count - square / 2 + 0.5).astype(np.int64)


def cover(images: jax.Array, first: jax.Array, square: int, grey: float) -> jax.Array:
    """float32 [n, S, S, 3]: images with a grey square whose first rows and columns are `first` [n, 2]."""
    at = jnp.arange(images.shape[1]) - first[..., None]
    rows, columns = jnp.moveaxis((at >= 0) & (at < square), 1, 0)
    hidden = rows[:, :, None] & columns[:, None, :]
    return jnp.where(hidden[..., None], jnp.float32(grey), images)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _hide(predict, activations, layer, data, square, params, statistics, image, first, grey, label):
    """For one image [S, S, 3] and the square at p places [p, 2]: probability of the true class [p], the most likely
    class [p], total activity of every map of the layer [p, units]."""
    images = cover(jnp.broadcast_to(image, (len(first), *image.shape)), first, square, grey)
    entered = augment.centre(images, statistics, data)
    probabilities = predict(params, entered)
    maps = activations(params, entered)[layer]
    total = maps.reshape(len(maps), -1, maps.shape[-1]).astype(jnp.float32).sum(1)
    return probabilities[:, label], probabilities.argmax(1), total


def hide(request: Request, layer: str, square: int, stride: int, grey: float, pixels: np.ndarray,
         labels: np.ndarray) -> list[Hidden]:
    """What is said of each image [n, S, S, 3] with true classes [n]. Images with the square are made on the device, as
    many at once as an evaluation takes or fewer."""
    line = corners(request.size, square, stride)
    outside = (request.size, request.size)      # where the square hides nothing
    places = np.array([outside, *((row, column) for row in line for column in line)], np.int64)
    batches = -(-len(places) // request.batch_size)
    size = -(-len(places) // batches)
    places = np.pad(places, ((0, size * batches - len(places)), (0, 0)), mode='edge').reshape(batches, size, 2)
    found = []
    for image, part in track([(image, part) for image in range(len(pixels)) for part in range(batches)],
                             f'Hiding {len(line)} x {len(line)} places of {len(pixels):,} images',
                             console=Console(stderr=True), transient=True):
        found.append(jax.device_get(_hide(
            request.network.task.predict, request.network.task.activations, layer, request.data, square, request.params,
            request.cropped, pixels[image], places[part], np.float32(grey), labels[image])))
    return [_hidden(request, int(labels[image]), len(line), found[image * batches:(image + 1) * batches])
            for image in range(len(pixels))]


def _hidden(request: Request, label: int, count: int, found: Sequence[tuple[np.ndarray, ...]]) -> Hidden:
    probability, likely, activity = (np.concatenate(part)[:count ** 2 + 1] for part in zip(*found))
    unit = request.unit[0] if request.unit else int(activity[0].argmax())
    activity = activity[:, unit]
    return Hidden(label, unit, (float(probability[0]), int(likely[0]), float(activity[0])),
                  *(array[1:].reshape(count, count) for array in (probability, likely.astype(np.int64), activity)))


def look(request: Request, options: Options, picture: Path) -> tuple[dict[str, Any], str]:
    """Raises UsageError if more than one unit is asked for, or what is asked for is not there."""
    layer = request.chosen_layer(last_maps(request))
    require(len(request.unit) < 2, '--method=occlusion shows one map of the layer: name one --unit, or none for the '
                                   'strongest.')
    request.units(layer, 1)
    split, at = request.examples(EXAMPLES)
    square = side(options.square, request.size)
    stride = options.stride or max(1, round(request.size / 15))
    pixels = request.pixels(split, at)
    found = hide(request, layer, square, stride, options.grey, pixels, request.true_classes(split, at))
    middles = corners(request.size, square, stride) + square // 2
    images = [_described(request, int(number), one, middles) for number, one in zip(at, found)]
    numbers = {'layer': layer, 'units': [one.unit for one in found], 'data': split.name, 'images': images,
               'square': square, 'grey': options.grey, 'image_size': request.size, 'middles': middles.tolist(),
               'table': _table(images, layer)}
    draw(request, numbers, found, split.labels[at], pixels, picture)
    return numbers, statement(numbers)


def _described(request: Request, number: int, one: Hidden, middles: np.ndarray) -> dict[str, Any]:
    """{'image', 'label', 'name', 'unit', 'without', 'worst': {...}, 'other': share of places where another class is the
    most likely, 'maps'}"""
    probability, likely, activity = one.before
    row, column = one.worst
    return {'image': number, 'label': one.label, 'name': request.class_name(one.label), 'unit': one.unit,
            'without': {'probability': probability, 'likely': request.class_name(likely), 'activity': activity},
            'worst': {'probability': float(one.probability.min()), 'row': int(middles[row]),
                      'column': int(middles[column]), 'likely': request.class_name(int(one.likely[row, column]))},
            'activity': [float(one.activity.min()), float(one.activity.max())],
            'other': float((one.likely != one.label).mean()),
            'maps': {'probability': one.probability.tolist(), 'likely': one.likely.tolist(),
                     'activity': one.activity.tolist()}}


def _table(images: Sequence[dict[str, Any]], layer: str) -> dict[str, Any]:
    rows = [[image['image'], image['name'], f'{image["without"]["probability"]:.3f}',
             f'{image["worst"]["probability"]:.3f}', f'{image["worst"]["row"]}, {image["worst"]["column"]}',
             image['worst']['likely'], f'{100 * image["other"]:.0f} %', image['unit'],
             f'{image["without"]["activity"]:.4g}', '{:.4g} to {:.4g}'.format(*image['activity'])] for image in images]
    return {'columns': ['image', 'true class', 'its probability', 'at the worst place', 'row, column',
                        'most likely there', 'another class', f'map of {layer}', 'its activity', 'with the square'],
            'rows': rows}


def statement(numbers: dict[str, Any]) -> str:
    images, square = numbers['images'], numbers['square']
    drops = [image['without']['probability'] - image['worst']['probability'] for image in images]
    image = images[int(np.argmax(drops))]
    several = f', by {np.mean(drops):.2f} in the mean of {len(images)} images' if len(images) > 1 else ''
    without, worst = image['without'], image['worst']
    return (f'A grey square of {square} of {numbers["image_size"]} pixels lowers the probability of the true class, at '
            f'the worst of {len(numbers["middles"]) ** 2} places{several}; most in image {image["image"]}, '
            f'{image["name"]}, from {without["probability"]:.3f} to {worst["probability"]:.3f} with its middle at row '
            f'{worst["row"]}, column {worst["column"]}. Another class than the true one is the most likely at '
            f'{100 * np.mean([image["other"] for image in images]):.0f} % of the places.')


# ------------------------------------------------------------------------------------------------------- pictures

def draw(request: Request, numbers: dict[str, Any], found: Sequence[Hidden], labels: np.ndarray, pixels: np.ndarray,
         path: Path) -> None:
    """Draws an image a row: with the square where the true class is least likely, and the three maps, in which a cell
    lies where the middle of the square was."""
    square, layer, size = numbers['square'], numbers['layer'], numbers['image_size']
    drawn = list(zip(numbers['images'], found, labels, pixels))[:DRAWN]
    legends = [_legend(request, one) for _, one, _, _ in drawn]
    tall = SIDE + max(BELOW, *map(len, legends)) * LINE + 26
    rest = f'; the first {len(drawn)} are drawn' if len(drawn) < len(found) else ''
    sheet = Sheet(4 * (SIDE + GAP) - GAP, 24 + len(drawn) * tall - 20, 'What a grey square hides', [
        request.network.origin, f'{len(found)} image{"s" * (len(found) > 1)} of {numbers["data"]}{rest}',
        f'a square of {square} of {size} pixels, of grey {numbers["grey"]}; a cell of a map lies where its middle was'])
    left = [MARGIN + k * (SIDE + GAP) for k in range(4)]
    for x, heading in zip(left, ('the image', 'p(true class)', 'most likely class', f'a map of {layer}')):
        sheet.text(x, sheet.top, heading, SIDE, size=15, weight='bold')
    for i, ((image, one, label, own), legend) in enumerate(zip(drawn, legends)):
        y, worst = sheet.top + 24 + i * tall, image['worst']
        sheet.image(left[0], y, SIDE, SIDE, own)
        _frame(sheet, left[0], y, size, worst['row'] - square // 2, worst['column'] - square // 2, square)
        no_label = ['no label: most likely'] if label < 0 else []
        _lines(sheet, left[0], y, [f'{image["image"]}: {image["name"]}', *no_label, 'orange: the worst place,',
                                   f'row {worst["row"]}, column {worst["column"]}'])
        probability, likely, activity = one.before
        _shade(sheet, left[1], y, one.probability, '.3f')
        _lines(sheet, left[1], y + LINE, [f'{probability:.3f} without the square'])
        _classes(sheet, left[2], y, one, legend)
        _shade(sheet, left[3], y, one.activity, '.4g')
        _lines(sheet, left[3], y + LINE, [f'{activity:.4g} without the square', f'total activity of map {one.unit},',
                                          'as asked for' if request.unit else 'the strongest without it'])
    sheet.save(path)


def _lines(sheet: Sheet, x: float, y: float, lines: Sequence[str]) -> None:
    for k, line in enumerate(lines):
        sheet.text(x, y + SIDE + 6 + k * LINE, line, SIDE, size=14, color='black' if k == 0 else GREY)


def _frame(sheet: Sheet, x: float, y: float, size: int, row: int, column: int, square: int) -> None:
    """The outline of the square on an image that is drawn at x, y, without what lies outside the image."""
    low, high = (np.clip(np.array([column, row]) + extra, 0, size) * SIDE / size for extra in (0, square))
    sheet.axes.add_patch(Rectangle((x + low[0], y + low[1]), *(high - low), fill=False, color=OTHER, linewidth=2))


def _shade(sheet: Sheet, x: float, y: float, found: np.ndarray, form: str) -> None:
    """A map on its own scale, with the scale below."""
    low, high = float(found.min()), float(found.max())
    sheet.image(x, y, SIDE, SIDE, SHADES((found - low) / ((high - low) or 1))[..., :3])
    room = SIDE * 0.3
    sheet.text(x, y + SIDE + 6, format(low, form), room, size=14)
    sheet.text(x + SIDE, y + SIDE + 6, format(high, form), room, size=14, ha='right')
    sheet.image(x + room, y + SIDE + 8, SIDE - 2 * room, 12, SHADES(np.linspace(0, 1, 64))[None, :, :3])


class Entry(NamedTuple):
    """Of a legend."""
    colour: str
    name: str
    classes: list[int]


def _legend(request: Request, one: Hidden) -> list[Entry]:
    """The true class in blue, the commonest others in colours of their own, the rest in grey."""
    there, counts = np.unique(one.likely, return_counts=True)
    others = [int(label) for label in there[np.argsort(-counts, kind='stable')] if label != one.label]
    named, rest = [one.label, *others[:len(OTHERS)]], others[len(OTHERS):]
    entries = [Entry(colour, request.class_name(label), [label]) for label, colour in zip(named, (SAME, *OTHERS))]
    return entries + [Entry(GREY, f'{len(rest)} more', rest)] * (len(rest) > 0)


def _classes(sheet: Sheet, x: float, y: float, one: Hidden, legend: Sequence[Entry]) -> None:
    """The most likely classes, and below which colour is which and in what share of the places."""
    colours = {label: to_rgb(entry.colour) for entry in legend for label in entry.classes}
    sheet.image(x, y, SIDE, SIDE, np.array([[colours[int(label)] for label in row] for row in one.likely]))
    for k, entry in enumerate(legend):
        below = y + SIDE + 6 + k * LINE
        sheet.box(x, below + 2, 12, 12, entry.colour)
        sheet.text(x + 18, below, entry.name, SIDE - 66, size=14)
        share = 100 * np.isin(one.likely, entry.classes).mean()
        said = '<1 %' if 0 < share < 0.5 else f'{share:.0f} %'
        sheet.text(x + SIDE, below, said, 46, size=14, ha='right', color=GREY)


METHOD = Method(look, takes=frozenset({'layer', 'unit', 'images'}), options=Options())
