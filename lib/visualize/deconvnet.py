"""What in an image a unit responds to: its activation alone, brought down to the pixels (Zeiler and Fergus 2013,
section 2.1 and Figure 2), beside the patch that caused it."""
import dataclasses
import itertools
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from lib import backward
from lib.data.sources import Split
from lib.experiment import require
from lib.visualize import GREY, MARGIN, Sheet, patches
from lib.visualize.patches import BLOCK, HEAD
from lib.visualize.request import Method, Request

RULES = {'deconvnet': backward.DECONVNET, 'guided': backward.GUIDED, 'gradient': backward.GRADIENT}
NAMES = {'deconvnet': 'Deconvnet projections', 'guided': 'Guided backpropagation', 'gradient': 'Gradients'}
Rule = Literal['deconvnet', 'guided', 'gradient']


@dataclasses.dataclass(frozen=True)
class Options:
    rule: Rule = 'deconvnet'        # of the ReLUs on the way down: see lib/backward.py
    split: Literal['train', 'validation'] | None = None     # that is searched; none for the evaluation split
    searched: int | None = None     # at most so many images of it, at equal distances; none for all
    count: int = 9                  # activations a unit (Zeiler and Fergus, Figure 2)

    def __post_init__(self):
        patches.require_count(self.count)
        patches.require_searched(self.searched)


def require_relus(request: Request, rule: Rule, method: str = 'deconvnet') -> None:
    """Raises UsageError if the rule is one for ReLUs and the network has none."""
    require(rule == 'gradient' or request.has_relus,
            f'This network has no ReLUs, through which a {rule} projection passes by a rule of its own: choose another '
            f'network, or --set {method}.rule=gradient.')


def project(request: Request, rule: Rule, layer: str, unit: int, split: Split,
            chosen: list[dict[str, Any]]) -> np.ndarray:
    """float32 [n, S, S, 3]: for each patch of a unit, as `patches.describe` has it, the signal that is its activation
    at its place and zero elsewhere in the layer, brought down to the pixels."""
    pixels = request.pixels(split, np.array([patch['image'] for patch in chosen]))
    images, to_pixels = jax.vjp(request.enter, pixels.astype(np.float32))
    activations = request.network.task.activations
    outputs = jax.eval_shape(activations, request.params, images)[layer]
    signal = np.zeros(outputs.shape, np.float32)
    for k, patch in enumerate(chosen):
        place = (patch['row'], patch['column']) if len(outputs.shape) == 4 else ()
        signal[k, *place, unit] = patch['activation']
    down = backward.project(activations, layer, RULES[rule], request.params, images, signal.astype(outputs.dtype))
    found = np.asarray(to_pixels(down)[0])
    one_channel = not found[..., 1:].any()      # the network reads the first only
    return found[..., :1].repeat(3, -1) if one_channel else found


def contrasted(projection: np.ndarray) -> np.ndarray:
    """0 to 1: zero is mid-grey, the largest absolute value black or white."""
    largest = np.abs(projection).max()
    return 0.5 + 0.5 * projection / (largest if largest > 0 else 1)


def resemblance(pictures: list[np.ndarray]) -> float | None:
    """The mean cosine of two of the pictures, each less its mean; None of fewer than two, or if one is uniform."""
    vectors = [(picture - picture.mean(dtype=np.float64)).ravel() for picture in pictures]
    norms = [np.linalg.norm(vector) for vector in vectors]
    if len(pictures) < 2 or min(norms) == 0:
        return None
    return float(np.mean([a @ b for a, b in itertools.combinations([v / n for v, n in zip(vectors, norms)], 2)]))


def measure(request: Request, options: Options) -> tuple[dict[str, Any], list[tuple[list, list]]]:
    """The numbers, and for each unit its projections and patches, both [side, side, 3] and cut at the receptive field.
    With images asked for they are searched, and otherwise a split; each gives its strongest place."""
    require_relus(request, options.rule)
    layer = request.chosen_layer()
    split, at = patches.searched_images(request, options.split, options.searched)
    units, field = request.units(layer, 6), request.geometry[layer]
    found = patches.describe(split, units, patches.strongest(request, layer, units, split, at, options.count))
    pictures = []
    for unit in track(found, f'Bringing {layer} down to the pixels', console=Console(stderr=True), transient=True):
        chosen = unit['patches']
        whole = project(request, options.rule, layer, unit['unit'], split, chosen) if chosen else []
        down = [patches.cut(one, field, (patch['row'], patch['column']), 0) for one, patch in zip(whole, chosen)]
        seen = patches.cuts(request, split, field, unit)
        unit |= {'blank': sum(not one.any() for one in down), 'projections_alike': resemblance(down),
                 'patches_alike': resemblance(seen)}
        pictures.append((down, seen))
    numbers = {'layer': layer, 'units': units.tolist(), 'data': split.name, 'searched': len(at), 'rule': options.rule,
               'receptive_field': field.receptive_field, 'count': min(options.count, len(at)), 'found': found,
               'table': table(found)}
    return numbers | ({} if request.images is None else {'images': at.tolist()}), pictures


def look(request: Request, options: Options, picture: Path) -> tuple[dict[str, Any], str]:
    numbers, pictures = measure(request, options)
    draw(request, numbers, pictures, picture)
    return numbers, statement(numbers)


def statement(numbers: dict[str, Any]) -> str:
    pairs = [(unit['projections_alike'], unit['patches_alike']) for unit in numbers['found']]
    pairs = [pair for pair in pairs if None not in pair]
    said = (f'{NAMES[numbers["rule"]]} of the {numbers["count"]} greatest activations of {len(numbers["found"])} units '
            f'of {numbers["layer"]} in {numbers["searched"]:,} images of {numbers["data"]}, one an image.')
    if pairs:
        down, seen = np.mean(pairs, 0)
        said += (f' Two projections of a unit have a mean cosine of {down:.2f}, their patches {seen:.2f}, each less '
                 'its mean.')
    idle = sum(not unit['patches'] for unit in numbers['found'])
    blank = sum(unit['blank'] for unit in numbers['found'])
    said += f' {blank} projections are blank: no signal comes down, as from a saturated unit.' if blank else ''
    return said + (f' Active in none of the images: {idle} of the units.' if idle else '')


def table(found: list[dict[str, Any]]) -> dict[str, Any]:
    def number(value):
        return '-' if value is None else f'{value:.2f}'

    return {'columns': ['unit', 'strongest', 'weakest shown', 'cosine of projections', 'of patches'],
            'rows': [[unit['unit'], *(f'{unit["patches"][k]["activation"]:.3g}' if unit['patches'] else '-'
                                      for k in (0, -1)),
                      number(unit['projections_alike']), number(unit['patches_alike'])] for unit in found]}


def draw(request: Request, numbers: dict[str, Any], pictures: list[tuple[list, list]], picture: Path) -> None:
    """Draws one unit a row: its projections at the left, each with a contrast of its own, and at the same places at the
    right the patches that caused them."""
    layer, count, rule = request.geometry[numbers['layer']], numbers['count'], numbers['rule']
    sheet = Sheet(2 * BLOCK + 40, len(pictures) * patches.tall(count) - 30, f'{NAMES[rule]} of {layer.name}',
                  [request.network.origin, f'{numbers["searched"]:,} images of {numbers["data"]}',
                   patches.words(layer, request.size),
                   'left: single activations brought down to the pixels, each with its own contrast around mid-grey'])
    for k, (unit, (down, seen)) in enumerate(zip(numbers['found'], pictures)):
        x, y = MARGIN, sheet.top + k * patches.tall(count)
        patches.heading(sheet, x, y, layer.name, unit, 2 * BLOCK)
        sheet.text(x + 2 * BLOCK + 40, y + 22, 'right: what caused them', BLOCK, color=GREY, ha='right')
        patches.grid(sheet, x, y + HEAD, [contrasted(one) for one in down], count)
        patches.grid(sheet, x + BLOCK + 40, y + HEAD, seen, count, patches.labels(unit))
    sheet.save(picture)


METHOD = Method(look, takes=frozenset({'layer', 'unit', 'images'}), options=Options())
