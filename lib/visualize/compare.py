"""The first-layer kernels of two networks side by side, with what `kernels` counts of each: so Zeiler and Fergus 2013,
section 4.1 and Figure 6, compare a first layer of 11x11 at stride 4 with one of 7x7 at stride 2."""
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from lib.experiment import require
from lib.visualize import GREY, MARGIN, Sheet, kernels
from lib.visualize.request import Method, Request

COLUMNS, BETWEEN, LINES = 8, 48, 68


@dataclasses.dataclass(frozen=True)
class Options:
    dead: float = kernels.Options.dead              # as of `kernels`
    duplicate: float = kernels.Options.duplicate

    def __post_init__(self):
        kernels.Options(self.dead, self.duplicate)


def look(request: Request, options: Options, picture: Path) -> tuple[dict[str, Any], str]:
    require(request.other is not None, 'Name the network to compare with: --other=DIR or --other=FILE or, of another '
                                       'paper, --other=PAPER:DIR.')
    sides = [_side(one, options) for one in (request, dataclasses.replace(request, network=request.other))]
    draw(sides, picture)
    numbers = {'layers': [f'{network}, {layer}' for network, layer, *_ in sides],
               'networks': [found for *_, found in sides], 'table': _table(sides)}
    return numbers, statement(sides)


Side = tuple[str, str, np.ndarray, dict[str, Any]]      # network, layer, kernels and what was measured of them


def _side(request: Request, options: Options) -> Side:
    layer = next(layer for layer in request.geometry.layers if layer.kind == 'convolution')
    weights = np.asarray(request.network.params[layer.name]['kernel'])
    groups = getattr(request.network.experiment.model, 'groups', 1)
    words = f'{layer.name}: {layer.window.size}x{layer.window.size} at stride {layer.window.stride}'
    found = kernels.measure(weights, groups, kernels.Options(options.dead, options.duplicate))
    return request.network.origin.partition(': ')[0], words, weights, found


def statement(sides: list[Side]) -> str:
    def counted(found):
        groups = found['groups']
        total = sum(group['kernels'] for group in groups)
        silent, alike = (sum(len(group[key]) for group in groups) for key in ('dead', 'duplicates'))
        middle = np.mean([share for group in groups for share in group['middle']['of_each']])
        return f'of {total} kernels {silent} dead and {alike} near-duplicates, {100 * middle:.0f} % of the energy at ' \
               f'middle frequencies, {100 * found["random"]["middle"]:.0f} % with random weights'

    return '; '.join(f'{words}: {counted(found)}' for _, words, _, found in sides) + \
        ' (above a third and below two thirds of the highest).'


def _table(sides: list[Side]) -> dict[str, Any]:
    tables = [kernels.table(found) for *_, found in sides]
    columns = max((table['columns'] for table in tables), key=len)
    rows = [[f'{words}, {row[0]}', *(dict(zip(table['columns'], row)).get(column, '') for column in columns[1:])]
            for (_, words, *_), table in zip(sides, tables) for row in table['rows']]
    return {'columns': ['layer', *columns[1:]], 'rows': rows}


def draw(sides: list[Side], path: Path) -> None:
    """Draws the kernels of both, eight a row, each side under the name of its network."""
    sizes = [kernels.extent(weights, len(found['groups']), COLUMNS) for _, _, weights, found in sides]
    room = max(max(width for width, _ in sizes), 430)
    sheet = Sheet(2 * room + BETWEEN, LINES + max(height for _, height in sizes), 'First layers side by side',
                  sorted({line for *_, found in sides for line in kernels.legend(found)}))
    for i, (network, words, weights, found) in enumerate(sides):
        left = MARGIN + i * (room + BETWEEN)
        sheet.text(left, sheet.top, words, room, size=15, weight='bold')
        sheet.text(left, sheet.top + 22, network, room, color=GREY)
        kernels.place(sheet, left, sheet.top + LINES, room, weights, found, COLUMNS)
    sheet.save(path)


METHOD = Method(look, takes=frozenset({'other'}), options=Options())
