"""The patches of a whole split that excite a unit most, cut at its receptive field (Zeiler and Fergus 2013, section 4
and Figure 2; Girshick et al. 2014, section 3.1)."""
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from lib.data.sources import Split
from lib.experiment import require
from lib.geometry import Layer
from lib.visualize import FAINT, GREY, MARGIN, Sheet, class_name
from lib.visualize.request import Method, Request

OUTSIDE = 128               # grey, of what lies outside the image or is not seen
BLOCK, GAP, LABEL, HEAD = 360, 6, 17, 46    # pixels: side of a unit's square, between patches, below one, above all
DRAWS = 2000                # of random images, for the share by chance


@dataclasses.dataclass(frozen=True)
class Options:
    split: Literal['train', 'validation'] | None = None     # that is searched; none for the evaluation split
    searched: int | None = None     # at most so many images of it, at equal distances; none for all
    count: int = 9                  # patches a unit (Zeiler and Fergus, Figure 2)

    def __post_init__(self):
        require_count(self.count)
        require_searched(self.searched)


def require_count(count: int) -> None:
    require(1 <= count <= 36, f'count={count} must be 1 to 36: so many patches fit beside each other.')


def require_searched(searched: int | None) -> None:
    require(searched is None or searched >= 1, f'searched={searched} must be at least 1, or none for all images.')


class Strongest(NamedTuple):
    """Of each of U units the K images with the greatest activation, the greatest first."""
    activations: np.ndarray     # float32 [U, K]
    images: np.ndarray          # int64 [U, K], numbers in the split
    places: np.ndarray          # int64 [U, K, 2], row and column in the layer's maps; 0, 0 where it has none


def searched_images(request: Request, split: str | None, searched: int | None) -> tuple[Split, np.ndarray]:
    """The images that are searched, as a split and their numbers in it: those that were asked for or, of a split or
    folder, at most `searched` at equal distances; all, if that is None."""
    if isinstance(request.images, tuple):
        return request.examples(1)
    found = request.split(split) if request.images is None else request.judged
    return found, np.arange(0, len(found), 1 if searched is None else -(-len(found) // searched))


def strongest(request: Request, layer: str, units: np.ndarray, split: Split, at: np.ndarray, count: int,
              doing: str | None = None) -> Strongest:
    """The images, of those at the numbers `at`, in which units are most active. An image counts once, with the place
    where a unit is most active in it (so do Zeiler and Fergus); of equal places the first counts, and of equal images
    the first leads. Images are read in batches and only the best are kept, so memory does not grow with the split.
    `doing` stands before the bar of progress."""
    size, maps = min(request.batch_size, len(at)), request.geometry[layer].size
    values, images = np.zeros((len(units), 0), np.float32), np.zeros((len(units), 0), np.int64)
    places = images
    for start in track(range(0, len(at), size), doing or f'Looking for what excites {layer} in {len(at):,} images',
                       console=Console(stderr=True), transient=True):
        numbers = at[start:start + size]
        batch = request.pixels(split, np.pad(numbers, (0, size - len(numbers)), mode='edge'))
        value, place = (array[:, :len(numbers)]
                        for array in jax.device_get(_greatest(request.activations(layer, batch), units)))
        values = np.concatenate([values, value], 1)
        images = np.concatenate([images, np.broadcast_to(numbers, value.shape)], 1)
        places = np.concatenate([places, place], 1)
        keep = np.argsort(-values, axis=1, kind='stable')[:, :count]
        values, images, places = (np.take_along_axis(array, keep, 1) for array in (values, images, places))
    return Strongest(values, images, np.stack(np.divmod(places, maps[1] if len(maps) == 3 else 1), -1))


@jax.jit
def _greatest(activations: jax.Array, units: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[U, n]: the greatest activation of each unit in each image and its first place, counted row by row."""
    found = activations.reshape(len(activations), -1, activations.shape[-1])[..., units].astype(jnp.float32)
    return found.max(1).T, found.argmax(1).T


def cut(picture: np.ndarray, layer: Layer, place: Sequence[int], outside: float = OUTSIDE) -> np.ndarray:
    """What the unit at a place of a layer sees of a picture [S, S, 3]: [side, side, 3], with `outside` for what lies
    beyond the picture. A field as wide as the picture or wider is cut to the picture, and what it does not reach is
    `outside` too. Units without places see all."""
    side, size = layer.receptive_field, len(picture)
    if not layer.has_places:
        return picture
    corner = [layer.start + (layer.jump or 0) * i for i in place]
    rows, columns = (slice(max(low, 0), max(low + side, 0)) for low in corner)
    seen = np.full_like(picture, outside)
    seen[rows, columns] = picture[rows, columns]
    if side >= size:
        return seen
    padded = np.pad(seen, ((side, side), (side, side), (0, 0)), constant_values=outside)
    return padded[side + corner[0]:2 * side + corner[0], side + corner[1]:2 * side + corner[1]]


def cuts(request: Request, split: Split, layer: Layer, unit: dict[str, Any]) -> list[np.ndarray]:
    """uint8 [side, side, 3] each: the patches of a unit, as `describe` has it."""
    pixels = request.pixels(split, np.array([patch['image'] for patch in unit['patches']], np.int64))
    return [cut(whole, layer, (patch['row'], patch['column'])) for whole, patch in zip(pixels, unit['patches'])]


def describe(split: Split, units: np.ndarray, found: Strongest) -> list[dict[str, Any]]:
    """[{'unit', 'patches': [{'image', 'label', 'name', 'row', 'column', 'activation'}, ...], 'commonest', 'of_it'},
    ...]: of each unit the patches in which it is active, and how many of them have the commonest class; 'commonest' is
    None if there is no patch. Exactly 0 is an inactive ReLU."""
    described = []
    for unit, activations, images, places in zip(units, *found):
        patches = [{'image': int(image), 'label': int(split.labels[image]),
                    'name': class_name(split, split.labels[image]) if split.labels[image] >= 0 else '',
                    'row': int(row), 'column': int(column), 'activation': float(value)}
                   for value, image, (row, column) in zip(activations, images, places) if value != 0]
        names = [patch['name'] for patch in patches]
        commonest = max(names, key=names.count, default=None)
        described.append({'unit': int(unit), 'patches': patches, 'commonest': commonest,
                          'of_it': names.count(commonest)})
    return described


def by_chance(labels: np.ndarray, count: int) -> float:
    """How many of `count` random images have the commonest class among them, in the mean of 2,000 draws."""
    draws = np.random.default_rng(0).choice(labels, (DRAWS, count))
    return float((draws[:, :, None] == draws[:, None]).sum(2).max(1).mean())


def measure(request: Request, options: Options) -> dict[str, Any]:
    """{'layer', 'units', 'data', 'searched': images, 'receptive_field': pixels a side, 'count', 'found': of `describe`,
    'by_chance', 'table'}."""
    layer, (split, at) = request.chosen_layer(), searched_images(request, options.split, options.searched)
    units = request.units(layer, 6)
    found = describe(split, units, strongest(request, layer, units, split, at, options.count))
    return {'layer': layer, 'units': units.tolist(), 'data': split.name, 'searched': len(at),
            'receptive_field': request.geometry[layer].receptive_field, 'count': options.count, 'found': found,
            'by_chance': by_chance(split.labels[at], options.count) if (split.labels[at] >= 0).all() else None,
            'table': table(found)}


def look(request: Request, options: Options, picture: Path) -> tuple[dict[str, Any], str]:
    numbers = measure(request, options)
    draw(request, searched_images(request, options.split, options.searched)[0], numbers, picture)
    return numbers, statement(numbers)


def statement(numbers: dict[str, Any]) -> str:
    alive = [unit for unit in numbers['found'] if unit['patches']]
    idle = len(numbers['found']) - len(alive)
    common = f'{np.mean([unit["of_it"] for unit in alive]):.1f}' if alive else 'none'
    return (f'Of {numbers["searched"]:,} images of {numbers["data"]}, the {numbers["count"]} in which each of '
            f'{len(numbers["found"])} units of {numbers["layer"]} is most active, each image with its best place only.'
            + (f' In the mean {common} of those of a unit have the same class, and {numbers["by_chance"]:.1f} of as '
               'many random images do.' if numbers['by_chance'] else '')
            + (f' Active in none of them: {idle} of the units.' if idle else ''))


def table(found: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [[unit['unit'], *((f'{unit["patches"][k]["activation"]:.3g}' for k in (0, -1)) if unit['patches'] else '--'),
             unit['commonest'] or '-', f'{unit["of_it"]} of {len(unit["patches"])}'] for unit in found]
    return {'columns': ['unit', 'strongest', 'weakest shown', 'commonest class', 'of it'], 'rows': rows}


def draw(request: Request, split: Split, numbers: dict[str, Any], picture: Path) -> None:
    """Draws two units a row, each with its patches, the greatest activation first, row by row."""
    layer, count, units = request.geometry[numbers['layer']], numbers['count'], numbers['found']
    columns = min(2, len(units))
    sheet = Sheet(columns * (BLOCK + 40) - 40, -(-len(units) // columns) * tall(count) - 30,
                  f'What excites {layer.name} most',
                  [request.network.origin, f'{numbers["searched"]:,} images of {numbers["data"]}',
                   words(layer, request.size)])
    for k, unit in enumerate(units):
        x, y = MARGIN + k % columns * (BLOCK + 40), sheet.top + k // columns * tall(count)
        heading(sheet, x, y, layer.name, unit, BLOCK)
        grid(sheet, x, y + HEAD, cuts(request, split, layer, unit), count, labels(unit))
    sheet.save(picture)


# ------------------------------------------------------------------------------------------- the picture of a unit

def words(layer: Layer, size: int) -> str:
    """The receptive field of a layer, for a caption."""
    if not layer.has_places:
        return f'{layer.name} has no places: whole images of {size} pixels'
    side, kind = layer.receptive_field, ' of its widest branch' if layer.kind == 'concatenation' else ''
    if side >= size:
        return f'the receptive field{kind}, {side} pixels, is at least the image; what it does not reach is grey'
    return f'patches are its receptive field{kind}, {side} of {size} pixels; grey lies outside the image'


def tall(count: int) -> int:
    """Pixels from a unit to the one below."""
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    return HEAD + round(rows * ((BLOCK + GAP) / columns + LABEL)) + 30


def heading(sheet: Sheet, x: float, y: float, layer: str, unit: dict[str, Any], room: float) -> None:
    """Two lines about a unit."""
    patches = unit['patches']
    line = 'active in none of these images'
    if patches:
        line = f'activation {patches[0]["activation"]:.3g} to {patches[-1]["activation"]:.3g}'
    if len(patches) > 1 and unit['commonest']:
        line += f'; {unit["of_it"]} of {len(patches)} of class {unit["commonest"]}'
    sheet.text(x, y, f'{layer}, unit {unit["unit"]}', room, size=15, weight='bold')
    sheet.text(x, y + 22, line, room, color=GREY)


def labels(unit: dict[str, Any]) -> list[str]:
    """Number and class of the image of each patch."""
    return [f'{patch["image"]}: {patch["name"]}'.removesuffix(': ') for patch in unit['patches']]


def grid(sheet: Sheet, x: float, y: float, pictures: Sequence[np.ndarray], count: int,
         below: Sequence[str] = ()) -> None:
    """Up to `count` square pictures, row by row, in a square of BLOCK pixels, with a text below each. Without any
    the square says that the unit is silent."""
    if not pictures:
        sheet.box(x, y, BLOCK, BLOCK, FAINT)
        sheet.text(x + BLOCK / 2, y + BLOCK / 2 - 8, 'silent', BLOCK, color=GREY, ha='center')
    columns = math.ceil(math.sqrt(count))
    side = (BLOCK + GAP) / columns - GAP
    for k, picture in enumerate(pictures):
        left, top = x + k % columns * (side + GAP), y + k // columns * (side + GAP + LABEL)
        sheet.image(left, top, side, side, picture)
        if below:
            sheet.text(left, top + side + 2, below[k], side, size=11, color=GREY)


METHOD = Method(look, takes=frozenset({'layer', 'unit', 'images'}), options=Options())
