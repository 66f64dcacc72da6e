"""Where in an image a class is: GrabCut between colours that the saliency map names (Simonyan, Vedaldi and Zisserman
2013, section 3.2, there with GraphCut).

The most salient pixels are object and the least salient background. Colour models of both are taken from these pixels
alone, as in the paper, and the image is cut between them; then GrabCut estimates the models again from the cut. The
object is the largest connected component. The map is of one central crop, without a threshold on its size.
"""
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from lib.backward import GRADIENT
from lib.experiment import UsageError, require
from lib.visualize import GREY, MARGIN, OTHER, SAME, Sheet, class_name
from lib.visualize.request import Method, Request
from lib.visualize.saliency import EXAMPLES, grey, magnitude, maps

DRAWN = 24              # rows of a picture at most
SIDE, GAP = 176, 12
COMPONENTS = 5          # Gaussians in a colour model of OpenCV
HEADINGS = ('the image', 'saliency', 'seeds', 'the object')


@dataclasses.dataclass(frozen=True)
class Options:
    object: float = 0.95        # quantile of the saliency above which pixels are object (section 3.2)
    background: float = 0.3     # quantile up to which they are background (section 3.2)
    iterations: int = 5         # of GrabCut, each with new colour models; 0: one cut, as in the paper

    def __post_init__(self):
        require(0 < self.background <= self.object < 1,
                f'segmentation.background={self.background} and segmentation.object={self.object} must be quantiles, '
                'the first not above the second.')
        require(self.iterations >= 0, f'segmentation.iterations={self.iterations} must be at least 0.')


class Box(NamedTuple):
    """Pixels of a crop, the last row and column beyond it."""
    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)


def opencv() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise UsageError('--method=segmentation cuts with OpenCV, which is not installed: pip install '
                         'opencv-python-headless') from error
    return cv2


def seeds(saliency: np.ndarray, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """(bool [S, S]: pixels that are object, that are background) by the quantiles of a map [S, S]; a pixel that nothing
    depends on is never object."""
    high, low = np.quantile(saliency, (options.object, options.background))
    found = (saliency > high) if (saliency > high).any() else (saliency >= high) & (saliency > 0)
    return found, (saliency <= low) & ~found


def cut(image: np.ndarray, found: np.ndarray, background: np.ndarray, iterations: int) -> np.ndarray:
    """bool [S, S]: the largest connected component of what is object in an image, uint8 [S, S, 3], by seeds [S, S].
    Empty if there are too few seeds for a colour model.

    Raises:
      UsageError: if OpenCV is not installed.
    """
    cv2 = opencv()
    if min(found.sum(), background.sum()) < COMPONENTS:
        return np.zeros(found.shape, bool)
    cv2.setRNGSeed(0)                   # its colour models begin with k-means
    models = np.zeros((1, 13 * COMPONENTS)), np.zeros((1, 13 * COMPONENTS))     # weight, mean, covariance
    row = np.concatenate([image[found], image[background]])[None]
    which = np.repeat(np.uint8([cv2.GC_FGD, cv2.GC_BGD]), [found.sum(), background.sum()])[None]
    cv2.grabCut(row, which, None, models[1], models[0], 0, cv2.GC_INIT_WITH_MASK)
    mask = np.full(found.shape, cv2.GC_PR_BGD, np.uint8)
    mask[found], mask[background] = cv2.GC_FGD, cv2.GC_BGD
    cv2.grabCut(image, mask, None, models[1], models[0], 1, cv2.GC_EVAL_FREEZE_MODEL)
    if iterations:
        cv2.grabCut(image, mask, None, models[1], models[0], iterations, cv2.GC_EVAL)
    inside = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD))
    _, parts, about, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8))
    return parts == 1 + np.argmax(about[1:, cv2.CC_STAT_AREA])


def box(mask: np.ndarray) -> Box | None:
    """The smallest that holds a mask [S, S]; None if that is empty."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return Box(*map(int, (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1))) if len(rows) else None


def measure(pixels: np.ndarray, saliency: np.ndarray, options: Options) -> list[np.ndarray]:
    """The object's mask [S, S] in each of the images, uint8 [n, S, S, 3], by its map of [n, S, S]."""
    return [cut(np.ascontiguousarray(image), *seeds(one, options), options.iterations)
            for image, one in zip(pixels, saliency)]


def look(request: Request, options: Options, picture: Path) -> tuple[dict[str, Any], str]:
    opencv()                            # before the work, not after
    split, at = request.examples(EXAMPLES)
    layer, targets, signals = maps(request, GRADIENT, split, at)
    saliency = magnitude(signals)
    pixels = request.pixels(split, np.array([target.image for target in targets]))
    masks = measure(pixels, saliency, options)
    boxes = [box(mask) for mask in masks]
    names = [request.unit_name(layer, target.unit) for target in targets]
    table = {'columns': ['Image', 'Label', 'Unit', 'Top, left, bottom, right', 'Box, % of the crop',
                         'Object, % of the crop'],
             'rows': [[target.image, class_name(split, int(split.labels[target.image])), name,
                       ', '.join(map(str, one)) if one else 'none',
                       f'{100 * one.area / mask.size:.1f}' if one else '', f'{100 * mask.mean():.1f}']
                      for target, name, one, mask in zip(targets, names, boxes, masks)]}
    found = {'layer': layer, 'units': [target.unit for target in targets], 'data': split.name, 'images': at.tolist(),
             'boxes': boxes, 'table': table}
    lines = [request.network.origin,
             f'{len(at)} images of {split.name}, one central crop of {request.size} pixels' +
             (f', the first {DRAWN} drawn' if len(targets) > DRAWN else ''),
             f'Seeds: orange above the {100 * options.object:g} % quantile of the saliency, blue up to the '
             f'{100 * options.background:g} % quantile.']
    captions = [f'image {target.image}: {row[1]}; {layer}, {name}' + ('' if one else ': no object')
                for target, name, one, row in zip(targets, names, boxes, table['rows'])]
    draw(pixels, saliency, masks, options, captions, lines, picture)
    return found, statement(masks, saliency)


def statement(masks: Sequence[np.ndarray], saliency: np.ndarray) -> str:
    """Of the objects that were found: how large they and their boxes are, and how much of the saliency they hold."""
    there = [(mask, one) for mask, one in zip(masks, saliency) if mask.any()]
    if not there:
        return f'No object was found in {len(masks)} maps: the units are silent there.'
    area = 100 * np.mean([mask.mean() for mask, _ in there])
    boxed = 100 * np.mean([box(mask).area / mask.size for mask, _ in there])
    held = 100 * np.mean([one[mask].sum(dtype=np.float64) / one.sum(dtype=np.float64) for mask, one in there])
    missing = f' In {len(masks) - len(there)} others no object was found.' * (len(there) < len(masks))
    return (f'Over {len(there)} maps the object has {area:.1f} % of the crop and {held:.1f} % of its saliency, and its '
            f'box {boxed:.1f} % of the crop, in the mean.{missing}')


def draw(pixels: np.ndarray, saliency: np.ndarray, masks: Sequence[np.ndarray], options: Options,
         captions: Sequence[str], lines: Sequence[str], path: Path) -> None:
    """A row a map: the image; the map; the seeds on the pale image; the object in its box, the rest in blue."""
    captions, tall = captions[:DRAWN], SIDE + 34
    sheet = Sheet(len(HEADINGS) * (SIDE + GAP) - GAP, 24 + len(captions) * tall - 10,
                  'Segmentation: GrabCut between what is salient and what is not', lines)
    for j, heading in enumerate(HEADINGS):
        sheet.text(MARGIN + j * (SIDE + GAP), sheet.top, heading, SIDE, size=15, color=GREY)
    for i, caption in enumerate(captions):
        y, image = sheet.top + 24 + i * tall, pixels[i] / 255
        found, background = seeds(saliency[i], options)
        marked = 0.55 + 0.45 * np.repeat(image.mean(2, keepdims=True), 3, axis=2)
        marked[background], marked[found] = to_rgb(SAME), to_rgb(OTHER)
        kept = np.where(masks[i][..., None], image, 0.6 * np.array(to_rgb(SAME)) + 0.4 * image.mean(2, keepdims=True))
        for j, panel in enumerate((image, grey(saliency[i]), marked, kept)):
            sheet.image(MARGIN + j * (SIDE + GAP), y, SIDE, SIDE, panel)
        if one := box(masks[i]):
            scale = SIDE / len(image)
            sheet.axes.add_patch(Rectangle((MARGIN + 3 * (SIDE + GAP) + scale * one.left, y + scale * one.top),
                                           scale * (one.right - one.left), scale * (one.bottom - one.top), fill=False,
                                           color=OTHER, linewidth=2))
        sheet.text(MARGIN, y + SIDE + 3, caption, 4 * SIDE + 3 * GAP, size=14)
    sheet.save(path)


METHOD = Method(look, takes=frozenset({'layer', 'unit', 'images'}), options=Options())
