"""Looking inside a trained network: one module a method.

A method has `Options`, its parameters; `look`, which draws a picture and gives the numbers in it, as a dict that JSON
can hold, and a sentence that says them; and `METHOD`. Here is what the methods share.
"""
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import matplotlib
import numpy as np

matplotlib.use('Agg')

import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)

from lib.data.sources import Split  # noqa: E402
from lib.experiment import Data, UsageError  # noqa: E402

SAME, OTHER, GREY, FAINT = '#1f5fa8', '#d1600a', '#6b6b6b', '#e4e4e4'     # SAME: the true class; OTHER: another one
SHARPNESS = 2               # pixels of a picture for one of a sheet
MARGIN, TITLE, LINE = 20, 17, 19
NARROWEST = 760             # pixels, for the titles' sake


class Sheet:
    """A picture that is laid out in pixels from its top left corner, with a title and grey lines of text above."""

    def __init__(self, width: int, height: int, title: str, lines: Sequence[str]):
        self.top = MARGIN + TITLE + LINE * len(lines) + 18      # where the picture proper begins
        self.width, self.height = max(width + 2 * MARGIN, NARROWEST), self.top + height + MARGIN
        inches = (self.width / 100, self.height / 100)
        self.figure = plt.figure(figsize=inches, dpi=100 * SHARPNESS, facecolor='white')
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.axis('off')
        self.text(MARGIN, MARGIN, title, self.width - 2 * MARGIN, size=TITLE, weight='bold')
        for number, line in enumerate(lines):
            self.text(MARGIN, MARGIN + TITLE + 8 + number * LINE, line, self.width - 2 * MARGIN, size=13, color=GREY)

    def image(self, x: float, y: float, width: float, height: float, image: np.ndarray) -> None:
        """uint8 or float 0 to 1 [h, w, 3], blown up in whole squares or made smaller smoothly."""
        smooth = 'nearest' if width >= image.shape[1] else 'antialiased'
        self.axes.imshow(image, extent=(x, x + width, y + height, y), interpolation=smooth)

    def text(self, x: float, y: float, text: str, room: float, size: float = 13, **style) -> None:
        """Text below y, cut to end within `room` pixels; the alignment `ha` is about x."""
        drawn = self.axes.text(x, y, text, fontsize=size * 0.72, va='top', parse_math=False, **style)
        while len(text) > 1 and drawn.get_window_extent().width > room * SHARPNESS:
            text = text[:-1].rstrip()
            drawn.set_text(text + '…')

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """A filled box under the images and texts, or a frame around what lies on it."""
        self.axes.add_patch(plt.Rectangle((x, y), width, height, color=colour, linewidth=0, zorder=-1))

    def save(self, path: Path) -> None:
        self.axes.set(xlim=(0, self.width), ylim=(self.height, 0))
        self.axes.set_aspect('auto')
        self.figure.savefig(path)
        plt.close(self.figure)


def layers(activations: Callable, params, data: Data) -> tuple[str, ...]:
    """The names of a network's layers in its order, from `activations(params, images)`; nothing is computed."""
    image = jax.ShapeDtypeStruct((1, data.image_size, data.image_size, 3), np.float32)
    return tuple(jax.eval_shape(activations, params, image))


def examples(split: Split, wanted: Sequence[int], count: int) -> np.ndarray:
    """int64: the numbers `wanted`, or without any the middles of `count` equal parts of the split, in its order (every
    image, if it has no more).

    Raises:
      UsageError: if a number is not in the split.
    """
    for number in wanted:
        if not 0 <= number < len(split):
            raise UsageError(f'--images: {split.name} has no image {number}: choose numbers from 0 to '
                             f'{len(split) - 1}.')
    count = min(count, len(split))
    return np.array(wanted or (2 * np.arange(count) + 1) * len(split) // (2 * count), np.int64)


def crop(image: np.ndarray, size: int) -> np.ndarray:
    """The central square of an image [h, w, 3] that augment.centre gives to the network, as it is stored."""
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top:top + size, left:left + size]


def class_name(split: Split, label: int) -> str:
    """A short name of a class: the first of several synonyms. A network may have more outputs than its data has
    classes, and an image no label, which is -1."""
    if label < 0:
        return 'no label'
    return split.class_names[label].partition(',')[0] if label < len(split.class_names) else f'class {label}'
