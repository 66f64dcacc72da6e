"""What max, average and min pooling keep of an image, and of the maps of a layer.

Pooling is undone by giving every pixel the mean of its windows, so that the pictures can be laid beside the original.
"""
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lib import layers
from lib.data.sources import Split
from lib.experiment import require
from lib.visualize import GREY, MARGIN, Sheet, class_name
from lib.visualize.request import Method, Request

IMAGES, SIDE, GAP = 3, 186, 12
KINDS = {'max': layers.max_pool, 'average': layers.average_pool, 'min': layers.min_pool}


@dataclasses.dataclass(frozen=True)
class Options:
    size: int = 3               # of a window, as in AlexNet, section 3.4
    stride: int = 2
    times: int = 2              # so many poolings after one another, so that a picture shows it

    def __post_init__(self):
        require(min(self.size, self.stride, self.times) >= 1,
                'pooling.size, pooling.stride and pooling.times must be at least 1.')
        require(self.stride <= self.size, f'pooling.stride={self.stride} must be at most pooling.size={self.size}, so '
                                          'that windows leave nothing out.')


def pooled(x: jax.Array, pool: Callable, options: Options) -> tuple[jax.Array, jax.Array]:
    """(what pooling makes of [n, h, w, c], [n, h', w', c]; the same spread out to [n, h, w, c])."""
    def repeatedly(x):
        for _ in range(options.times):
            x = pool(x, options.size, options.stride)
        return x

    def averaged(x):
        for _ in range(options.times):
            x = layers.average_pool(x, options.size, options.stride)
        return x

    small = repeatedly(x)
    _, back = jax.vjp(averaged, x)
    reach, = back(jnp.ones_like(small))
    return small, back(small)[0] / reach


def kept(x: np.ndarray, again: np.ndarray) -> float:
    """The share of the variance of x [..., h, w, c] within each map that `again` explains, 1 less the mean square of
    their difference, where `again` may be shifted and scaled: the squared correlation. 0 if x is uniform."""
    x, again = (array.reshape(-1, *array.shape[-3:]) for array in (np.asarray(x, np.float64), again))
    x, again = (array - array.mean((1, 2), keepdims=True) for array in (x, again))
    product, one, two = ((a * b).sum((1, 2)) for a, b in ((x, again), (x, x), (again, again)))
    alive = one > 0
    return float(np.mean(product[alive]**2 / (one * np.where(two > 0, two, 1))[alive])) if alive.any() else 0.0


def look(request: Request, options: Options, picture: Path) -> tuple[dict[str, Any], str]:
    layer = request.chosen_layer(request.first_layer)
    require(request.geometry[layer].has_places, f'{layer} has no places over which to pool: choose another --layer.')
    split, at = request.examples(IMAGES)
    pixels = request.pixels(split, at).astype(np.float32)
    maps = np.asarray(request.activations(layer, pixels), np.float32)
    side = maps.shape[1]
    for _ in range(options.times):
        require(side >= options.size, f'{layer} has maps of {maps.shape[1]} pixels, too small for {options.times} '
                                      f'poolings of {options.size}: choose an earlier --layer or set pooling.times=1.')
        side = layers.output_size(side, options.size, options.stride)
    shown = {name: [np.asarray(array) for array in pooled(jnp.asarray(pixels), pool, options)]
             for name, pool in KINDS.items()}
    inside = {name: np.asarray(pooled(jnp.asarray(maps), pool, options)[1]) for name, pool in KINDS.items()}
    rows = [['none', f'{pixels.mean():.1f}', '1', f'{maps.mean():.3g}', '1'],
            *([name, f'{shown[name][0].mean():.1f}', f'{kept(pixels, shown[name][1]):.3f}',
               f'{inside[name].mean():.3g}', f'{kept(maps, inside[name]):.3f}'] for name in KINDS)]
    found = {'layer': layer, 'data': split.name, 'images': at.tolist(), 'table': {
        'columns': ['pooling', 'mean pixel', 'of the pixels kept', f'mean of {layer}', f'of {layer} kept'],
        'rows': rows}}
    draw(request, split, at, pixels, {name: small for name, (small, _) in shown.items()}, maps, inside, layer, options,
         picture)
    return found, statement(found, options)


def statement(found: dict[str, Any], options: Options) -> str:
    windows = f'{options.size}x{options.size} windows at stride {options.stride}, {options.times} times'
    parts = [f'{name} pooling keeps {pixels} of the variance of the pixels and {maps} of that of {found["layer"]}'
             for name, _, pixels, _, maps in found['table']['rows'][1:]]
    return f'With {windows}, ' + '; '.join(parts) + ' (squared correlation with what is spread out again).'


def draw(request: Request, split: Split, at: np.ndarray, pixels: np.ndarray, shown: dict[str, np.ndarray],
         maps: np.ndarray, inside: dict[str, np.ndarray], layer: str, options: Options, path: Path) -> None:
    """Draws, an image two rows: it and what is left of it; its strongest map of the layer and what is left of that."""
    small = shown['max'].shape[1]
    strongest = maps.reshape(len(maps), -1, maps.shape[-1]).max(1).argmax(-1)
    sheet = Sheet((1 + len(KINDS)) * (SIDE + GAP) - GAP, len(at) * 2 * (SIDE + 26) + 8, 'What pooling keeps', [
        request.network.origin, f'{len(at)} images of {split.name}, central crop of {request.size} pixels',
        f'{options.size}x{options.size} windows at stride {options.stride}, {options.times} times: {small} pixels a '
        f'side are left; the maps of {layer} are spread out again'])
    for i, (image, whole, one, unit) in enumerate(zip(at, pixels, maps, strongest)):
        y = sheet.top + i * 2 * (SIDE + 26)
        low = min(one[..., unit].min(), 0)
        scale = one[..., unit].max() - low or 1
        above = [(whole / 255, f'image {image}: {class_name(split, split.labels[image])}'),
                 *((shown[name][i] / 255, f'{name} pooling') for name in KINDS)]
        below = [((one[..., unit] - low) / scale, f'{layer}, map {unit}'),
                 *(((inside[name][i][..., unit] - low) / scale, f'{name} pooling') for name in KINDS)]
        for row, panels in enumerate((above, below)):
            for j, (panel, words) in enumerate(panels):
                x, top = MARGIN + j * (SIDE + GAP), y + row * (SIDE + 26)
                panel = panel if panel.ndim == 3 else np.repeat(panel[..., None], 3, axis=2)
                sheet.image(x, top, SIDE, SIDE, np.clip(panel, 0, 1))
                sheet.text(x, top + SIDE + 3, words if panel.any() else f'{words}: all black', SIDE, color=GREY)
    sheet.save(path)


METHOD = Method(look, takes=frozenset({'layer', 'images'}), options=Options())
