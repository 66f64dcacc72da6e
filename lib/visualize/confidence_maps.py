"""The maps that a network averages into the scores of its classes, of which only the greatest activations are shown
(Lin, Chen and Yan 2013, Figure 4)."""
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lib.data.sources import Split
from lib.experiment import require
from lib.visualize import GREY, MARGIN, OTHER, SAME, Sheet
from lib.visualize.request import Method, Request

DRAWN = 10                      # rows of a picture, and columns where there are more classes than ALL
ALL = 20
SIDE, GAP, FRAME = 84, 12, 3


@dataclasses.dataclass(frozen=True)
class Options:
    share: float = 0.1              # of the activations of an image's maps so many are shown, the greatest
    examples: int | None = 1000     # at most so many images are counted, evenly spaced; None or 0 for all

    def __post_init__(self):
        require(0 < self.share <= 1, f'confidence_maps.share={self.share} must be above 0 and at most 1.')
        require((self.examples or 0) >= 0, f'confidence_maps.examples={self.examples} must not be negative.')


class Maps(NamedTuple):
    """Of one image."""
    image: int                      # its number in the split
    label: int                      # the true class
    maps: np.ndarray                # float32 [h, w, classes]
    shown: np.ndarray               # bool [h, w, classes]: the greatest activations

    @property
    def scores(self) -> np.ndarray:
        return self.maps.mean((0, 1))

    @property
    def strongest(self) -> int:
        """The class whose map has the greatest activation; of equal ones the first."""
        return int(self.maps.max((0, 1)).argmax())


def look(request: Request, options: Options, picture: Path) -> tuple[dict[str, Any], str]:
    """Raises UsageError if the network does not average a map of each class."""
    layer = maps_of_classes(request)
    split, at = request.examples(options.examples or len(request.judged))
    drawn, counts = [], np.zeros((request.geometry[layer].size[-1], 5), np.int64)
    for one in of_images(request, layer, options.share, split, at):
        if len(drawn) < DRAWN and (request.images or one.label not in [other.label for other in drawn]):
            drawn.append(one)
        counts[one.label] += (1, one.scores.argmax() == one.label, one.strongest == one.label,
                              one.shown[..., one.label].sum(), one.shown.sum())
    if not request.images:
        drawn.sort(key=lambda one: one.label)
    labelled = bool((split.labels[at] >= 0).all())
    found = {'layer': layer, 'size': list(request.geometry[layer].size), 'share': options.share, 'data': split.name,
             'images': len(at), 'labelled': labelled, **_rates(counts.sum(0), labelled),
             'drawn': [one.image for one in drawn], 'table': _table(request, counts, labelled)}
    draw(request, found, split, drawn, picture)
    return found, statement(found)


def maps_of_classes(request: Request) -> str:
    """The layer whose maps the last layer averages, one for each class."""
    last = request.geometry.layers[-1]
    require(last.kind == 'average pooling' and last.is_global,
            f'--method=confidence_maps shows the maps that a network averages into the scores of its classes, and the '
            f'last layer of this one, {last.name}, does not average maps: choose a network with global average pooling '
            'at its end, as in reproductions/nin.')
    return last.reads[0]


def of_images(request: Request, layer: str, share: float, split: Split, at: np.ndarray) -> Iterator[Maps]:
    """The maps of images at the numbers `at`."""
    for batch in request.batches(split, at, f'Maps of {layer} for {len(at):,} images'):
        outputs = np.asarray(request.activations(layer, batch.pixels), np.float32)
        for number, label, maps in zip(batch.at[batch.counts], batch.labels, outputs):
            yield Maps(int(number), int(label), maps, greatest(maps, share))


def greatest(maps: np.ndarray, share: float) -> np.ndarray:
    """bool, of the shape of `maps`: that share of them all, the greatest. Exactly 0 is an inactive ReLU and not shown;
    of equal ones the first are."""
    flat = maps.ravel()
    first = np.argsort(-flat, kind='stable')[:max(1, round(share * flat.size))]
    chosen = np.zeros(flat.size, bool)
    chosen[first] = flat[first] != 0
    return chosen.reshape(maps.shape)


def _rates(counts: np.ndarray, labelled: bool) -> dict[str, float | None]:
    """In %: images whose class has not the greatest mean, None where the network's answers stand for labels; whose
    class has the greatest activation; what is shown that lies in the map of the true class, None if nothing is."""
    images, right, strongest, own, shown = map(int, counts)
    return {'error': 100 * (images - right) / images if labelled else None, 'strongest': 100 * strongest / images,
            'in_own': 100 * own / shown if shown else None}


def _table(request: Request, counts: np.ndarray, labelled: bool) -> dict[str, Any]:
    rows = [[request.class_name(label), int(own[0]),
             *('-' if rate is None else f'{rate:.1f}' for rate in _rates(own, labelled).values())]
            for label, own in enumerate(counts) if own[0]]
    return {'columns': ['true class', 'images', 'error %', 'its map has the greatest activation, %',
                        'of what is shown lies in its map, %'], 'rows': rows}


def statement(found: dict[str, Any]) -> str:
    count, percent = found['size'][-1], f'{100 * found["share"]:g} %'
    shown = 'none of its activations is above 0' if found['in_own'] is None else \
        f'it holds {found["in_own"]:.1f} % of the greatest {percent} of the activations'
    said = (f'Of the {count} maps of {found["layer"]}, that of the true class has the greatest activation in '
            f'{found["strongest"]:.1f} % of {found["images"]:,} images of {found["data"]}, and {shown}, where chance '
            f'is {100 / count:.3g} %.')
    if found['labelled']:
        said += f' Their means, the scores of the classes, are wrong in {found["error"]:.1f} %.'
    return said


def draw(request: Request, found: dict[str, Any], split: Split, drawn: list[Maps], path: Path) -> None:
    """Draws an image a row and a class a column."""
    count = found['size'][-1]
    classes = list(range(count)) if count <= ALL else sorted({one.label for one in drawn})
    part = '' if len(classes) == count else f', of which {len(classes)} are drawn'
    tall = SIDE + 34
    sheet = Sheet((1 + len(classes)) * (SIDE + GAP) + 8, 24 + len(drawn) * tall, f'Confidence maps: {found["layer"]}', [
        request.network.origin,
        f'{split.name}; of all {count} maps of an image{part}, only the greatest {100 * found["share"]:g} % of the '
        'activations',
        "white: the image's greatest activation; below each map its mean; blue frame: the true class; orange: the "
        'greatest mean, if that is another'])
    left = [MARGIN + k * (SIDE + GAP) + 8 * (k > 0) for k in range(1 + len(classes))]
    for x, label in zip(left[1:], classes):
        sheet.text(x, sheet.top, request.class_name(label), SIDE, size=14, weight='bold')
    for row, one in enumerate(drawn):
        y, said = sheet.top + 24 + row * tall, int(one.scores.argmax())
        sheet.image(left[0], y, SIDE, SIDE, request.pixels(split, np.array([one.image]))[0])
        sheet.text(left[0], y + SIDE + 4, f'{one.image}: {request.class_name(one.label)}', SIDE, size=12)
        highest = one.maps.max()
        for x, label in zip(left[1:], classes):
            if label in (one.label, said):
                sheet.box(x - FRAME, y - FRAME, SIDE + 2 * FRAME, SIDE + 2 * FRAME,
                          SAME if label == one.label else OTHER)
            shown = np.where(one.shown[..., label], one.maps[..., label], 0).clip(0)
            sheet.image(x, y, SIDE, SIDE, np.repeat((shown / (highest if highest > 0 else 1))[..., None], 3, axis=2))
            sheet.text(x, y + SIDE + 4, f'{one.scores[label]:.3g}', SIDE, size=12, color=GREY)
    sheet.save(path)


METHOD = Method(look, takes=frozenset({'images'}), options=Options())
