"""What of an image a method may change, and how the changed image becomes a file that the network can be asked about.

A border that the data set's images do not have stays as it is, and what is grey stays grey: an image of a data set of
grey images, and anything for a network that reads one channel.
"""
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lib.data import crops, packed
from lib.data.sources import Split
from lib.visualize.request import Request, central


def inside(request: Request) -> np.ndarray:
    """bool [S, S, 1]: the pixels of the central crop that belong to the image and not to its border."""
    ones = np.ones((1, *[stored_size(request)] * 2, 1), np.uint8)
    return central(packed.bordered(ones, request.data.border), request.size)[0] > 0


def channels(request: Request, pixels: np.ndarray | None = None) -> int:
    """1 if changes to pixels [n, S, S, 3], or to none in particular, are to be grey, otherwise 3."""
    kernel = request.geometry.layers[0].shapes.get('kernel', ())
    if len(kernel) == 4 and kernel[2] == 1:
        return 1
    if pixels is not None:
        return 1 if np.ptp(pixels, axis=-1).max() == 0 else 3
    first, second, _ = request.network.statistics.eigenvalues       # of the colours that it was trained on
    return 1 if 0 < first and second < 1e-6 * first else 3


def stored_size(request: Request) -> int:
    """Pixels a side of the images of its data set, without a border and before they are cut."""
    return request.network.statistics.mean.shape[0] - 2 * request.data.border


def whole(request: Request, split: Split, at: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """uint8 [n, s, s, 3]: the images of a split as they are stored, without border, whose central crops are replaced by
    uint8 [n, S, S, 3]."""
    images = np.array(split.images[at])
    top, left = crops.centre(crops.spare(images, request.size))
    images[:, top:top + request.size, left:left + request.size] = pixels
    border = request.data.border
    return images[:, border:images.shape[1] - border, border:images.shape[2] - border]


def seen(request: Request, images: np.ndarray) -> np.ndarray:
    """uint8 [n, S, S, 3]: what a network looks at of such images."""
    return central(packed.bordered(images, request.data.border), request.size)


def write(folder: Path, images: np.ndarray, numbers: Sequence[int]) -> list[Path]:
    """Writes such images as PNG files, in whose order they are read again, and removes those of an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob('*-image-*.png'):
        old.unlink()
    files = [folder / f'{place:03}-image-{number}.png' for place, number in enumerate(numbers)]
    for image, file in zip(images, files):
        Image.fromarray(image).save(file)
    return files


def read(request: Request, folder: Path) -> np.ndarray:
    """uint8 [n, S, S, 3]: what a network looks at of the files in a folder, as --images=FOLDER reads them."""
    again = dataclasses.replace(request, images=folder)
    return again.pixels(again.judged, np.arange(len(again.judged)))
