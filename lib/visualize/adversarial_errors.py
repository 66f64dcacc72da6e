"""How many images of a split a network gets wrong when they are changed by the fast gradient sign or its iteration, for
several epsilons, beside changes of the same size in random directions."""
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from lib.data.sources import Split
from lib.experiment import require
from lib.visualize import GREY, MARGIN, OTHER, SAME, Sheet, perturbation
from lib.visualize.perturbation import RANGE, Kind
from lib.visualize.request import Batch, Method, Request

EPSILONS = (0.004, 0.008, 0.016, 0.03, 0.06, 0.12, 0.25)
SIDE, GAP, CURVE = 96, 8, 300


@dataclasses.dataclass(frozen=True)
class Options:
    kind: Kind = 'fgsm'
    epsilons: tuple[float, ...] = EPSILONS  # parts of the range of pixels, 0 to 1
    step: float = 1 / RANGE                 # of iterative, likewise
    examples: int | None = 1000             # at most so many images, evenly spaced; None or 0 for all
    eight_bits: bool = True                 # clipped to the range and rounded, which Goodfellow et al. do not do
    seed: int = 0                           # of the random signs

    def __post_init__(self):
        require_epsilons('adversarial_errors', self.epsilons)
        require(0 < self.step <= 1, f'adversarial_errors.step={self.step} must be above 0 and at most 1.')
        require((self.examples or 0) >= 0, f'adversarial_errors.examples={self.examples} must not be negative.')


def require_epsilons(method: str, epsilons: Sequence[float]) -> None:
    require(len(epsilons) > 0 and 0 < min(epsilons) and max(epsilons) <= 1,
            f'{method}.epsilons={list(epsilons)} must be parts of the range of pixels, above 0 and at most 1, as in '
            '[0.01,0.1].')


class Published(NamedTuple):
    """What Goodfellow et al. (2014), sections 4 and 5, found with the fast gradient sign; errors and mean confidence in
    what is wrong in %."""
    data: str
    epsilon: float
    network: str
    error: float
    confidence: float


PUBLISHED = (Published('mnist', 0.25, 'a softmax regression', 99.9, 79.3),
             Published('mnist', 0.25, 'a maxout network', 89.4, 97.6))


class Count(NamedTuple):
    """Of images changed in one way."""
    wrong: int
    confidence: float       # the sum of the probabilities of what was wrong

    def __add__(self, other: 'Count') -> 'Count':
        return Count(self.wrong + other.wrong, self.confidence + other.confidence)


def look(request: Request, options: Options, picture: Path) -> tuple[dict[str, Any], str]:
    split, at = request.examples(options.examples or len(request.judged))
    found = measure(request, options, split, at)
    found['table'] = table(found)
    draw(request, options, found, split, at, picture)
    return found, statement(found)


def measure(request: Request, options: Options, split: Split, at: np.ndarray) -> dict[str, Any]:
    """{'kind', 'eight_bits', 'data', 'images', 'labelled', 'rows': [{'epsilon', 'error', 'confidence', 'noise_error',
    'noise_confidence'}, ...]}, the first row with epsilon 0. Errors are in %, and confidences the mean probability in %
    of the class that is seen where it is wrong, None if none is. Where images have no label, what the network sees in
    them unchanged counts as right."""
    epsilons = sorted(options.epsilons)
    counts = [[Count(0, 0.0)] * 2 for _ in (0, *epsilons)]
    seen = 0
    for batch in request.batches(split, at, f'Changing {len(at):,} images'):
        changed = perturbation.attack(request, options.kind, batch.pixels, batch.labels, epsilons, step=options.step,
                                      eight_bits=options.eight_bits)
        noisy = [perturbation.noise(request, batch.pixels, epsilon, [options.seed, batch.number], options.eight_bits)
                 for epsilon in epsilons]
        for row, pair in enumerate([(batch.pixels, batch.pixels), *zip(changed, noisy)]):
            counts[row] = [total + count(np.asarray(request.predict(images)), batch)
                           for total, images in zip(counts[row], pair)]
        seen += int(batch.counts.sum())
    assert seen == len(at)
    rows = [{'epsilon': epsilon} | rates('', own, seen) | rates('noise_', noise, seen)
            for epsilon, (own, noise) in zip((0, *epsilons), counts)]
    return {'kind': options.kind, 'eight_bits': options.eight_bits, 'data': split.name, 'images': len(at),
            'labelled': bool((split.labels[at] >= 0).all()), 'rows': rows}


def count(probabilities: np.ndarray, batch: Batch) -> Count:
    wrong = (probabilities.argmax(1) != batch.labels) & batch.counts
    return Count(int(wrong.sum()), float(probabilities.max(1)[wrong].sum()))


def rates(name: str, found: Count, seen: int) -> dict[str, float | None]:
    return {f'{name}error': 100 * found.wrong / seen,
            f'{name}confidence': 100 * found.confidence / found.wrong if found.wrong else None}


def table(found: dict[str, Any]) -> dict[str, Any]:
    columns = ['epsilon', 'error', 'confidence', 'random signs: error', 'confidence']
    near = published(found)
    rows = []
    for row in found['rows']:
        cells = [f'{row["epsilon"]:g}' if row['epsilon'] else 'unchanged', *map(_percent, (
            row['error'], row['confidence'], row['noise_error'], row['noise_confidence']))]
        theirs = '; '.join(f'{entry.error} ({entry.confidence})' for entry in near if entry.epsilon == row['epsilon'])
        rows.append(cells + [theirs or '-'] * bool(near))
    return {'columns': columns + ['Goodfellow et al.: error (confidence)'] * bool(near), 'rows': rows}


def published(found: dict[str, Any]) -> list[Published]:
    """The rows to put beside ours: the same data and epsilon and the fast gradient sign."""
    epsilons = {row['epsilon'] for row in found['rows']}
    return [entry for entry in PUBLISHED if found['kind'] == 'fgsm' and entry.epsilon in epsilons
            and entry.data == found['data'].split()[0]]


def statement(found: dict[str, Any]) -> str:
    clean, worst = found['rows'][0], max(found['rows'][1:], key=lambda row: row['error'])
    said = (f'{found["kind"]} on {found["images"]:,} images of {found["data"]}, {_bits(found)}: an error of '
            f'{clean["error"]:.2f} % before, and at most {worst["error"]:.2f} %, with an epsilon of '
            f'{worst["epsilon"]:g} of the range of pixels')
    if worst['confidence'] is not None:
        said += f', where the wrong class has a mean probability of {worst["confidence"]:.1f} %'
    said += f'; with random signs of that size it is {worst["noise_error"]:.2f} %.'
    if not found['labelled']:
        said += ' Without labels, what the network sees in an unchanged image counts as right.'
    near = published(found)
    if near:
        said += (f' Goodfellow et al. print {" and ".join(f"{e.error} % for {e.network}" for e in near)} with epsilon '
                 f'{near[0].epsilon}: other networks, the whole test set, and neither clipped nor rounded.')
    return said


def _bits(found: dict[str, Any]) -> str:
    return 'clipped and rounded to 8 bits' if found['eight_bits'] else 'neither clipped nor rounded'


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}'


def draw(request: Request, options: Options, found: dict[str, Any], split: Split, at: np.ndarray, path: Path) -> None:
    """The first image under every epsilon, changed by the gradient above and by random signs below; then the errors
    against epsilon."""
    epsilons = [row['epsilon'] for row in found['rows'][1:]]
    pixels, labels = request.pixels(split, at[:1]), request.true_classes(split, at[:1])
    bits = options.eight_bits
    own = perturbation.attack(request, options.kind, pixels, labels, epsilons, step=options.step, eight_bits=bits)
    noisy = [perturbation.noise(request, pixels, epsilon, options.seed, bits) for epsilon in epsilons]
    columns = len(epsilons) + 1
    rows = 2 * (SIDE + 24) + 20
    sheet = Sheet(max(columns * (SIDE + GAP) - GAP, 720), rows + CURVE + 60, f'Errors under {NAMES[found["kind"]]}',
                  [request.network.origin, f'{found["images"]:,} images of {found["data"]}, {_bits(found)}; epsilon is '
                                           'a part of the range of pixels',
                   f'image {at[0]} changed by the gradient (above) and by random signs (below), with what is seen in '
                   'it; blue: right'])
    for i, row in enumerate([[pixels, *own], [pixels, *noisy]]):
        for j, image in enumerate(row):
            x, y = MARGIN + j * (SIDE + GAP), sheet.top + 20 + i * (SIDE + 24)
            if i == 0:
                text = f'{epsilons[j - 1]:g}' if j else 'unchanged'
                sheet.text(x + SIDE / 2, y - 20, text, SIDE, color=GREY, ha='center')
            sheet.image(x, y, SIDE, SIDE, image[0].astype(np.uint8))
            label = int(np.argmax(request.predict(image)[0]))
            sheet.text(x + SIDE / 2, y + SIDE + 3, request.class_name(label), SIDE,
                       color=SAME if label == labels[0] else OTHER, ha='center')
    axes = curve(sheet, sheet.top + rows + 30, [row['epsilon'] for row in found['rows']], [
        ('by the gradient', [row['error'] for row in found['rows']], OTHER, '-'),
        ('by random signs', [row['noise_error'] for row in found['rows']], GREY, '--')])
    for entry in published(found):
        axes.plot(entry.epsilon, entry.error, '*', color=SAME, markersize=11, clip_on=False)
        axes.annotate(f'{entry.network}, Goodfellow et al.', (entry.epsilon, entry.error), (-8, -4),
                      textcoords='offset points', ha='right', fontsize=9, color=SAME)
    sheet.save(path)


NAMES = {'fgsm': 'the fast gradient sign', 'iterative': 'the iterated gradient sign'}


def curve(sheet: Sheet, top: float, epsilons: Sequence[float],
          lines: Sequence[tuple[str, Sequence[float], str, str]]) -> plt.Axes:
    """Errors in % against epsilon, CURVE pixels high, each line with its name, colour and dashes."""
    axes = sheet.figure.add_axes((70 / sheet.width, 1 - (top + CURVE) / sheet.height, 1 - 110 / sheet.width,
                                  CURVE / sheet.height))
    for name, errors, colour, dash in lines:
        axes.plot(epsilons, errors, dash, marker='o', color=colour, label=name, clip_on=False)
    axes.set(xlim=(0, max(epsilons)), ylim=(0, 100), xlabel='epsilon', ylabel='error, %')
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc='best')
    return axes


METHOD = Method(look, takes=frozenset({'images'}), options=Options())
