"""Images changed so little that a person hardly sees it, and so that the network sees another class.

What is rounded to 8 bits and written to a file is read from there again, and the predictions are those of the file.
"""
import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import track

from lib.data.sources import Split
from lib.experiment import require
from lib.visualize import GREY, MARGIN, OTHER, SAME, Sheet, class_name, free, perturbation
from lib.visualize.perturbation import RANGE
from lib.visualize.request import Method, Request

KINDS = {'fgsm': 'the fast gradient sign', 'iterative': 'the gradient sign, iterated',
         'lbfgs': 'L-BFGS towards a chosen class'}
COUNT = 4
SIDE, GAP, BELOW = 228, 26, 62


@dataclasses.dataclass(frozen=True)
class Options:
    """Lengths are parts of the range of pixels, 0 to 1."""
    kind: Literal['fgsm', 'iterative', 'lbfgs'] = 'fgsm'
    target: int | None = None       # the class to be seen. None: with lbfgs the one that the network finds least likely
    # for the image, among those that occur; otherwise any but the one that it sees
    epsilons: tuple[float, ...] = tuple(levels / RANGE for levels in (1, 2, 4, 8, 16, 32, 64))  # fgsm and iterative:
    # the smallest that succeeds is shown, or the greatest
    step: float = 1 / RANGE         # of iterative
    searches: int = 8               # of lbfgs: weights of the distortion that are tried
    iterations: int = 50            # of lbfgs: at most so many for each

    def __post_init__(self):
        require(len(self.epsilons) > 0 and min(self.epsilons) > 0, f'adversarial.epsilons={list(self.epsilons)} must '
                                                                   'be positive numbers, as in [0.01,0.1].')
        require(max(self.epsilons) <= 1, f'adversarial.epsilons={list(self.epsilons)}: epsilons are parts of the range '
                                         'of pixels, so none is above 1.')
        require(0 < self.step <= 1, f'adversarial.step={self.step} must be above 0 and at most 1.')
        require(min(self.searches, self.iterations) >= 1,
                'adversarial.searches and adversarial.iterations must be at least 1.')


def look(request: Request, options: Options, picture: Path) -> tuple[dict[str, Any], str]:
    split, at = request.examples(COUNT)
    before = request.pixels(split, at)
    after, how = measure(request, options, before)
    files = free.write(picture.with_name(f'{picture.stem}-images'), free.whole(request, split, at, after),
                       [int(number) for number in at])
    after = free.read(request, files[0].parent)
    found = {'kind': options.kind, 'data': split.name, 'images': [int(number) for number in at],
             'found': describe(request, split, at, before, after, how, files)}
    found['table'] = table(found)
    draw(request, found, before, after, picture)
    return found, statement(found)


def measure(request: Request, options: Options, before: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """uint8 [n, S, S, 3], the changed images, and for each {'target': class or None, 'epsilon': or 'c': what it took}.

    Raises:
      UsageError: if the network has no class `options.target`, or sees it already.
    """
    probabilities = np.asarray(request.predict(before))
    seen, outputs = probabilities.argmax(1), probabilities.shape[1]
    if options.target is not None:
        require(0 <= options.target < outputs, f'adversarial.target={options.target} is not a class of this network: '
                                               f'choose from 0 to {outputs - 1}.')
        require(options.target not in seen, f'adversarial.target={options.target} is what the network sees in image '
                                            f'{int(np.argmax(seen == options.target)) + 1} of these already: choose '
                                            'another class, or other --images.')
        targets = np.full(len(before), options.target)
    elif options.kind == 'lbfgs':
        targets = _least_likely(request, probabilities)
    else:
        targets = None
    if options.kind == 'lbfgs':
        pairs = track(list(zip(before, targets)), 'L-BFGS, image by image', console=Console(stderr=True),
                      transient=True)
        minima = [perturbation.lbfgs(request, image, int(target), options.searches, options.iterations)
                  for image, target in pairs]
        return np.stack([minimum.pixels for minimum in minima]).astype(np.uint8), \
            [{'target': int(target), 'c': minimum.c} for target, minimum in zip(targets, minima)]
    wanted = seen if targets is None else targets
    epsilons = sorted(options.epsilons)
    attacked = np.stack(perturbation.attack(request, options.kind, before, wanted, epsilons, targets is not None,
                                            options.step)).astype(np.uint8)
    then = np.stack([np.argmax(request.predict(images), axis=1) for images in attacked])
    done = then != seen if targets is None else then == targets
    chosen = np.where(done.any(0), done.argmax(0), len(epsilons) - 1)
    return attacked[chosen, np.arange(len(before))], \
        [{'target': None if targets is None else int(targets[i]), 'epsilon': epsilons[k]} for i, k in enumerate(chosen)]


def _least_likely(request: Request, probabilities: np.ndarray) -> np.ndarray:
    """Of the classes that occur; where only the class that is seen does, of all."""
    classes = request.occurring_classes()
    if len(classes) == 1:
        classes = np.arange(probabilities.shape[1])
    return classes[probabilities[:, classes].argmin(1)]


def describe(request: Request, split: Split, at: np.ndarray, before: np.ndarray, after: np.ndarray,
             how: list[dict[str, Any]], files: list[Path]) -> list[dict[str, Any]]:
    """For each image where it is from, what the network sees before and after, how far they differ, and the file."""
    inside = free.inside(request)
    distortions = perturbation.distortion(before, after, inside)
    largest = np.abs(after.astype(int) - before).max((1, 2, 3))
    labels = request.true_classes(split, at)
    two = [_seen(request, split, pixels) for pixels in (before, after)]
    images = []
    for i, number in enumerate(at):
        then, now = two[0][i], two[1][i]
        target = how[i]['target']
        reached = now['label'] != then['label'] if target is None else now['label'] == target
        images.append({'image': int(number), 'label': int(labels[i]), 'before': then, 'after': now,
                       'reached': bool(reached), 'distortion': float(distortions[i]), 'largest': int(largest[i]),
                       'file': f'{files[i].parent.name}/{files[i].name}'} | how[i])
    return images


def _seen(request: Request, split: Split, pixels: np.ndarray) -> list[dict[str, Any]]:
    return [{'label': int(row.argmax()), 'name': class_name(split, int(row.argmax())), 'probability': float(row.max())}
            for row in np.asarray(request.predict(pixels))]


def table(found: dict[str, Any]) -> dict[str, Any]:
    weight = 'c' if found['kind'] == 'lbfgs' else 'epsilon'
    return {'columns': ['image', 'seen as', 'probability', 'then as', 'probability', 'distortion', 'largest change',
                        weight, 'target', 'reached'],
            'rows': [[image['image'], image['before']['name'], _percent(image['before']), image['after']['name'],
                      _percent(image['after']), f'{image["distortion"]:.4f}', f'{image["largest"]}/{RANGE}',
                      '-' if image[weight] is None else f'{image[weight]:.3g}',
                      'any other' if image['target'] is None else image['target'],
                      'yes' if image['reached'] else 'no'] for image in found['found']]}


def statement(found: dict[str, Any]) -> str:
    images, kind = found['found'], found['kind']
    done = [image for image in images if image['reached']]
    goal = 'another class' if images[0]['target'] is None else 'the class chosen'
    said = f'{kind}: after rounding to 8 bits and reading the files again, {len(done)} of {len(images)} images are ' \
           f'seen as {goal}'
    if done:
        mean = np.mean([image['distortion'] for image in done])
        said += f', with distortions of {_range(done, "distortion", ".4f")} (root mean square, of a range of 1; mean ' \
                f'{mean:.4f}) and {_confidence(done)}'
    if kind == 'lbfgs' and len(done) < len(images):
        said += '. For the others no weight of the distortion that was tried reaches it: raise adversarial.searches ' \
                'or adversarial.iterations'
    elif len(done) < len(images):
        said += '. The others were changed by the greatest of adversarial.epsilons, which is not enough'
    return said + '.'


def _confidence(images: list[dict[str, Any]]) -> str:
    mean = np.mean([image['after']['probability'] for image in images])
    return f'a mean probability of {100 * mean:.1f} % for what is seen'


def _range(images: list[dict[str, Any]], key: str, form: str) -> str:
    least, greatest = (pick(image[key] for image in images) for pick in (min, max))
    return f'{least:{form}}' if least == greatest else f'{least:{form}} to {greatest:{form}}'


def _percent(seen: dict[str, Any]) -> str:
    return f'{100 * seen["probability"]:.1f} %'


def draw(request: Request, found: dict[str, Any], before: np.ndarray, after: np.ndarray, path: Path) -> None:
    """A row an image: as it was, what was added with zero as mid-grey, as it is now, and below what the network sees,
    in blue where it sees the class of the label."""
    height = len(before) * (SIDE + BELOW + 22) - 22
    sheet = Sheet(3 * SIDE + 2 * GAP, height, f'Adversarial images: {KINDS[found["kind"]]}',
                  [request.network.origin, f'images of {found["data"]}, central crop of {request.size} pixels',
                   'predictions are of files of 8 bits; blue: as labelled'])
    for i, image in enumerate(found['found']):
        y = sheet.top + i * (SIDE + BELOW + 22)
        change = after[i].astype(np.float32) - before[i]
        factor = max(1, int(RANGE / 2 / max(image['largest'], 1)))
        panels = (before[i], np.clip(RANGE / 2 + factor * change, 0, RANGE).astype(np.uint8), after[i])
        for j, panel in enumerate(panels):
            sheet.image(MARGIN + j * (SIDE + GAP), y, SIDE, SIDE, panel)
        for j, sign in enumerate('+='):
            sheet.text(MARGIN + (j + 1) * (SIDE + GAP) - GAP / 2, y + SIDE / 2 - 12, sign, GAP, size=22, ha='center')
        for j, seen in ((0, image['before']), (2, image['after'])):
            x = MARGIN + j * (SIDE + GAP) + SIDE / 2
            colour = SAME if seen['label'] == image['label'] else OTHER
            sheet.text(x, y + SIDE + 6, f'seen as {seen["name"]}', SIDE, size=15, weight='bold', color=colour,
                       ha='center')
            sheet.text(x, y + SIDE + 25, f'probability {_percent(seen)}', SIDE, ha='center')
        x = MARGIN + SIDE + GAP + SIDE / 2
        weight = f'c = {image["c"]:.3g}' if image.get('c') else 'c: none reaches it' if 'c' in image else \
            f'epsilon {image["epsilon"]:.3g}'
        sheet.text(x, y + SIDE + 6, f'difference x {factor}', SIDE, size=15, weight='bold', ha='center')
        sheet.text(x, y + SIDE + 25, f'{weight}; distortion {image["distortion"]:.4f}', SIDE, ha='center')
        sheet.text(x, y + SIDE + 43, f'largest {image["largest"]} of {RANGE}', SIDE, color=GREY, ha='center')
        sheet.text(MARGIN + SIDE / 2, y + SIDE + 43, f'image {image["image"]}', SIDE, color=GREY, ha='center')
        goal = 'any other class' if image['target'] is None else request.class_name(image['target'])
        sheet.text(MARGIN + 2 * (SIDE + GAP) + SIDE / 2, y + SIDE + 43,
                   f'wanted: {goal}' + ('' if image['reached'] else ' (not reached)'), SIDE, color=GREY, ha='center')
    sheet.save(path)


METHOD = Method(look, takes=frozenset({'images'}), options=Options())
