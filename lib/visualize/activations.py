"""What a layer puts out for an image: its maps as pictures or, of units without places, a bar each."""
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from lib.data.sources import Split
from lib.experiment import require
from lib.visualize import FAINT, GREY, MARGIN, OTHER, SAME, Sheet, class_name
from lib.visualize.request import Method, Request

IMAGES, LARGE, GAP = 2, 200, 6
MAPS, COLUMNS, TILE = 64, 12, 72
BARS, TALL = 640, 160           # units that have a bar of their own; pixels of the highest


@dataclasses.dataclass(frozen=True)
class Options:
    maps: int = MAPS            # at most so many are drawn: those with the greatest activation, in their order

    def __post_init__(self):
        require(self.maps >= 1, f'activations.maps={self.maps} must be at least 1.')


def look(request: Request, options: Options, picture: Path) -> tuple[dict[str, Any], str]:
    layer = request.chosen_layer()
    split, at = request.examples(IMAGES)
    outputs = np.asarray(request.activations(layer, request.pixels(split, at)), np.float32)
    units = np.array(request.units(layer, 1) if request.unit else np.arange(outputs.shape[-1]))
    found = {'layer': layer, 'units': list(request.unit), 'data': split.name, 'images': at.tolist(),
             'size': list(outputs.shape[1:]), 'silent': [int(number) for number in silent(outputs)],
             'strongest': [[int(unit) for unit in strongest(one, units, 5)] for one in outputs]}
    draw(request, split, at, layer, outputs, units, options.maps, picture)
    return found, statement(found)


def strongest(outputs: np.ndarray, units: np.ndarray, count: int) -> np.ndarray:
    """int64: the `count` of some units [..., units] with the greatest activation anywhere, that first."""
    peaks = outputs.reshape(-1, outputs.shape[-1]).max(0)[units]
    return units[np.argsort(-peaks, kind='stable')[:count]]


def silent(outputs: np.ndarray) -> np.ndarray:
    """int64 [n]: how many maps or units of [n, ..., units] are zero everywhere."""
    return (np.abs(outputs).reshape(len(outputs), -1, outputs.shape[-1]).max(1) == 0).sum(1)


def statement(found: dict[str, Any]) -> str:
    *places, count = found['size']
    what = f'{count} maps of {places[0]} x {places[1]}' if places else f'{count} units'
    images = '; '.join(f'in image {image} {number} are zero everywhere, and {", ".join(map(str, best))} are strongest'
                       for image, number, best in zip(found['images'], found['silent'], found['strongest']))
    return f'{found["layer"]} has {what}: {images}.'


def draw(request: Request, split: Split, at: np.ndarray, layer: str, outputs: np.ndarray, units: np.ndarray, most: int,
         path: Path) -> None:
    """Draws, an image a block, the image at the left and beside it its maps, or bars of its units."""
    has_places = outputs.ndim == 4
    columns = min(COLUMNS, most, len(units)) if has_places else 0
    wide = columns * (TILE + GAP) if has_places else BARS
    rows = -(-min(most, len(units)) // columns) if has_places else 0
    block = max(LARGE + 30, rows * (TILE + GAP + 13) + 28 if has_places else TALL + 60) + 20
    scale = 'each map has its own scale: black is its least value (0, if none is negative), white its greatest' \
        if has_places else 'each unit has a bar, negative ones downwards'
    sheet = Sheet(LARGE + 26 + wide, len(at) * block - 20, f'Activations of {layer}', [
        request.network.origin, f'{len(at)} images of {split.name}, central crop of {request.size} pixels', scale])
    for i, (image, pixels, one) in enumerate(zip(at, request.pixels(split, at), outputs)):
        y, left = sheet.top + i * block, MARGIN + LARGE + 26
        sheet.image(MARGIN, y + 22, LARGE, LARGE, pixels)
        sheet.text(MARGIN, y + 24 + LARGE, f'image {image}: {class_name(split, split.labels[image])}', LARGE)
        if has_places:
            chosen = np.sort(strongest(one, units, most))
            part = '' if len(chosen) == len(units) else f'the {len(chosen)} strongest of '
            sheet.text(left, y, f'{part}{len(units)} maps; below each its number and greatest value', wide, color=GREY)
            for k, unit in enumerate(chosen):
                x, top = left + k % columns * (TILE + GAP), y + 22 + k // columns * (TILE + GAP + 13)
                sheet.image(x, top, TILE, TILE, _grey(one[..., unit]))
                sheet.text(x, top + TILE + 1, f'{unit}: {one[..., unit].max():.2g}', TILE, size=11, color=GREY)
        else:
            _bars(sheet, left, y, one[units])
    sheet.save(path)


def _grey(values: np.ndarray) -> np.ndarray:
    """[h, w, 3] from 0 to 1, from the least value, or 0, to the greatest."""
    low = min(values.min(), 0)
    return np.repeat(((values - low) / (values.max() - low or 1))[..., None], 3, axis=2)


def _bars(sheet: Sheet, left: float, y: float, values: np.ndarray) -> None:
    """Of each unit, or of the strongest of as many neighbours as share a pixel, a bar."""
    groups = np.array_split(values, min(len(values), BARS))
    peaks = np.array([group[np.abs(group).argmax()] for group in groups])
    largest, wide = np.abs(peaks).max() or 1, BARS / len(peaks)
    up = max(peaks.max(), 0) / largest
    scale = TALL / (up + max(-peaks.min(), 0) / largest or 1)
    zero = y + 22 + scale * up
    shared = '' if len(peaks) == len(values) else f', {-(-len(values) // BARS)} neighbours a bar, the strongest counts'
    sheet.text(left, y, f'{len(values)} units, from {values.min():.3g} to {values.max():.3g}{shared}', BARS, color=GREY)
    sheet.box(left, zero - 0.5, BARS, 1, FAINT)
    for k, peak in enumerate(peaks):
        height = scale * abs(peak) / largest
        sheet.box(left + k * wide, zero - height if peak > 0 else zero, max(wide - 1, 0.6 * wide), height,
                  SAME if peak > 0 else OTHER)


METHOD = Method(look, takes=frozenset({'layer', 'unit', 'images'}), options=Options())
