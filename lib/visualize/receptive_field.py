"""The receptive field of a unit, as the arithmetic of the layers has it and as the gradient measures it, on an image.

The theoretical field is the square of pixels that can change the unit (lib/geometry.py). What of it counts is measured
by the gradient of the unit in the pixels, its absolute value averaged over images.
"""
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.patches import Rectangle

from lib import backward
from lib.experiment import require
from lib.visualize import FAINT, GREY, MARGIN, OTHER, SAME, Sheet
from lib.visualize.request import Method, Request

SIDE, GAP, UNITS = 350, 24, 4
EDGE = 0.1                  # of a panel, around the image, where a field leaves it


@dataclasses.dataclass(frozen=True)
class Options:
    searched: int = 16          # images whose gradients are averaged
    share: float = 0.95         # of the gradient, whose smallest central square is the measured field

    def __post_init__(self):
        require(self.searched >= 1, f'receptive_field.searched={self.searched} must be at least 1.')
        require(0 < self.share < 1, f'receptive_field.share={self.share} must be between 0 and 1.')


def field(request: Request, layer: str) -> tuple[tuple[int, int], tuple[int, int], int]:
    """(the middle place of a layer, first row and column of its theoretical field, pixels a side); a layer without
    places sees its whole field from its only one."""
    about = request.geometry[layer]
    place = tuple(size // 2 for size in about.size[:-1]) if about.has_places else (0, 0)
    corner = tuple(about.start + (about.jump or 0) * i for i in place)
    return place, corner, about.receptive_field


def gradients(request: Request, layer: str, units: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """float32 [units, S, S]: the absolute gradient, summed over the channels, of each unit at the middle place in the
    pixels, averaged over images [n, S, S, 3]."""
    place, _, _ = field(request, layer)
    entered, leave = jax.vjp(request.enter, jnp.asarray(pixels, jnp.float32))
    shape = jax.eval_shape(request.network.task.activations, request.params, entered)[layer]
    found = []
    for unit in units:
        signal = np.zeros(shape.shape, shape.dtype)
        signal[(slice(None), *(place if len(shape.shape) == 4 else ()), unit)] = 1
        down = backward.project(request.network.task.activations, layer, backward.GRADIENT, request.params, entered,
                                signal)
        found.append(np.abs(np.asarray(leave(down)[0])).sum(-1).mean(0))
    return np.stack(found)


def extent(found: np.ndarray) -> tuple[int, int, int, int]:
    """(top, left, bottom, right), the last two beyond, of the pixels of a map [S, S] that are not zero; zeros if all
    are."""
    rows, columns = (np.flatnonzero(found.any(axis)) for axis in (1, 0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def square(found: np.ndarray, share: float) -> tuple[tuple[int, int], int]:
    """(first row and column, pixels a side) of the smallest square about the centre of mass of a map [S, S] that holds
    a share of its sum; what lies beyond the image counts as zero. A side of 0 for a map of zeros."""
    total = found.sum(dtype=np.float64)
    if total == 0:
        return (0, 0), 0
    middle = [int(round((found.sum(1 - axis) * np.arange(len(found))).sum() / total)) for axis in (0, 1)]
    for half in range(len(found)):
        low = [max(0, place - half) for place in middle]
        if found[low[0]:middle[0] + half + 1, low[1]:middle[1] + half + 1].sum(dtype=np.float64) >= share * total:
            break
    return (middle[0] - half, middle[1] - half), 2 * half + 1


def look(request: Request, options: Options, picture: Path) -> tuple[dict[str, Any], str]:
    layer = request.chosen_layer()
    units = request.units(layer, UNITS)
    split, at = request.examples(options.searched)
    pixels = request.pixels(split, at)
    maps = gradients(request, layer, units, pixels)
    _, corner, side = field(request, layer)
    rows = []
    for unit, one in zip(units, maps):
        first, wide = square(one, options.share)
        rows.append({'unit': int(unit), 'extent': extent(one), 'square': first, 'width': wide})
    found = {'layer': layer, 'units': units.tolist(), 'data': split.name, 'images': at.tolist(), 'theoretical': side,
             'corner': list(corner), 'image_size': request.size, 'share': options.share, 'measured': rows,
             'table': _table(rows, side, options.share)}
    draw(request, found, pixels[0], maps, picture)
    return found, statement(found)


def _table(rows: list[dict[str, Any]], side: int, share: float) -> dict[str, Any]:
    return {'columns': ['unit', 'theoretical', 'not zero, rows x columns', f'{100 * share:g} % of the gradient'],
            'rows': [[row['unit'], side, '{} x {}'.format(row['extent'][2] - row['extent'][0],
                                                          row['extent'][3] - row['extent'][1]),
                      row['width'] or 'silent'] for row in rows]}


def statement(found: dict[str, Any]) -> str:
    side, size, active = found['theoretical'], found['image_size'], [row for row in found['measured'] if row['width']]
    wide = f', more than the {size} of the image' if side > size else ''
    said = f'By arithmetic a unit of {found["layer"]} in the middle sees {side} pixels a side{wide}. '
    if not active:
        return f'{said}The gradients are zero in these images: the units are silent there.'
    reach = max(max(row['extent'][2] - row['extent'][0], row['extent'][3] - row['extent'][1]) for row in active)
    half = np.mean([row['width'] for row in active])
    return (f'{said}In {len(found["images"])} images the gradient of {len(active)} units is not zero over up to '
            f'{reach} pixels, and {100 * found["share"]:g} % of it lies in a square of {half:.0f} in the mean.')


def draw(request: Request, found: dict[str, Any], image: np.ndarray, maps: np.ndarray, path: Path) -> None:
    """Draws, a unit a row, the first image and the gradient, with the theoretical field and the square that was
    measured; both are cut where they leave the margin around the image."""
    share = f'{100 * found["share"]:g} %'
    sheet = Sheet(2 * (SIDE + GAP) - GAP, len(maps) * (SIDE + 52) - 20, f'Receptive fields of {found["layer"]}', [
        request.network.origin, f'{len(found["images"])} images of {found["data"]}, of which the first is drawn',
        f'blue: theoretical, {found["theoretical"]} of {request.size} pixels; orange: {share} of the gradient'])
    for i, (row, gradient) in enumerate(zip(found['measured'], maps)):
        y = sheet.top + i * (SIDE + 52)
        bright = np.sqrt(gradient / (gradient.max() or 1))
        for j, panel in enumerate((image, np.repeat(bright[..., None], 3, axis=2))):
            x = MARGIN + j * (SIDE + GAP)
            sheet.box(x, y, SIDE, SIDE, FAINT)
            inner, scale = SIDE * EDGE, SIDE * (1 - 2 * EDGE) / request.size
            sheet.image(x + inner, y + inner, SIDE - 2 * inner, SIDE - 2 * inner, panel)
            _frame(sheet, (x, y), inner, scale, found['corner'], found['theoretical'], SAME)
            _frame(sheet, (x, y), inner, scale, row['square'], row['width'], OTHER)
        top, left, bottom, right = row['extent']
        said = f'{bottom - top} x {right - left} pixels are not zero, {share} in a square of {row["width"]}'
        sheet.text(MARGIN, y + SIDE + 6, f'unit {row["unit"]}: ' + (said if row['width'] else 'silent, no gradient'),
                   2 * SIDE + GAP, color=GREY)
    sheet.save(path)


def _frame(sheet: Sheet, corner: tuple[float, float], inner: float, scale: float, first: Sequence[int], side: int,
           colour: str) -> None:
    """The outline of a square of pixels in a panel, cut at the panel's edges."""
    low = [max(0, inner + scale * place) for place in first]
    high = [min(SIDE, inner + scale * (place + side)) for place in first]
    sheet.axes.add_patch(Rectangle((corner[0] + low[1], corner[1] + low[0]), high[1] - low[1], high[0] - low[0],
                                   fill=False, color=colour, linewidth=1.8))


METHOD = Method(look, takes=frozenset({'layer', 'unit', 'images'}), options=Options())
