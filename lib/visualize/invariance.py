"""How far features move when an image is translated, scaled and rotated (Zeiler and Fergus 2013, section 4 and
Figure 5)."""
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.progress import track
from scipy import ndimage

from lib.experiment import require
from lib.visualize import GREY, MARGIN, Sheet, class_name
from lib.visualize.request import Method, Request

EXAMPLES, MOST = 5, 8       # images: in the paper, and whose curves can be told apart
PAPERS_SIZE = 224           # pixels a side, of which the paper's translations are
STRIP = 5                   # pictures of each image
COLUMN, GAP, HEAD, FOOT, BAR = 290, 62, 34, 64, 6
COLOURS = plt.get_cmap('tab10').colors
WORDS = {'translation': 'translation by {:.3g} px', 'scale': 'scale of {:.3g}', 'rotation': 'rotation by {:.3g}°'}
AXES = {'translation': 'pixels', 'scale': 'times', 'rotation': 'degrees'}
NEUTRAL = {'translation': 0, 'scale': 1, 'rotation': 0}


@dataclasses.dataclass(frozen=True)
class Options:
    first: str | None = None    # the earlier of two layers; none for the network's first. --layer is the later one
    shift: float = 60           # largest vertical translation, in pixels of 224, up and down (Figure 5, from memory)
    scale: float = 1.8          # largest (Figure 5, from memory)
    rotation: float = 360       # largest, in degrees (Figure 5, from memory)
    steps: int = 25             # of each transformation

    def __post_init__(self):
        require(0 < self.shift < PAPERS_SIZE, f'invariance.shift={self.shift} must be above 0 and below {PAPERS_SIZE} '
                                              'pixels.')
        require(1 < self.scale <= 10, f'invariance.scale={self.scale} must be above 1, and at most 10.')
        require(0 < self.rotation <= 360, f'invariance.rotation={self.rotation} must be above 0, and at most 360 '
                                          'degrees.')
        require(5 <= self.steps <= 200, f'invariance.steps={self.steps} must be 5 to 200.')


def amounts(options: Options, size: int) -> dict[str, np.ndarray]:
    """{transformation: float64 [n], rising}: translations are whole pixels of images of `size` pixels, downwards above
    zero; each has the amount that changes nothing."""
    most = max(1, round(options.shift * size / PAPERS_SIZE))
    shifts = np.linspace(-most, most, options.steps).round()
    return {'translation': np.unique([*shifts, 0]), 'scale': np.linspace(1, options.scale, options.steps),
            'rotation': np.linspace(0, options.rotation, options.steps)}


def transformed(pixels: np.ndarray, kind: str, amount: float) -> np.ndarray:
    """float32 [n, S, S, 3]: images moved down by so many pixels, enlarged so many times about the middle, or turned
    counter-clockwise about it by so many degrees. Bilinear; the pixels of the border continue beyond it."""
    backwards = np.eye(2)       # from a place of the result to one of the image
    if kind == 'scale':
        backwards /= amount
    elif kind == 'rotation':
        cosine, sine = np.cos(np.deg2rad(amount)), np.sin(np.deg2rad(amount))
        backwards = np.array([[cosine, sine], [-sine, cosine]])
    middle = np.full(2, (pixels.shape[1] - 1) / 2)
    offset = np.array([-amount, 0]) if kind == 'translation' else middle - backwards @ middle
    found = np.empty(pixels.shape, np.float32)
    for image, channel in np.ndindex(len(pixels), pixels.shape[-1]):
        ndimage.affine_transform(pixels[image, ..., channel].astype(np.float32), backwards, offset,
                                 output=found[image, ..., channel], order=1, mode='nearest')
    return found


def distances(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float64 [n]: Euclidean, of each vector or stack of maps to the other of its number."""
    difference = np.asarray(features, np.float64) - np.asarray(others, np.float64)
    return np.sqrt(np.square(difference.reshape(len(difference), -1)).sum(1))


def apart(features: np.ndarray) -> float | None:
    """The mean distance of two of the images; None of one image."""
    pairs = [distances(features[k + 1:], features[k:k + 1]) for k in range(len(features) - 1)]
    return float(np.concatenate(pairs).mean()) if pairs else None


def measure(request: Request, options: Options) -> dict[str, Any]:
    """{'layers': the two, 'data', 'images', 'classes': of each, 'apart': mean distance of two images in each layer,
    'transformations': {kind: {'amounts': [a], 'distances': [[a] an image] of each layer, 'probability': [[a] an
    image]}}, 'table'}."""
    last = request.chosen_layer()
    first = options.first or request.first_layer
    require(first in request.layers, f'invariance.first={first} is not in this network: choose one of '
                                     f'{", ".join(request.layers)}.')
    require(first != last, f'Both layers are {last}: choose another --layer or --set invariance.first.')
    split, at = request.examples(EXAMPLES)
    at = at[::-(-len(at) // MOST)]
    pixels, classes = request.pixels(split, at), request.true_classes(split, at)
    plain = pixels.astype(np.float32)
    original = [np.asarray(request.activations(layer, plain)) for layer in (first, last)]
    todo = [(kind, amount) for kind, values in amounts(options, request.size).items() for amount in values]
    found = {kind: {'amounts': [], 'distances': ([], []), 'probability': []} for kind in AXES}
    for kind, amount in track(todo, 'Transforming images', console=Console(stderr=True), transient=True):
        changed = transformed(pixels, kind, amount)
        for layer, before, curves in zip((first, last), original, found[kind]['distances']):
            curves.append(distances(np.asarray(request.activations(layer, changed)), before).tolist())
        probabilities = np.asarray(request.predict(changed), np.float64)
        found[kind]['probability'].append(probabilities[np.arange(len(at)), classes].tolist())
        found[kind]['amounts'].append(float(amount))
    for curves in found.values():       # a list an image
        curves['distances'] = [np.transpose(curve).tolist() for curve in curves['distances']]
        curves['probability'] = np.transpose(curves['probability']).tolist()
    numbers = {'layers': [first, last], 'data': split.name, 'images': at.tolist(), 'classes': classes.tolist(),
               'names': [class_name(split, label) for label in classes], 'apart': [apart(one) for one in original],
               'transformations': found}
    return numbers | {'table': table(numbers)}


def stated(kind: str, values: Sequence[float]) -> list[int]:
    """Numbers of the amounts that are told: the first beside the neutral one, and some on the way to the last."""
    neutral = int(np.argmin(np.abs(np.array(values) - NEUTRAL[kind])))
    beyond = len(values) - 1 - neutral
    return [neutral + k for k in sorted({1, *(-(-beyond * part // 4) for part in (1, 2, 3, 4))})]


def table(numbers: dict[str, Any]) -> dict[str, Any]:
    """Means over the images."""
    rows = []
    for kind, curves in numbers['transformations'].items():
        for k in stated(kind, curves['amounts']):
            row = [WORDS[kind].format(curves['amounts'][k])]
            for distance, unit in zip(curves['distances'], numbers['apart']):
                mean = np.mean([curve[k] for curve in distance])
                row += [f'{mean:.3g}', f'{mean / unit:.2f}' if unit else '-']
            rows.append([*row, f'{np.mean([curve[k] for curve in curves["probability"]]):.2f}'])
    first, last = numbers['layers']
    return {'columns': ['', f'distance in {first}', 'of two images = 1', f'distance in {last}', 'of two images = 1',
                        'probability of the class'], 'rows': rows}


def statement(numbers: dict[str, Any]) -> str:
    first, last = numbers['layers']
    before = np.mean([curve[_neutral(numbers, 'scale')] for curve in
                      numbers['transformations']['scale']['probability']])
    said = (f'{len(numbers["images"])} images of {numbers["data"]}, transformed: Euclidean distance of their features '
            f'to those of the originals in {first} and {last}, and the probability of their class, '
            f'{before:.2f} in the mean before.')
    for kind, curves in numbers['transformations'].items():
        k = stated(kind, curves['amounts'])[0]
        moved = [np.mean([curve[k] for curve in distance]) for distance in curves['distances']]
        if all(numbers['apart']):
            moved = [mean / unit for mean, unit in zip(moved, numbers['apart'])]
        after = np.mean([curve[k] for curve in curves['probability']])
        said += (f' {WORDS[kind].format(curves["amounts"][k]).capitalize()}: {moved[0]:.2f} and {moved[1]:.2f}, '
                 f'{after:.2f}.')
    return said + (' Distances are parts of the mean distance of two of the images.' if all(numbers['apart']) else '')


def _neutral(numbers: dict[str, Any], kind: str) -> int:
    return numbers['transformations'][kind]['amounts'].index(NEUTRAL[kind])


def look(request: Request, options: Options, picture: Path) -> tuple[dict[str, Any], str]:
    numbers = measure(request, options)
    draw(request, numbers, picture)
    return numbers, statement(numbers)


def draw(request: Request, numbers: dict[str, Any], picture: Path) -> None:
    """Draws a row a transformation: the images undergoing it, the distances in both layers, the probability."""
    count, (first, last) = len(numbers['images']), numbers['layers']
    thumb = (COLUMN + 4) / STRIP - 4
    height = max(COLUMN, count * (thumb + 4))
    sheet = Sheet(4 * COLUMN + 3 * GAP, round(3 * (HEAD + height + FOOT)),
                  f'Features of translated, scaled and rotated images in {first} and {last}',
                  [request.network.origin, f'{count} images of {numbers["data"]}; a colour is an image: '
                   + ', '.join(f'{image}: {name}' for image, name in zip(numbers['images'], numbers['names'])),
                   'bilinear, the border continued; dashed: the mean distance of two of the images'])
    pixels = request.pixels(request.judged, np.array(numbers['images']))
    for k, (kind, curves) in enumerate(numbers['transformations'].items()):
        y = sheet.top + k * (HEAD + height + FOOT)
        values = curves['amounts']
        shown = np.linspace(0, len(values) - 1, STRIP).round().astype(int)
        sheet.text(MARGIN, y, f'vertical {kind}' if kind == 'translation' else kind, COLUMN, size=16, weight='bold')
        for i, colour in zip(range(count), COLOURS):
            sheet.box(MARGIN - BAR - 4, y + HEAD + i * (thumb + 4), BAR, thumb, colour)
        for j, number in enumerate(shown):
            x = MARGIN + j * (thumb + 4)
            for i, image in enumerate(transformed(pixels, kind, values[number])):
                sheet.image(x, y + HEAD + i * (thumb + 4), thumb, thumb, image / 255)
            sheet.text(x + thumb / 2, y + HEAD + count * (thumb + 4), f'{values[number]:.3g}', thumb, size=15,
                       color=GREY, ha='center')
        panels = [(f'distance in {first}', curves['distances'][0], numbers['apart'][0]),
                  (f'distance in {last}', curves['distances'][1], numbers['apart'][1]),
                  ('probability of the class', curves['probability'], None)]
        for column, (title, lines, reference) in enumerate(panels, 1):
            x = MARGIN + column * (COLUMN + GAP)
            sheet.text(x, y, title, COLUMN, size=16)
            _curves(sheet, (x, y + HEAD, COLUMN, height), values, lines, reference, f'{kind}, {AXES[kind]}',
                    column == 3)
    sheet.save(picture)


def _curves(sheet: Sheet, box: tuple[float, float, float, float], values: Sequence[float],
            lines: Sequence[Sequence[float]], reference: float | None, below: str, is_probability: bool) -> None:
    x, y, width, height = box
    axes = sheet.figure.add_axes((x / sheet.width, 1 - (y + height) / sheet.height, width / sheet.width,
                                  height / sheet.height))
    for colour, line in zip(COLOURS, lines):
        axes.plot(values, line, color=colour, linewidth=1.6)
    if reference:
        axes.axhline(reference, color=GREY, linewidth=1, linestyle='--')
    axes.set_xlim(values[0], values[-1])
    axes.set_ylim(0, 1.02 if is_probability else None)
    axes.set_xlabel(below, fontsize=11)
    axes.tick_params(labelsize=10)
    axes.spines[['top', 'right']].set_visible(False)


METHOD = Method(look, takes=frozenset({'layer', 'images'}), options=Options())
