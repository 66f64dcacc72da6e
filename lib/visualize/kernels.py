"""The kernels of a first layer as pictures, by group, and how much of each is colour."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lib.visualize import GREY, MARGIN, Sheet

RANDOM = 2 / 3              # expected share of colour where all weights are independent draws from N(0, s^2)
COLUMNS, SIDE, GAP = 16, 66, 4


def measure(kernels: np.ndarray, groups: int = 1) -> dict[str, Any]:
    """Colour shares by group: {'channels', 'random', 'groups': [{'kernels', 'mean', 'median', 'above_half', 'shares'},
    ...]}; kernels of one channel have none.

    Args:
      kernels: [height, width, 3 or 1, n].
      groups: of n / groups kernels each, one after the other.

    Raises:
      ValueError: if `groups` does not divide n.
    """
    found = []
    for part in _split(kernels, groups):
        shares = colour_share(part)
        found.append({'kernels': len(shares), 'mean': float(shares.mean()), 'median': float(np.median(shares)),
                      'above_half': int((shares > 0.5).sum()), 'shares': shares.tolist()})
    return {'channels': kernels.shape[2], 'random': RANDOM, 'groups': found}


def colour_share(kernels: np.ndarray) -> np.ndarray:
    """The share of each kernel's energy that is not grey: [n] from [height, width, 3, n], 0 (grey) to 1.

    Energy is the sum of squares; the grey part of a pixel is the mean of its three weights. A kernel of zeros has 0.
    Of three independent weights of equal variance two parts in three are not grey: see RANDOM.
    """
    kernels = np.asarray(kernels, np.float64)
    colour = kernels - kernels.mean(axis=2, keepdims=True)
    energy = np.square(kernels).sum(axis=(0, 1, 2))
    return np.square(colour).sum(axis=(0, 1, 2)) / np.where(energy, energy, 1)


def statement(found: dict[str, Any]) -> str:
    if found['channels'] == 1:
        return 'The kernels read one channel and have no colour.'
    groups = '; '.join(f'{_name(found, i)}mean {group["mean"]:.2f}, median {group["median"]:.2f}, '
                       f'{group["above_half"]} of {group["kernels"]} kernels above 1/2'
                       for i, group in enumerate(found['groups']))
    return (f"Share of a kernel's energy that is not grey: {groups}. Untrained kernels are not grey: random weights "
            f'N(0, s^2) have {found["random"]:.2f}, so a group has turned colour-blind only if it lies well below.')


def draw(kernels: np.ndarray, groups: int, title: str, lines: Sequence[str], path: Path) -> None:
    """Draws the kernels [height, width, 3 or 1, n], 16 a row, with the shares of `measure` over each group. Each has
    its own scale: zero is mid-grey, its largest absolute weight black or white.

    Raises:
      ValueError: if `groups` does not divide n.
    """
    found, parts = measure(kernels, groups), _split(np.asarray(kernels, np.float32), groups)
    height, width = kernels.shape[:2]
    zoom = max(1, round(SIDE / width))
    tall, wide, columns = height * zoom + GAP, width * zoom + GAP, min(COLUMNS, parts[0].shape[-1])
    rows = -(-parts[0].shape[-1] // columns)
    sheet = Sheet(columns * wide - GAP, len(parts) * (rows * tall + 44) - 18, title, lines)
    for i, (part, group) in enumerate(zip(parts, found['groups'])):
        top = sheet.top + i * (rows * tall + 44)
        if found['channels'] == 1:
            text = f'{_name(found, i)}{group["kernels"]} kernels of one channel'
        else:
            text = f'{_name(found, i)}colour share mean {group["mean"]:.2f}, median {group["median"]:.2f}, ' \
                   f'above 1/2: {group["above_half"]} of {group["kernels"]} (random weights: {found["random"]:.2f})'
        sheet.text(MARGIN, top, text, sheet.width - 2 * MARGIN, color=GREY)
        for k, picture in enumerate(_pictures(part)):
            x, y = MARGIN + k % columns * wide, top + 24 + k // columns * tall
            sheet.image(x, y, width * zoom, height * zoom, picture)
    sheet.save(path)


def _pictures(kernels: np.ndarray) -> np.ndarray:
    """[n, height, width, 3], 0 to 1; one channel is grey."""
    kernels = kernels.repeat(3, axis=2) if kernels.shape[2] == 1 else kernels
    largest = np.abs(kernels).max(axis=(0, 1, 2))
    return np.moveaxis(0.5 + 0.5 * kernels / np.maximum(largest, np.finfo(np.float32).tiny), -1, 0)


def _split(kernels: np.ndarray, groups: int) -> list[np.ndarray]:
    count = kernels.shape[-1]
    if count % groups:
        raise ValueError(f'{count} kernels do not make {groups} equal groups')
    return np.split(kernels, groups, axis=-1)


def _name(found: dict[str, Any], group: int) -> str:
    return f'group {group + 1}: ' if len(found['groups']) > 1 else ''
