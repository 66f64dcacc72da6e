"""The pixels on which a score or a unit depends: the gradient in the pixels (Simonyan, Vedaldi and Zisserman 2013,
section 3), and guided backpropagation (Springenberg et al. 2014, section 3.4). One central crop is looked at.

Without --layer and --unit, the unit is the score of the true class, before the softmax. A unit that has a map is
looked at where it is strongest; without --unit, that is the unit of the layer that is strongest in each image. A map
to which nothing comes down, as from a ReLU that is silent in an image, is blank and not drawn.
"""
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.colors import to_rgb
from rich.console import Console
from rich.progress import track

from lib import backward
from lib.backward import GRADIENT, GUIDED, Rule
from lib.data.sources import Split
from lib.experiment import require
from lib.visualize import GREY, MARGIN, OTHER, Sheet, class_name
from lib.visualize.request import Method, Request

EXAMPLES = 8
DRAWN = 24              # rows of a picture at most
SIDE, GAP = 236, 12
QUANTILE = 0.995        # of what is not zero in a map: this is drawn as white, or as far from grey as it goes


class Target(NamedTuple):
    """A unit in an image."""
    image: int              # number in the split
    unit: int
    value: float            # its output, where it is strongest
    place: tuple[int, ...]  # row and column there; () if it has no map


def maps(request: Request, rule: Rule, split: Split, at: np.ndarray) -> tuple[str, list[Target], np.ndarray]:
    """(layer, targets, float32 [targets, S, S, 3]): the signals in the pixels, images in the order of `at`, and for
    each the units that the head of this module names.

    Raises:
      UsageError: if the layer or a unit is not there.
    """
    layer, targets, found = request.chosen_layer(request.layers[-1]), [], []
    starts = range(0, len(at), request.batch_size)
    for start in track(starts, f'Looking at {len(at):,} images', console=Console(stderr=True), transient=True):
        part = at[start:start + request.batch_size]
        pixels = request.pixels(split, part)
        outputs = request.activations(layer, pixels)
        for units in _units(request, layer, split, part, outputs):
            signal, values, places = project(request, rule, layer, pixels, outputs, units)
            targets += [Target(*map(int, pair), float(value), tuple(map(int, place)))
                        for *pair, value, place in zip(part, units, values, places)]
            found.append(signal)
    order = np.argsort([np.flatnonzero(at == target.image)[0] for target in targets], kind='stable')
    return layer, [targets[i] for i in order], np.concatenate(found)[order]


def _units(request: Request, layer: str, split: Split, at: np.ndarray, outputs: jax.Array) -> list[np.ndarray]:
    """Of images whose outputs of the layer are known: int64 [n], as often as there are units an image."""
    if request.unit:
        return [np.full(len(at), unit) for unit in request.units(layer, len(request.unit))]
    if layer == request.layers[-1]:
        return [request.true_classes(split, at)]
    return [np.asarray(outputs.max(tuple(range(1, outputs.ndim - 1))).argmax(1))]


def project(request: Request, rule: Rule, layer: str, pixels: np.ndarray, outputs: jax.Array,
            units: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(float32 [n, S, S, 3]: the signal that unit i of a layer hands down to the pixels of image i from where it is
    strongest; [n]: its output there; int64 [n, 0 or 2]: row and column).

    Args:
      outputs: of the layer for these pixels.
    """
    ones, values, places = _strongest(outputs, units)
    entered, leave = jax.vjp(request.enter, jnp.asarray(pixels, jnp.float32))
    signal = backward.project(request.network.task.activations, layer, rule, request.params, entered, ones)
    sizes = outputs.shape[1:-1]
    places = np.stack(np.unravel_index(places, sizes), 1) if sizes else np.zeros((len(pixels), 0), np.int64)
    return np.asarray(leave(signal)[0]), np.asarray(values), places


@jax.jit
def _strongest(outputs, units):
    """Zeros of the shape of the outputs with a one where unit i is strongest in image i, its output, the place."""
    each = jnp.arange(len(outputs))
    flat = outputs.reshape(len(outputs), -1, outputs.shape[-1])
    own = flat[each, :, units]
    place = own.argmax(1)
    ones = jnp.zeros_like(flat).at[each, place, units].set(1)
    return ones.reshape(outputs.shape), own.max(1), place


def magnitude(signal: np.ndarray) -> np.ndarray:
    """[n, S, S]: the largest absolute value over the channels."""
    return np.abs(signal).max(-1)


def half(found: np.ndarray) -> np.ndarray:
    """float64 [n]: the smallest part of the pixels, in %, that has half of the sum of a map [n, S, S] of numbers that
    are not negative; NaN where all are zero."""
    falling = np.sort(found.reshape(len(found), -1).astype(np.float64), axis=1)[:, ::-1]
    sums = np.cumsum(falling, axis=1)
    needed = (sums < sums[:, -1:] / 2).sum(1) + 1
    return np.where(sums[:, -1] > 0, 100 * needed / falling.shape[1], np.nan)


def look(request: Request, options: None, picture: Path) -> tuple[dict[str, Any], str]:
    split, at = request.examples(EXAMPLES)
    layer, targets, signals = maps(request, GRADIENT, split, at)
    found = magnitude(signals)
    active = _active(layer, targets, found)
    images = _images(request, split, targets, active)
    rows = [(image, grey(one), overlay(image, one)) for image, one in zip(images, found[active])]
    _draw(request, split, layer, targets, active, ('the image', 'its saliency', 'one over the other'), rows,
          f'Saliency: the pixels on which {_subject(request, layer)} depends',
          'Size of the gradient in a pixel, the largest of its channels.', picture)
    return _numbers(request, split, at, layer, targets, found), statement('saliency', half(found))


def look_guided(request: Request, options: None, picture: Path) -> tuple[dict[str, Any], str]:
    """Raises UsageError for a network without ReLUs, to which guided backpropagation is the gradient."""
    require(request.has_relus,
            '--method=guided changes what ReLUs hand down, and this network has none: choose --method=saliency.')
    split, at = request.examples(EXAMPLES)
    layer, targets, signals = maps(request, GUIDED, split, at)
    plain = maps(request, GRADIENT, split, at)[2]
    found = magnitude(signals)
    active = _active(layer, targets, found)
    rows = list(zip(_images(request, split, targets, active), map(coloured, signals[active]),
                    map(coloured, plain[active])))
    _draw(request, split, layer, targets, active, ('the image', 'guided backpropagation', 'the gradient'), rows,
          f'Guided backpropagation from {_subject(request, layer)}',
          'Mid-grey is zero; each picture has its own scale.', picture)
    return (_numbers(request, split, at, layer, targets, found),
            f'{statement("guided signal", half(found))} {statement("gradient", half(magnitude(plain)))}')


METHOD = Method(look, takes=frozenset({'layer', 'unit', 'images'}))
GUIDED_METHOD = Method(look_guided, takes=frozenset({'layer', 'unit', 'images'}))


def _active(layer: str, targets: Sequence[Target], found: np.ndarray) -> np.ndarray:
    """int64: the numbers of maps [n, S, S] that are not blank, DRAWN at most."""
    active = np.flatnonzero(found.any((1, 2)))
    units = ', '.join(map(str, sorted({target.unit for target in targets})))
    require(len(active) > 0, f'From unit {units} of {layer} nothing comes down to the pixels of these images: choose '
                             'another --unit, or --images in which it is active.')
    return active[:DRAWN]


def _images(request: Request, split: Split, targets: Sequence[Target], active: np.ndarray) -> np.ndarray:
    return request.pixels(split, np.array([targets[i].image for i in active])) / 255


def _subject(request: Request, layer: str) -> str:
    if layer != request.layers[-1]:
        return f'a unit of {layer}'
    return "a class's score" if request.unit else "the true class's score"


def _numbers(request: Request, split: Split, at: np.ndarray, layer: str, targets: Sequence[Target],
             found: np.ndarray) -> dict[str, Any]:
    rows = [[target.image, class_name(split, split.labels[target.image]), request.unit_name(layer, target.unit),
             f'{target.value:.4g}', ', '.join(map(str, target.place)), '' if np.isnan(share) else f'{share:.1f}']
            for target, share in zip(targets, half(found))]
    columns = ['Image', 'Label', 'Unit', 'Output', 'Row, column', 'Half of the map lies in % of the pixels']
    keep = [i for i, column in enumerate(columns) if column != 'Row, column' or any(t.place for t in targets)]
    return {'layer': layer, 'units': [target.unit for target in targets], 'data': split.name,
            'images': [int(number) for number in at],
            'table': {'columns': [columns[i] for i in keep], 'rows': [[row[i] for i in keep] for row in rows]}}


def statement(what: str, shares: np.ndarray) -> str:
    """Of shares as `half` gives them."""
    said = (f'Half of the {what} lies in {np.nanmean(shares):.1f} % of the pixels, as the mean over '
            f'{np.isfinite(shares).sum()} maps (50 % if it were the same everywhere).') if np.isfinite(shares).any() \
        else ''
    blank = int(np.isnan(shares).sum())
    return (said + f' Of {len(shares)} maps {blank} are blank: nothing comes down from the unit.' * (blank > 0)).strip()


# ---------------------------------------------------------------------------------------------- pictures

def grey(found: np.ndarray) -> np.ndarray:
    """[h, w, 3] from 0 to 1: a map [h, w] that is not negative, zero black."""
    return np.repeat(_scaled(found)[..., None], 3, axis=2)


def coloured(signal: np.ndarray) -> np.ndarray:
    """[h, w, 3] from 0 to 1: a signal [h, w, 3] about mid-grey; grey if only the first channel is read."""
    signal = signal if signal[..., 1:].any() else np.repeat(signal[..., :1], 3, axis=2)
    return 0.5 + 0.5 * np.sign(signal) * _scaled(np.abs(signal))


def overlay(image: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The image [h, w, 3], 0 to 1, in pale grey, and in orange what the map [h, w] has."""
    pale = 0.45 + 0.55 * image.mean(2, keepdims=True)
    share = _scaled(found)[..., None]
    return np.clip((1 - share) * pale + share * np.array(to_rgb(OTHER)), 0, 1)


def _scaled(found: np.ndarray) -> np.ndarray:
    return np.clip(found / np.quantile(found[found > 0], QUANTILE), 0, 1) if found.any() else found


def _draw(request: Request, split: Split, layer: str, targets: Sequence[Target], active: np.ndarray,
          headings: Sequence[str], rows: Sequence[Sequence[np.ndarray]], title: str, meaning: str, path: Path) -> None:
    """A row for each target at the numbers `active`: three pictures [S, S, 3]."""
    drawn = f'; {len(rows)} of {len(targets)} maps are drawn' if len(rows) < len(targets) else ''
    images = len({target.image for target in targets})
    lines = [request.network.origin, f'{images} images of {split.name}, one central crop of {request.size} '
                                     f'pixels{drawn}', meaning]
    tall = SIDE + 38
    sheet = Sheet(len(headings) * (SIDE + GAP) - GAP, 24 + len(rows) * tall - 14, title, lines)
    for j, heading in enumerate(headings):
        sheet.text(MARGIN + j * (SIDE + GAP), sheet.top, heading, SIDE, size=15, color=GREY)
    for i, (number, pictures) in enumerate(zip(active, rows)):
        target = targets[number]
        y = sheet.top + 24 + i * tall
        for j, picture in enumerate(pictures):
            sheet.image(MARGIN + j * (SIDE + GAP), y, SIDE, SIDE, picture)
        place = f' at row {target.place[0]}, column {target.place[1]}' if target.place else ''
        label = class_name(split, split.labels[target.image])
        sheet.text(MARGIN, y + SIDE + 4, f'image {target.image}: {label}', SIDE, size=14)
        sheet.text(MARGIN + SIDE + GAP, y + SIDE + 4,
                   f'{layer}, {request.unit_name(layer, target.unit)}: {target.value:.3g}{place}',
                   2 * SIDE + GAP, size=14)
    sheet.save(path)
