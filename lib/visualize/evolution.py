"""What excites a unit at several checkpoints of one training, brought down to the pixels (Zeiler and Fergus 2013,
section 4 and Figure 4). They search all training images, this the evaluation split unless told otherwise."""
import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from lib import checkpoint
from lib.experiment import UsageError, require
from lib.visualize import FAINT, GREY, MARGIN, Sheet, deconvnet, patches
from lib.visualize.deconvnet import Rule
from lib.visualize.request import Method, Request

WIDTH, WIDEST, GAP, BETWEEN, HEAD, BELOW = 920, 200, 6, 40, 26, 46


@dataclasses.dataclass(frozen=True)
class Options:
    checkpoints: int = 8            # at most so many, the first and the last among them (Zeiler and Fergus show 8)
    rule: Rule = 'deconvnet'        # of the ReLUs on the way down: see lib/backward.py
    split: Literal['train', 'validation'] | None = None     # that is searched; none for the evaluation split
    searched: int | None = None     # at most so many images of it, at equal distances; none for all

    def __post_init__(self):
        require(2 <= self.checkpoints <= 12, f'evolution.checkpoints={self.checkpoints} must be 2 to 12: so many fit '
                                             'beside each other.')
        patches.require_searched(self.searched)


class Cell(NamedTuple):
    """A unit at a checkpoint."""
    projection: np.ndarray      # float32 [side, side, 3]
    patch: np.ndarray           # uint8 [side, side, 3], that caused it


def chosen_checkpoints(request: Request, count: int) -> list[Path]:
    """The folders of at most `count` steps, at equal distances among those that were kept.

    Raises:
      UsageError: if there is no run, or it kept one checkpoint.
    """
    require(request.checkpoints is not None, '--method=evolution compares the checkpoints of a training, and a file of '
                                             'weights has none: give the --workdir of a run.')
    there = checkpoint.undamaged(request.checkpoints)
    if len(there) < 2:
        raise UsageError(f'{request.checkpoints} holds {len(there)} checkpoint, of at least 2 that are compared: train '
                         'with some epochs kept, as in --set checkpoint.keep=[1,2,5].')
    return [there[k] for k in np.linspace(0, len(there) - 1, min(count, len(there))).round().astype(int)]


def at_checkpoint(request: Request, folder: Path) -> Request:
    """The same request to the network as it was at a step."""
    averaging = request.network.experiment.optimizer.averaging
    params = checkpoint.read(folder, 'average' if averaging else 'params')
    return dataclasses.replace(request, network=request.network._replace(params=params, step=int(folder.name)))


def measure(request: Request, options: Options) -> tuple[dict[str, Any], list[list[Cell | None]]]:
    """The numbers, and for each unit a cell a checkpoint, None where the unit is silent."""
    deconvnet.require_relus(request, options.rule, 'evolution')
    folders = chosen_checkpoints(request, options.checkpoints)
    split, at = patches.searched_images(request, options.split, options.searched)
    layer = request.chosen_layer()
    units, field = request.units(layer, 6), request.geometry[layer]
    epochs = [json.loads((folder / 'progress.json').read_text())['epoch'] for folder in folders]
    found, cells = [{'unit': int(unit), 'strongest': []} for unit in units], [[] for _ in units]
    # The newest first: a training that goes on deletes them soon.
    for number, folder in enumerate(reversed(folders), 1):
        moment = at_checkpoint(request, folder)
        best = patches.strongest(moment, layer, units, split, at, 1, f'Checkpoint {number} of {len(folders)}')
        for entry, own, row in zip(patches.describe(split, units, best), found, cells):
            own['strongest'][:0] = entry['patches'] or [None]
            if entry['patches']:
                patch, = entry['patches']
                whole, = deconvnet.project(moment, options.rule, layer, entry['unit'], split, [patch])
                seen, = patches.cuts(request, split, field, entry)
                row.insert(0, Cell(patches.cut(whole, field, (patch['row'], patch['column']), 0), seen))
            else:
                row.insert(0, None)
    for own, row in zip(found, cells):
        own['blank'] = [one is not None and not one.projection.any() for one in row]
        last = own['strongest'][-1]
        own['image_of_last'] = [bool(last and one and one['image'] == last['image']) for one in own['strongest']]
        own['like_last'] = [deconvnet.resemblance([one.projection, row[-1].projection]) if one and row[-1] else None
                            for one in row]
    steps = [int(folder.name) for folder in folders]
    numbers = {'layer': layer, 'units': units.tolist(), 'data': split.name, 'searched': len(at), 'rule': options.rule,
               'receptive_field': field.receptive_field, 'steps': steps, 'epochs': epochs, 'found': found}
    numbers |= {'table': table(numbers)} | ({} if request.images is None else {'images': at.tolist()})
    return numbers, cells


def table(numbers: dict[str, Any]) -> dict[str, Any]:
    """A row a checkpoint, over the units."""
    rows = []
    for k, (step, epoch) in enumerate(zip(numbers['steps'], numbers['epochs'])):
        alike = [unit['like_last'][k] for unit in numbers['found'] if unit['like_last'][k] is not None]
        rows.append([f'{epoch:.3g}', step, sum(unit['strongest'][k] is None for unit in numbers['found']),
                     sum(unit['image_of_last'][k] for unit in numbers['found']),
                     f'{np.mean(alike):.2f}' if alike else '-'])
    return {'columns': ['epoch', 'step', 'silent units', 'units with the image of the last checkpoint',
                        'mean cosine with its projection'], 'rows': rows}


def look(request: Request, options: Options, picture: Path) -> tuple[dict[str, Any], str]:
    numbers, cells = measure(request, options)
    draw(request, numbers, cells, picture)
    return numbers, statement(numbers)


def statement(numbers: dict[str, Any]) -> str:
    rows = numbers['table']['rows'][:-1]
    told = rows if len(rows) == 1 else [rows[0], rows[-1]]
    said = '; '.join(f'at epoch {row[0]} the image is that of the last checkpoint for {row[3]} of the units, and the '
                     f'mean cosine of their projections with the last ones, each less its mean, {row[4]}'
                     for row in told)
    blank = sum(sum(unit['blank']) for unit in numbers['found'])
    return (f'The strongest activation of each of {len(numbers["found"])} units of {numbers["layer"]} in '
            f'{numbers["searched"]:,} images of {numbers["data"]}, at {len(numbers["steps"])} checkpoints from epoch '
            f'{numbers["epochs"][0]:.3g} to {numbers["epochs"][-1]:.3g}: {said}.'
            + (f' {blank} projections are blank: no signal comes down, as from a saturated unit.' if blank else ''))


def draw(request: Request, numbers: dict[str, Any], cells: list[list[Cell | None]], picture: Path) -> None:
    """Draws of each unit a column a checkpoint: the projection, and below it the patch that caused it. Units stand
    beside each other where checkpoints are few."""
    layer, columns = request.geometry[numbers['layer']], len(numbers['steps'])
    side = min((WIDTH + GAP) / columns - GAP, WIDEST)
    wide, tall = columns * (side + GAP) - GAP, HEAD + 2 * (side + GAP) + BELOW
    across = max(1, min(len(cells), int((WIDTH + BETWEEN) / (wide + BETWEEN))))
    sheet = Sheet(round(across * (wide + BETWEEN) - BETWEEN), round(-(-len(cells) // across) * tall - 20),
                  f'{deconvnet.NAMES[numbers["rule"]]} of {layer.name} in the course of training',
                  [request.network.origin,
                   f'the strongest activation in {numbers["searched"]:,} images of {numbers["data"]}',
                   'each projection has its own contrast around mid-grey; below it the patch that caused it',
                   patches.words(layer, request.size)])
    for k, (unit, row) in enumerate(zip(numbers['found'], cells)):
        left, y = MARGIN + k % across * (wide + BETWEEN), sheet.top + k // across * tall
        sheet.text(left, y, f'{layer.name}, unit {unit["unit"]}', wide, size=15, weight='bold')
        for j, (cell, patch, epoch) in enumerate(zip(row, unit['strongest'], numbers['epochs'])):
            x, top = left + j * (side + GAP), y + HEAD
            below = top + 2 * (side + GAP)
            if cell is None:
                sheet.box(x, top, side, 2 * side + GAP, FAINT)
                sheet.text(x + side / 2, top + side - 6, 'silent', side, color=GREY, ha='center')
            else:
                sheet.image(x, top, side, side, deconvnet.contrasted(cell.projection))
                if not cell.projection.any():
                    sheet.text(x + side / 2, top + side / 2 - 8, 'blank', side, color='white', ha='center')
                sheet.image(x, top + side + GAP, side, side, cell.patch)
                name = f'{patch["image"]}: {patch["name"]}'.removesuffix(': ')
                sheet.text(x, below + 14, name, side, size=11, color=GREY)
            sheet.text(x, below - 2, f'epoch {epoch:.3g}', side, size=13)
    sheet.save(picture)


METHOD = Method(look, takes=frozenset({'layer', 'unit', 'images'}), options=Options())
