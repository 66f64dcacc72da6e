"""The kernels of a first layer as pictures, by group, and what distinguishes them from random weights; the kernels of a
later layer as grids.

Zeiler and Fergus 2013, section 4.1, argue from such pictures against a first layer with dead features, and with
extremely high and low frequencies but few in between. Here that is counted: dead kernels and near-duplicates, and for
each kernel the share of colour, how far one orientation prevails, and how its energy is spread over frequencies.
"""
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lib.experiment import require
from lib.visualize import GREY, MARGIN, OTHER, SAME, Sheet
from lib.visualize.request import Method, Request

COLUMNS, SIDE, GAP, CAPTION = 16, 66, 4, 46
DRAWS = 1000                # random kernels, to compare with
FINE = 32                   # spatial frequencies a side at which spectra are taken
BANDS = (1 / 6, 1 / 3)      # cycles per pixel: low frequencies end and high ones begin, thirds of what pixels can show
SLICE, IN_ROW, SQUARE = 44, 64, 16
UNITS = 8


@dataclasses.dataclass(frozen=True)
class Options:
    """The paper states no thresholds; these are ours."""
    dead: float = 0.1       # a kernel with a smaller norm is dead; as a share of the median norm of its layer
    duplicate: float = 0.9  # least absolute correlation of its weights with an earlier kernel's of a near-duplicate
    slices: int = 24        # of a unit of a later layer, at most so many slices are shown: those of greatest norm

    def __post_init__(self):
        require(0 <= self.dead < 1, f'kernels.dead={self.dead} must be at least 0 and below 1.')
        require(0 < self.duplicate <= 1, f'kernels.duplicate={self.duplicate} must be above 0, and at most 1.')
        require(self.slices >= 1, f'kernels.slices={self.slices} must be at least 1.')


def look(request: Request, options: Options, picture: Path) -> tuple[dict[str, Any], str]:
    layer = request.chosen_layer(request.first_layer)
    lines = [request.network.origin, *_trained_on(request)]
    if layer != request.first_layer:
        return _look_later(request, layer, options, lines, picture)
    weights, groups = of_first_layer(request)
    found = measure(weights, groups, options)
    draw(weights, groups, f'Kernels of {layer}', [*lines, *legend(found)], picture, options)
    return {'layer': layer} | found | {'table': table(found)}, statement(found)


def of_first_layer(request: Request) -> tuple[np.ndarray, int]:
    """(kernels [height, width, 3 or 1, n], the number of groups that they form)."""
    require(not request.unit, f'All kernels of {request.first_layer} are shown: leave out --unit.')
    weights = np.asarray(request.network.params[request.first_layer]['kernel'])
    return weights, getattr(request.network.experiment.model, 'groups', 1)


def legend(found: dict[str, Any]) -> list[str]:
    """What numbers in brackets mean, and frames around kernels if there are any."""
    marked = [f'{colour}: {words}' for colour, key, words in (
        ('orange', 'dead', 'dead'), ('blue', 'duplicates', 'near-duplicates of an earlier kernel'))
        if any(group[key] for group in found['groups'])]
    return ['in brackets: the means of random weights', *([f'framed in {"; in ".join(marked)}'] if marked else [])]


def _trained_on(request: Request) -> list[str]:
    return [] if request.network.step is None else [f'trained on {request.data.source} {request.data.train_split}']


# ------------------------------------------------------------------------------------------------- the first layer

def measure(kernels: np.ndarray, groups: int = 1, options: Options = Options()) -> dict[str, Any]:
    """{'channels', 'random': {measure: mean}, 'groups': [{'kernels', 'dead': [numbers], 'duplicates': [{'kernel',
    'earlier', 'correlation'}], measure: {'mean', 'median', 'below', 'above', 'of_each'}, ...}, ...]} with the measures
    'colour' (of three channels), 'orientation', 'low', 'middle' and 'high'; 'below' and 'above' are how many kernels
    have less, or more, than 99 % of random ones. Numbers of kernels count through all groups.

    Args:
      kernels: [height, width, 3 or 1, n].
      groups: of n / groups kernels each, one after the other.

    Raises:
      ValueError: if `groups` does not divide n.
    """
    random = _measures(np.random.default_rng(0).standard_normal((*kernels.shape[:3], DRAWS)))
    limits = {name: np.quantile(values, (0.01, 0.99)) for name, values in random.items()}
    silent, alike, found, first = dead(kernels, options.dead), duplicates(kernels, options.duplicate), [], 0
    for part in _split(kernels, groups):
        here = range(first, first + part.shape[-1])
        measures = {name: {'mean': float(values.mean()), 'median': float(np.median(values)),
                           'below': int((values < limits[name][0]).sum()),
                           'above': int((values > limits[name][1]).sum()), 'of_each': values.tolist()}
                    for name, values in _measures(part).items()}
        found.append({'kernels': len(here), 'dead': [k for k in silent if k in here],
                      'duplicates': [pair for pair in alike if pair['kernel'] in here]} | measures)
        first = here.stop
    return {'channels': kernels.shape[2], 'random': {name: float(values.mean()) for name, values in random.items()},
            'groups': found}


def _measures(kernels: np.ndarray) -> dict[str, np.ndarray]:
    colour = {'colour': colour_share(kernels)} if kernels.shape[2] == 3 else {}
    return colour | {'orientation': orientation(kernels)} | dict(zip(('low', 'middle', 'high'), bands(kernels)))


def colour_share(kernels: np.ndarray) -> np.ndarray:
    """The share of each kernel's energy that is not grey: [n] from [height, width, 3, n], 0 (grey) to 1.

    Energy is the sum of squares; the grey part of a pixel is the mean of its three weights. A kernel of zeros has 0. Of
    three independent weights of equal variance two parts in three are expected not to be grey.
    """
    kernels = np.asarray(kernels, np.float64)
    colour = kernels - kernels.mean(axis=2, keepdims=True)
    return _share(np.square(colour).sum(axis=(0, 1, 2)), np.square(kernels).sum(axis=(0, 1, 2)))


def orientation(kernels: np.ndarray) -> np.ndarray:
    """How much each kernel [height, width, channels, n] has one orientation: [n], 0 (none) to 1 (a grating).

    The length of the mean of exp(2 i angle) over the frequencies that all directions have, each weighted with its
    energy, less the mean of each channel: 1 less the circular variance by which orientation tuning is measured.
    """
    power, frequency = _spectrum(kernels - kernels.mean(axis=(0, 1), keepdims=True))
    power = power * (abs(frequency) < 0.5)[..., None]
    double = np.exp(2j * np.angle(frequency))[..., None]
    return _share(abs((power * double).sum(axis=(0, 1))), power.sum(axis=(0, 1)))


def bands(kernels: np.ndarray) -> np.ndarray:
    """[3, n]: the shares of each kernel's energy at low, middle and high spatial frequencies, parted at BANDS."""
    power, frequency = _spectrum(kernels)
    band = np.digitize(abs(frequency), BANDS)
    return np.stack([_share(power[band == number].sum(axis=0), power.sum(axis=(0, 1))) for number in range(3)])


def _spectrum(kernels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(energy [FINE, FINE, n], summed over channels; the frequency x + i y of each, in cycles per pixel)."""
    side = max(FINE, *kernels.shape[:2])
    power = np.square(abs(np.fft.fft2(np.asarray(kernels, np.float64), (side, side), axes=(0, 1)))).sum(axis=2)
    cycles = np.fft.fftfreq(side)
    return power, cycles[None, :] + 1j * cycles[:, None]


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.where(whole > np.finfo(float).tiny, whole, 1)


def dead(kernels: np.ndarray, least: float) -> list[int]:
    """The kernels [..., n] whose norm is below `least` times the median norm."""
    norms = np.linalg.norm(kernels.reshape(-1, kernels.shape[-1]), axis=0)
    return np.flatnonzero(norms < least * np.median(norms)).tolist()


def duplicates(kernels: np.ndarray, least: float) -> list[dict[str, Any]]:
    """The kernels [..., n] whose absolute correlation with an earlier one is at least `least`, with the earlier one
    that is nearest. Correlation is the cosine of the angle between their weights, less their means."""
    flat = kernels.reshape(-1, kernels.shape[-1])
    flat = flat - flat.mean(axis=0)
    flat = _share(flat, np.linalg.norm(flat, axis=0))
    alike = np.triu(flat.T @ flat, 1)
    nearest = abs(alike).argmax(axis=0)
    return [{'kernel': k, 'earlier': int(i), 'correlation': float(alike[i, k])} for k, i in enumerate(nearest)
            if abs(alike[i, k]) >= least]


MEASURES = {'colour': 'colour', 'orientation': 'orientation', 'low': 'low frequencies'}     # of captions


def statement(found: dict[str, Any]) -> str:
    def compared(group: dict[str, Any], name: str) -> str:
        counts = ''.join(f'; {group[name][side]} {side}' for side in ('below', 'above') if group[name][side])
        return f'{MEASURES[name]} {group[name]["mean"]:.2f} ({found["random"][name]:.2f}{counts})'

    groups = '; '.join(f'{_name(found, i)}{_counts(group)}, ' + ', '.join(
        compared(group, name) for name in MEASURES if name in group) for i, group in enumerate(found['groups']))
    colour = '' if 'colour' in found['random'] else 'The kernels read one channel and have no colour. '
    return (f'{colour}{groups}. Means over the kernels; in brackets that of random weights, and how many kernels are '
            'below or above 99 % of those. Colour: share of energy that is not grey; orientation: 0 (none) to 1 (a '
            'grating); low frequencies: share of energy below a third of the highest.')


def table(found: dict[str, Any]) -> dict[str, list]:
    names = list(found['random'])
    rows = [[_name(found, i).rstrip(': ') or 'all', group['kernels'], len(group['dead']), len(group['duplicates']),
             *(round(group[name]['mean'], 3) for name in names)] for i, group in enumerate(found['groups'])]
    return {'columns': ['group', 'kernels', 'dead', 'near-duplicates', *names],
            'rows': [*rows, ['random weights', DRAWS, '', '', *(round(found['random'][name], 3) for name in names)]]}


def draw(kernels: np.ndarray, groups: int, title: str, lines: Sequence[str], path: Path,
         options: Options = Options()) -> None:
    """Draws the kernels [height, width, 3 or 1, n], 16 a row, with the numbers of `measure` over each group. Each has
    its own scale: zero is mid-grey, its largest absolute weight black or white. Dead ones have an orange frame,
    near-duplicates a blue one.

    Raises:
      ValueError: if `groups` does not divide n.
    """
    found = measure(kernels, groups, options)
    width, height = extent(kernels, groups, COLUMNS)
    sheet = Sheet(width, height, title, lines)
    place(sheet, MARGIN, sheet.top, sheet.width - 2 * MARGIN, kernels, found, COLUMNS)
    sheet.save(path)


def extent(kernels: np.ndarray, groups: int, columns: int) -> tuple[int, int]:
    """Width and height, in pixels of a sheet, of what `place` draws."""
    tall, wide = _tile(kernels)
    count = kernels.shape[-1] // groups
    return min(columns, count) * wide - GAP, groups * (CAPTION + -(-count // columns) * tall + 18) - 18 - GAP


def place(sheet: Sheet, left: float, top: float, room: float, kernels: np.ndarray, found: dict[str, Any],
          columns: int) -> None:
    """Draws the kernels on a sheet, `columns` a row, with a caption of two lines, at most `room` wide, over each
    group."""
    tall, wide = _tile(kernels)
    colours = dict.fromkeys((pair['kernel'] for group in found['groups'] for pair in group['duplicates']), SAME) | \
        dict.fromkeys((k for group in found['groups'] for k in group['dead']), OTHER)
    number = 0
    for i, (part, group) in enumerate(zip(_split(np.asarray(kernels, np.float32), len(found['groups'])),
                                          found['groups'])):
        measures = ', '.join(f'{words} {group[name]["mean"]:.2f} ({found["random"][name]:.2f})'
                             for name, words in MEASURES.items() if name in group)
        sheet.text(left, top, f'{_name(found, i)}{_counts(group)}', room, color=GREY)
        sheet.text(left, top + 19, measures, room, color=GREY)
        top += CAPTION
        for k, picture in enumerate(_pictures(part)):
            x, y = left + k % columns * wide, top + k // columns * tall
            if number in colours:
                sheet.box(x - 2, y - 2, wide - GAP + 4, tall - GAP + 4, colours[number])
            sheet.image(x, y, wide - GAP, tall - GAP, picture)
            number += 1
        top += -(-part.shape[-1] // columns) * tall + 18


def _tile(kernels: np.ndarray) -> tuple[int, int]:
    """The height and width that a kernel takes, with the gap after it."""
    height, width = kernels.shape[:2]
    zoom = max(1, round(SIDE / width))
    return height * zoom + GAP, width * zoom + GAP


def _pictures(kernels: np.ndarray) -> np.ndarray:
    """[n, height, width, 3], 0 to 1; one channel is grey."""
    kernels = kernels.repeat(3, axis=2) if kernels.shape[2] == 1 else kernels
    return np.moveaxis(_scaled(kernels, np.abs(kernels).max(axis=(0, 1, 2))), -1, 0)


def _scaled(weights: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Zero is mid-grey, the largest absolute weight black or white."""
    return 0.5 + 0.5 * weights / np.maximum(largest, np.finfo(np.float32).tiny)


def _split(kernels: np.ndarray, groups: int) -> list[np.ndarray]:
    count = kernels.shape[-1]
    if count % groups:
        raise ValueError(f'{count} kernels do not make {groups} equal groups')
    return np.split(kernels, groups, axis=-1)


def _name(found: dict[str, Any], group: int) -> str:
    return f'group {group + 1}: ' if len(found['groups']) > 1 else ''


def _counts(group: dict[str, Any]) -> str:
    return f'{group["kernels"]} kernels, {len(group["dead"])} dead, {len(group["duplicates"])} near-duplicates'


# --------------------------------------------------------------------------------------------------- later layers

def _look_later(request: Request, layer: str, options: Options, lines: list[str],
                picture: Path) -> tuple[dict[str, Any], str]:
    weights, note = of_layer(request, layer)
    groups, units = request.geometry[layer].groups, request.units(layer, UNITS)
    each = weights.shape[-1] // groups
    alike = [{'kernel': pair['kernel'] + i * each, 'earlier': pair['earlier'] + i * each,
              'correlation': pair['correlation']} for i, part in enumerate(_split(weights, groups))
             for pair in duplicates(part, options.duplicate)]
    silent = dead(weights, options.dead)
    said = (f'{weights.shape[-1]} kernels, {len(silent)} dead (norm below {options.dead:g} of the median), '
            f'{len(alike)} near-duplicates (correlation of at least {options.duplicate:g} with an earlier one'
            f'{" of the group" * (groups > 1)}).')
    counts = f'{weights.shape[-1]} kernels, {len(silent)} dead, {len(alike)} near-duplicates'
    draw_later(weights, groups, units, options.slices, f'Kernels of {layer}', [*lines, counts, *note], picture)
    return {'layer': layer, 'units': units.tolist(), 'kernels': weights.shape[-1], 'dead': silent,
            'duplicates': alike}, ' '.join([f'{layer}: {said}', *note])


def of_layer(request: Request, layer: str) -> tuple[np.ndarray, list[str]]:
    """(kernels [height, width, maps of the group before, n], what has to be said of them).

    Raises:
      UsageError: if the layer has no kernels, or they have no places.
    """
    about = request.geometry[layer]
    keys = [name for name in about.shapes if name.split('.')[-1] == 'kernel']
    there = [other.name for other in request.geometry.layers if len(other.input) == 3
             and any(name.endswith('kernel') and len(shape) > 1 for name, shape in other.shapes.items())]
    require(len(keys) == 1 and len(about.shapes[keys[0]]) > 1,
            f'{layer} has no kernels to show: choose one of {", ".join(there)}.')
    owner = keys[0].rpartition('.')[0] or layer
    kernel = np.asarray(request.network.params[owner]['kernel'], np.float32)
    if about.kind == 'locally connected':
        row, column = kernel.shape[0] // 2, kernel.shape[1] // 2
        window = about.window.size
        return kernel[row, column].reshape(window, window, -1, kernel.shape[-1]), \
            [f'Each place has its own kernels: here those of row {row}, column {column}.']
    if kernel.ndim == 3:
        return _connected(request, layer, owner, kernel), ['Maps that a unit does not read have no slice.']
    if kernel.ndim == 2:
        require(len(about.input) == 3, f'{layer} reads {about.input[-1]} units that have no places, so its weights '
                                       f'make no picture: choose one of {", ".join(there)}.')
        return kernel.reshape(*about.input, -1), []
    return kernel, []


def _connected(request: Request, layer: str, owner: str, kernel: np.ndarray) -> np.ndarray:
    """[height, width, inputs, n] from a kernel [height, width, connections], zero where a map does not read another.

    Which maps a connection joins is seen in what the first window does: only its own output has a derivative in its
    weights, and this is proportional to what the map that is read holds there.
    """
    height, width, _ = kernel.shape
    about, task, params = request.geometry[layer], request.network.task, request.network.params
    image = jax.random.normal(jax.random.key(0), (1, request.size, request.size, 3))

    def first(kernel):
        return task.activations(params | {owner: params[owner] | {'kernel': kernel}}, image)[layer][0, 0, 0]

    derivative = np.asarray(jax.jacobian(first)(kernel))
    read = np.asarray(task.activations(params, image)[about.reads[0]][0, :height, :width])
    targets = np.square(derivative).sum(axis=(1, 2)).argmax(axis=0)
    own = derivative[targets, :, :, np.arange(len(targets))].reshape(len(targets), -1)
    read = read.reshape(height * width, -1)
    sources = abs(own @ (read / np.linalg.norm(read, axis=0))).argmax(axis=1)
    whole = np.zeros((height, width, about.input[-1], about.size[-1]), np.float32)
    whole[:, :, sources, targets] = kernel
    return whole


def draw_later(weights: np.ndarray, groups: int, units: np.ndarray, most: int, title: str, lines: Sequence[str],
               path: Path) -> None:
    """Draws of each unit the slices of its kernel [height, width, maps, n], one for each map that it reads, at most
    `most`, those of greatest norm in the order of the maps; kernels of one place whole, a square a map. Each unit has
    its own scale: zero is mid-grey, its largest absolute weight black or white."""
    height, width, maps, count = weights.shape
    point = height == width == 1
    zoom = SQUARE - 1 if point else max(1, round(SLICE / width))
    columns = min(maps, IN_ROW if point else most)
    tall, wide = (SQUARE, SQUARE) if point else (height * zoom + 22, max(SLICE, width * zoom) + GAP)
    block = (-(-maps // columns) if point else 1) * tall + 44
    sheet = Sheet(columns * wide, len(units) * block - 20, title, lines)
    for i, unit in enumerate(units):
        top, kernel = sheet.top + i * block, weights[..., unit]
        norms = np.linalg.norm(kernel, axis=(0, 1))
        strongest = np.argsort(-norms, kind='stable')[:min(columns, (norms > 0).sum())]
        shown = np.arange(maps) if point else np.sort(strongest)
        first = unit // (count // groups) * maps        # of the maps before it that its group reads
        sheet.text(MARGIN, top, f'unit {unit}: {_selection(norms, shown, point)}', sheet.width - 2 * MARGIN, color=GREY)
        for k, number in enumerate(shown):
            x, y = MARGIN + k % columns * wide, top + 22 + k // columns * tall
            slice_ = _scaled(kernel[:, :, number, None], abs(kernel).max()).repeat(3, axis=2)
            sheet.image(x, y, width * zoom, height * zoom, slice_)
            if not point:
                sheet.text(x, y + height * zoom + 2, f'{first + number}', wide, size=11, color=GREY)
    sheet.save(path)


def _selection(norms: np.ndarray, shown: np.ndarray, point: bool) -> str:
    if point:
        return f'its {len(norms)} weights in the order of the maps, {IN_ROW} a row'
    read = int((norms > 0).sum())
    if len(shown) == read:
        return f'all its {read} slices; below each the map that it reads'
    share = np.square(norms[shown]).sum() / np.square(norms).sum()
    return (f'the {len(shown)} strongest of {read} slices, {100 * share:.0f} % of its energy; below each the map that '
            'it reads')


METHOD = Method(look, takes=frozenset({'layer', 'unit'}), options=Options())
