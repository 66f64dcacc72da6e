"""Whether hiding the same part of several images changes a network's features alike (Zeiler and Fergus 2013, section
4.3 and Table 1).

With x the features of image i and x~ those with the part hidden, e_i = x - x~; the measure is the Hamming distance of
sign(e_i) and sign(e_j), as a share of the features and in the mean over pairs of images. Less than with random places
hidden, here of the whole image and in the paper of the object, means that the network treats the parts as
corresponding. The positions that the paper used, on faces of dogs, are not public.
"""
import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.patches import Rectangle
from rich.console import Console
from rich.progress import track
from scipy.spatial.distance import pdist

from lib.data import augment
from lib.data.sources import Split
from lib.experiment import UsageError, require
from lib.visualize import FAINT, GREY, MARGIN, OTHER, SAME, Sheet, class_name
from lib.visualize.occlusion import cover, last_maps, side
from lib.visualize.request import Method, Request

RANDOM = 'random'
# Without a file of parts: these places, as parts of the image's height and width.
PLACES = {'centre': (0.5, 0.5), 'top left': (0.25, 0.25), 'top right': (0.25, 0.75), 'bottom left': (0.75, 0.25),
          'bottom right': (0.75, 0.75)}
# Zeiler and Fergus 2013, Table 1: mean at layers 5 and 7, for five images of dogs.
PUBLISHED = {'right eye': (0.067, 0.069), 'left eye': (0.069, 0.068), 'nose': (0.079, 0.069), RANDOM: (0.107, 0.073)}
ROUNDING = 1e-5         # of an image's greatest feature: a smaller change is none
COLOURS = (SAME, OTHER, '#4c9f70', '#8a5fb0', '#c9a227', '#b0417a', '#3aa6b9', '#7a5230')
DRAWN, COLUMNS, SIDE, GAP, BAR = 10, 5, 134, 12, 24


@dataclasses.dataclass(frozen=True)
class Options:
    """The paper does not give the size of its square or the grey: these are our choices."""
    parts: str | None = None    # a JSON file, {"IMAGE NUMBER": {"right eye": [ROW, COLUMN], ...}, ...}: the middles of
    #                             parts in pixels of the crop that the network sees; none for five fixed places
    square: int | None = None   # pixels a side; none for a fifth of the image
    grey: int = 128             # of the square, 0 to 255
    count: int = 5              # images, without a file of parts (Table 1)
    draws: int = 10             # random places in each image
    seed: int = 0               # of these

    def __post_init__(self):
        require(self.square is None or self.square >= 1, f'correspondence.square={self.square} must be at least 1, or '
                                                         'none.')
        require(0 <= self.grey <= 255, f'correspondence.grey={self.grey} must be 0 to 255.')
        require(self.count >= 2, f'correspondence.count={self.count} must be at least 2: pairs of images are compared.')
        require(self.draws >= 1, f'correspondence.draws={self.draws} must be at least 1.')


class Parts(NamedTuple):
    """Where a square lies in each of n images."""
    split: Split
    images: np.ndarray          # int64 [n], numbers in the split
    middles: dict[str, np.ndarray]      # {part: int64 [n, 2], row and column}


def read(path: str, split: Split, size: int) -> Parts:
    """The parts in a file, as `Options.parts` describes it.

    Raises:
      UsageError: if it cannot be read, names an image or place that is not there, or images differ in their parts.
    """
    try:
        found = {int(number): {str(part): [int(place) for place in middle] for part, middle in parts.items()}
                 for number, parts in json.loads(Path(path).expanduser().read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f'correspondence.parts={path} cannot be read ({error}): write '
                         '{"IMAGE NUMBER": {"PART": [ROW, COLUMN], ...}, ...}.') from error
    require(len(found) >= 2, f'correspondence.parts={path} must name at least 2 images: pairs are compared.')
    names = list(next(iter(found.values())))
    require(bool(names), f'correspondence.parts={path} names no parts.')
    for number, parts in found.items():
        require(0 <= number < len(split), f'correspondence.parts={path}: {split.name} has no image {number}: choose '
                                          f'numbers from 0 to {len(split) - 1}.')
        require(set(parts) == set(names), f'correspondence.parts={path}: image {number} has the parts '
                                          f'{", ".join(parts)}, and the first has {", ".join(names)}: give all images '
                                          'the same.')
        for part, middle in parts.items():
            require(len(middle) == 2 and all(0 <= place < size for place in middle),
                    f'correspondence.parts={path}: {part} of image {number} is at {middle}: give row and column, from '
                    f'0 to {size - 1}.')
    require(RANDOM not in names, f'correspondence.parts={path}: "{RANDOM}" is the name of what parts are compared '
                                 'with: call that part otherwise.')
    return Parts(split, np.array(list(found), np.int64),
                 {name: np.array([parts[name] for parts in found.values()], np.int64) for name in names})


def fixed(request: Request, count: int) -> Parts:
    """The same places in images: those asked for by number, or `count` with the label of the split's first image (all
    its images, if it has fewer), evenly spaced.

    Raises:
      UsageError: if there is only one image.
    """
    split = request.judged
    if isinstance(request.images, tuple) and request.images:
        _, at = request.examples(count)
    else:
        same = np.flatnonzero(split.labels == split.labels[0])
        count = min(count, len(same))
        at = same[(2 * np.arange(count) + 1) * len(same) // (2 * count)]
    require(len(at) >= 2, '--method=correspondence compares pairs of images: give it at least 2 with --images.')
    return Parts(split, at, {name: np.tile(np.int64(request.size * np.array(place)), (len(at), 1))
                             for name, place in PLACES.items()})


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _signs(activations, layers, data, square, params, statistics, images, first, grey):
    """int8 [n, features] of each layer: the sign of what the square at `first` [n, 2] takes from images [n, S, S, 3]"""
    pixels = jnp.concatenate([images.astype(jnp.float32), cover(images, first, square, grey)])
    found = activations(params, augment.centre(pixels, statistics, data))
    return [_sign(*jnp.split(found[layer].reshape(len(pixels), -1).astype(jnp.float32), 2)) for layer in layers]


def _sign(whole: jax.Array, hidden: jax.Array) -> jax.Array:
    """int8 [n, features]: the sign of the difference, 0 where it is no more than rounding."""
    change, greatest = whole - hidden, jnp.abs(whole).max(1, keepdims=True)
    return jnp.where(jnp.abs(change) <= ROUNDING * greatest, 0, jnp.sign(change)).astype(jnp.int8)


def signs(request: Request, layers: Sequence[str], pixels: np.ndarray, middles: np.ndarray, square: int,
          grey: float) -> list[np.ndarray]:
    """int8 [n, features] for each layer: sign(x - x~) of images [n, S, S, 3] with the middles of squares [n, 2]."""
    size, found = min(request.batch_size, len(pixels)), []
    for start in range(0, len(pixels), size):
        part = np.minimum(np.arange(start, start + size), len(pixels) - 1)
        found.append(_signs(request.network.task.activations, tuple(layers), request.data, square, request.params,
                            request.cropped, pixels[part], middles[part] - square // 2, np.float32(grey)))
    return [np.concatenate(jax.device_get(layer))[:len(pixels)] for layer in zip(*found)]


def distances(found: np.ndarray) -> np.ndarray:
    """float64 [pairs]: of signs [n, features] the share in which each two images differ."""
    return pdist(found, 'hamming')


def measure(request: Request, options: Options) -> tuple[dict[str, Any], Parts, np.ndarray]:
    """({'layers', 'data', 'images', 'names', 'square', 'grey', 'draws', 'rows': [{'part', layer: {'mean', 'std',
    'changed'}}, ...], 'table'}, the parts, the first random places [n, 2]).

    'mean' and 'std' are over pairs of images, and for random places over those of every draw, whose squares lie wholly
    in the image; 'changed' is the share of features that change at all.

    Raises:
      UsageError: if what was asked for is not there, or a file of parts and numbers of images are both given.
    """
    layers = [request.chosen_layer()] if request.layer else \
        list(dict.fromkeys([last_maps(request), request.chosen_layer()]))
    square = side(options.square, request.size)
    if options.parts:
        require(not isinstance(request.images, tuple), 'The file of parts says which images are compared: leave out '
                                                       'the numbers in --images.')
        parts = read(options.parts, request.judged, request.size)
    else:
        parts = fixed(request, options.count)
    rng, pixels = np.random.default_rng(options.seed), request.pixels(parts.split, parts.images)
    random = rng.integers(0, request.size - square + 1, (options.draws, len(pixels), 2)) + square // 2
    places = [*parts.middles.items(), *((RANDOM, middles) for middles in random)]
    found: dict[str, list[list[np.ndarray]]] = {}
    for name, middles in track(places, f'Hiding parts of {len(pixels):,} images', console=Console(stderr=True),
                               transient=True):
        found.setdefault(name, []).append(signs(request, layers, pixels, middles, square, options.grey))
    rows = [{'part': name} | {layer: _summary([one[k] for one in several]) for k, layer in enumerate(layers)}
            for name, several in found.items()]
    return {'layers': layers, 'data': parts.split.name, 'images': parts.images.tolist(),
            'names': [class_name(parts.split, label) for label in parts.split.labels[parts.images]],
            'square': square, 'grey': options.grey, 'image_size': request.size, 'draws': options.draws,
            'parts_file': options.parts, 'rows': rows, 'table': _table(layers, rows)}, parts, random[0]


def _summary(found: Sequence[np.ndarray]) -> dict[str, float]:
    shares = np.concatenate([distances(one) for one in found])
    return {'mean': float(shares.mean()), 'std': float(shares.std()),
            'changed': float(np.mean([(one != 0).mean() for one in found]))}


def _table(layers: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {'columns': ['hidden', *(f'{layer}{what}' for layer in layers for what in ('', ', features that change'))],
            'rows': [[row['part'], *(cell for layer in layers for cell in (
                f'{row[layer]["mean"]:.3f} ± {row[layer]["std"]:.3f}', f'{100 * row[layer]["changed"]:.0f} %'))]
                for row in rows]}


def look(request: Request, options: Options, picture: Path) -> tuple[dict[str, Any], str]:
    numbers, parts, random = measure(request, options)
    draw(request, numbers, parts, random, picture)
    return numbers, statement(numbers)


def statement(numbers: Mapping[str, Any]) -> str:
    *parts, random = numbers['rows']
    said = [f'at {layer} {np.mean([row[layer]["mean"] for row in parts]):.3f} against {random[layer]["mean"]:.3f}'
            for layer in numbers['layers']]
    what = f'the same part ({", ".join(row["part"] for row in parts)})' if numbers['parts_file'] else \
        f'the same of {len(parts)} fixed places, not the same part of an object,'
    published = [f'{np.mean([value[k] for name, value in PUBLISHED.items() if name != RANDOM]):.3f} against '
                 f'{PUBLISHED[RANDOM][k]:.3f}' for k in (0, 1)]
    return (f'Share of features whose change differs in sign between two of {len(numbers["images"])} images when '
            f'{what} is hidden in both, and against it when random places are: {"; ".join(said)}. Less means a closer '
            f'correspondence, but squares at one place also change the same features, and random ones others. Zeiler '
            f'and Fergus (Table 1), with eyes and noses of dogs, whose places are not public, and random places of the '
            f'dog, have {published[0]} at their layer 5 and {published[1]} at layer 7.')


# ------------------------------------------------------------------------------------------------------- pictures

def draw(request: Request, numbers: Mapping[str, Any], parts: Parts, random: np.ndarray, path: Path) -> None:
    """Draws the images with the squares, and a bar as long as the mean of each part at each layer, with a line for the
    deviation."""
    rows, layers, square = numbers['rows'], numbers['layers'], numbers['square']
    shown = request.pixels(parts.split, parts.images[:DRAWN])
    columns = min(len(shown), COLUMNS)
    high = -(-len(shown) // columns) * (SIDE + 30)
    what = 'parts by file' if numbers['parts_file'] else 'fixed places of the image, no parts of objects'
    sheet = Sheet(columns * (SIDE + GAP), high + 22 + len(rows) * (len(layers) * BAR + 8), 'Correspondence', [
        request.network.origin,
        f'pairs of {len(parts.images)} images of {numbers["data"]}; of the random places the first are drawn',
        f'{what}; a square of {square} of {request.size} pixels, of grey {numbers["grey"]}'])
    colours = dict(zip(parts.middles, COLOURS * (1 + len(parts.middles) // len(COLOURS)))) | {RANDOM: GREY}
    for i, (image, number, name) in enumerate(zip(shown, parts.images, numbers['names'])):
        x, y = MARGIN + i % columns * (SIDE + GAP), sheet.top + i // columns * (SIDE + 30)
        sheet.image(x, y, SIDE, SIDE, image)
        for part, middles in (parts.middles | {RANDOM: random}).items():
            low, far = (np.clip(middles[i] - square // 2 + extra, 0, request.size) * SIDE / request.size
                        for extra in (0, square))
            sheet.axes.add_patch(Rectangle((x + low[1], y + low[0]), far[1] - low[1], far[0] - low[0], fill=False,
                                           color=colours[part], linewidth=1.8))
        sheet.text(x, y + SIDE + 4, f'{number}: {name}', SIDE)
    _bars(sheet, sheet.top + high, rows, layers, colours)
    sheet.save(path)


def _bars(sheet: Sheet, y: float, rows: Sequence[Mapping[str, Any]], layers: Sequence[str],
          colours: Mapping[str, str]) -> None:
    longest = max(row[layer]['mean'] + row[layer]['std'] for row in rows for layer in layers) or 1
    sheet.text(MARGIN, y, 'share of features whose change differs in sign, mean ± deviation over pairs; less is closer',
               sheet.width - 2 * MARGIN, color=GREY)
    left, right = MARGIN + 260, sheet.width - MARGIN - 120
    scale = (right - left) / longest
    for i, row in enumerate(rows):
        for k, layer in enumerate(layers):
            top = y + 26 + i * (len(layers) * BAR + 8) + k * BAR
            mean, deviation = row[layer]['mean'], row[layer]['std']
            if k == 0:
                sheet.text(MARGIN, top, row['part'], 150, weight='bold', color=colours[row['part']])
            sheet.text(left - 10, top, layer, 100, ha='right', color=GREY)
            sheet.box(left, top, right - left, BAR - 5, FAINT)
            sheet.axes.add_patch(Rectangle((left, top), scale * mean, BAR - 5, color=colours[row['part']], alpha=0.6,
                                           linewidth=0))
            middle = top + (BAR - 5) / 2
            sheet.axes.plot([left + scale * max(0, mean - deviation), left + scale * (mean + deviation)],
                            [middle] * 2, color='black', linewidth=1.2)
            sheet.text(right + 10, top, f'{mean:.3f} ± {deviation:.3f}', 110)


METHOD = Method(look, takes=frozenset({'layer', 'images'}), options=Options())
