"""Images changed to mislead one network, shown to a second one that had no part in making them."""
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from lib.data.sources import Split
from lib.experiment import require
from lib.visualize import GREY, MARGIN, OTHER, SAME, Sheet, adversarial_errors, free, perturbation
from lib.visualize.adversarial_errors import CURVE, EPSILONS, GAP, NAMES, SIDE, Count, rates
from lib.visualize.perturbation import RANGE, Kind
from lib.visualize.request import Method, Request

COLUMNS = ('own', 'transferred', 'own_noise', 'other_noise')


@dataclasses.dataclass(frozen=True)
class Options:
    kind: Kind = 'fgsm'
    epsilons: tuple[float, ...] = EPSILONS  # parts of the range of pixels, 0 to 1
    step: float = 1 / RANGE                 # of iterative, likewise
    examples: int | None = 1000             # at most so many images, evenly spaced; None or 0 for all
    seed: int = 0                           # of the random signs

    def __post_init__(self):
        adversarial_errors.require_epsilons('transfer', self.epsilons)
        require(0 < self.step <= 1, f'transfer.step={self.step} must be above 0 and at most 1.')
        require((self.examples or 0) >= 0, f'transfer.examples={self.examples} must not be negative.')


def look(request: Request, options: Options, picture: Path) -> tuple[dict[str, Any], str]:
    other = second(request)
    split, at = request.examples(options.examples or len(request.judged))
    found = measure(request, other, options, split, at)
    found['table'] = table(found)
    draw(request, other, options, found, split, at, picture)
    return found, statement(found)


def second(request: Request) -> Request:
    """The same request of the other network.

    Raises:
      UsageError: if there is none, or it has other classes or images of another size.
    """
    require(request.other is not None, 'Name the network that the changed images are shown to: --other=PAPER:DIR.')
    other = dataclasses.replace(request, network=request.other, other=None)
    outputs = [r.geometry.layers[-1].size[-1] for r in (request, other)]
    names = [r.network.classes for r in (request, other)]
    require(names[0] == names[1] if all(names) else outputs[0] == outputs[1],
            f'{other.network.origin} does not tell the same classes apart as {request.network.origin}: name an --other '
            'that was trained on the same data.')
    sizes = [free.stored_size(r) for r in (request, other)]
    require(sizes[0] == sizes[1], f'{other.network.origin} is made for images of {sizes[1]} pixels and '
                                  f'{request.network.origin} for {sizes[0]}, and what was changed must not be resized: '
                                  'name an --other for images of the same size.')
    return other


def measure(request: Request, other: Request, options: Options, split: Split, at: np.ndarray) -> dict[str, Any]:
    """{'kind', 'data', 'images', 'labelled', 'rows': [{'epsilon', and for each of 'own', 'transferred', 'own_noise',
    'other_noise' its '_error' and '_confidence' as adversarial_errors has them, 'both', 'misled'}, ...]}, the first row
    with epsilon 0. 'misled' counts images that both networks get right unchanged and the first one wrong changed,
    'both' those of them that the second one gets wrong too. All images are clipped and rounded to 8 bits."""
    epsilons = sorted(options.epsilons)
    counts = [{column: Count(0, 0.0) for column in COLUMNS} | {'misled': 0, 'both': 0} for _ in (0, *epsilons)]
    seen = 0
    for batch in request.batches(split, at, f'Changing {len(at):,} images'):
        changed = perturbation.attack(request, options.kind, batch.pixels, batch.labels, epsilons, step=options.step)
        noisy = [perturbation.noise(request, batch.pixels, epsilon, [options.seed, batch.number])
                 for epsilon in epsilons]
        for row, pair in enumerate([(batch.pixels, batch.pixels), *zip(changed, noisy)]):
            own, own_noise = (np.asarray(request.predict(images)) for images in pair)
            transferred, other_noise = (
                np.asarray(other.predict(_shown(request, other, split, batch.at, images))) for images in pair)
            for name, probabilities in zip(COLUMNS, (own, transferred, own_noise, other_noise)):
                counts[row][name] += adversarial_errors.count(probabilities, batch)
            wrong = [probabilities.argmax(1) != batch.labels for probabilities in (own, transferred)]
            if row == 0:
                right = batch.counts & ~wrong[0] & ~wrong[1]
            counts[row]['misled'] += int((right & wrong[0]).sum())
            counts[row]['both'] += int((right & wrong[0] & wrong[1]).sum())
        seen += int(batch.counts.sum())
    assert seen == len(at)
    rows = [{'epsilon': epsilon, 'misled': row['misled'], 'both': row['both']}
            | {key: value for name in COLUMNS for key, value in rates(f'{name}_', row[name], seen).items()}
            for epsilon, row in zip((0, *epsilons), counts)]
    return {'kind': options.kind, 'data': split.name, 'images': len(at),
            'labelled': bool((split.labels[at] >= 0).all()), 'rows': rows}


def _shown(request: Request, other: Request, split: Split, at: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """What the second network looks at of images that the first looked at in a change of theirs."""
    return free.seen(other, free.whole(request, split, at, pixels))


def table(found: dict[str, Any]) -> dict[str, Any]:
    return {'columns': ['epsilon', 'own error', 'transferred', 'random signs: own', 'random signs: other',
                        'misled', 'both'],
            'rows': [[f'{row["epsilon"]:g}' if row['epsilon'] else 'unchanged',
                      *(f'{row[f"{name}_error"]:.2f}' for name in COLUMNS), row['misled'], row['both']]
                     for row in found['rows']]}


def statement(found: dict[str, Any]) -> str:
    clean, *rows = found['rows']
    most = max(rows, key=lambda row: row['transferred_error'] - row['other_noise_error'])
    said = (f'{found["kind"]} against the first network on {found["images"]:,} images of {found["data"]}, rounded to 8 '
            f'bits. The second one errs in {clean["transferred_error"]:.2f} % of them unchanged; the changes do most '
            f'beyond random signs with epsilon {most["epsilon"]:g}: it errs in {most["transferred_error"]:.2f} %, with '
            f'random signs in {most["other_noise_error"]:.2f} %, and the first network in {most["own_error"]:.2f} %.')
    if most['misled']:
        said += (f' Of {most["misled"]:,} images that both got right unchanged and that mislead the first, '
                 f'{100 * most["both"] / most["misled"]:.1f} % mislead the second.')
    if not found['labelled']:
        said += ' Without labels, what the first network sees in an unchanged image counts as right.'
    return said


def draw(request: Request, other: Request, options: Options, found: dict[str, Any], split: Split, at: np.ndarray,
         path: Path) -> None:
    """An image under every epsilon with what each network sees in it; then the errors against epsilon."""
    epsilons = [row['epsilon'] for row in found['rows'][1:]]
    pixels, labels = request.pixels(split, at[:1]), request.true_classes(split, at[:1])
    images = [pixels, *perturbation.attack(request, options.kind, pixels, labels, epsilons, step=options.step)]
    rows = SIDE + 20 + 44
    sheet = Sheet(max(len(images) * (SIDE + GAP) - GAP, 720), rows + CURVE + 60, f'Transfer of {NAMES[found["kind"]]}',
                  [f'made on: {request.network.origin}', f'shown to: {other.network.origin}',
                   f'{found["images"]:,} images of {found["data"]}, 8 bits; epsilon is a part of the range of pixels',
                   f'image {at[0]} under every epsilon; below it what the first and the second network see (blue: '
                   'right)'])
    for j, image in enumerate(images):
        x, y = MARGIN + j * (SIDE + GAP), sheet.top + 20
        sheet.text(x + SIDE / 2, y - 20, f'{epsilons[j - 1]:g}' if j else 'unchanged', SIDE, color=GREY, ha='center')
        sheet.image(x, y, SIDE, SIDE, image[0].astype(np.uint8))
        for k, (asked, view) in enumerate(((request, image), (other, _shown(request, other, split, at[:1], image)))):
            label = int(np.argmax(asked.predict(view)[0]))
            sheet.text(x + SIDE / 2, y + SIDE + 3 + 18 * k, f'{k + 1}: {asked.class_name(label)}', SIDE,
                       color=SAME if label == labels[0] else OTHER, ha='center')
    lines = (('of the first network', 'own', OTHER, '-'),
             ('of the second, shown the same images', 'transferred', SAME, '-'),
             ('of the first, random signs', 'own_noise', OTHER, ':'),
             ('of the second, random signs', 'other_noise', SAME, ':'))
    adversarial_errors.curve(sheet, sheet.top + rows + 30, [row['epsilon'] for row in found['rows']],
          [(name, [row[f'{key}_error'] for row in found['rows']], colour, dash) for name, key, colour, dash in lines])
    sheet.save(path)


METHOD = Method(look, takes=frozenset({'images', 'other'}), options=Options())
