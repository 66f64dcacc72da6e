"""Claims on what misleads networks, tested by looks at networks of several seeds, kept in reproductions/gallery."""
import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lib import effects
from lib.experiment import UsageError, require
from lib.report import DAGGER, Finding


@dataclasses.dataclass(frozen=True)
class Look:
    """A number of a paper, and where ours stands in the tables of looks, one a seed."""
    claim: str
    paper: str                                          # what the paper prints, and of which network
    place: str                                          # the folder of the tables in reproductions/gallery
    row: str | None                                     # its first cell; None for the mean over all rows
    column: str
    against: str = ''                                   # a column whose numbers the others are compared with; or,
    # without one, the number is of another network than the paper's and tests nothing
    sign: Literal['more', 'less'] = 'more'              # what the paper says of it beside `against`


def read(path: Path) -> dict[str, Any]:
    """What launch.visualize wrote beside a picture.

    Raises:
      UsageError: if there is no such file, or it is no JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f'{path} cannot be read: run launch.gallery, or remove the block or the claim that asks for '
                         'it.') from error


def of_seeds(folder: Path) -> list[dict[str, Any]]:
    """The looks at networks of several seeds, in the order of their seeds; [] if there are none."""
    return [read(path) for path in sorted(folder.glob('seed-*.json'))]


def finding(look: Look, looks: Sequence[dict[str, Any]]) -> Finding:
    """Ours beside the paper's number.

    Raises:
      UsageError: if there is no look, or a table has no such row or column.
    """
    require(bool(looks), f'reproductions/gallery/{look.place} has no seed-N.json: put it there, or remove the claim.')
    images = looks[0]['images']
    judged = f'{images if isinstance(images, int) else len(images):,} images of {looks[0]["data"]}'
    if not look.against:
        values = [_number(one, look.row, look.column) for one in looks]
        digits = 3 if max(values) < 1 else 1
        interval = f' ± {effects.half_interval(values):.{digits}f}' * (len(values) > 1)
        return Finding(look.claim, look.paper, f'{statistics.fmean(values):.{digits}f}{DAGGER}{interval}', judged, '-',
                       len(values), None)
    sides = ({seed: _number(one, look.row, column) for seed, one in enumerate(looks)}
             for column in (look.column, look.against))
    found = effects.paired(*sides)
    effect = effects.Effect(look.claim, look.column, look.against, look.paper, look.sign)
    return Finding(look.claim, look.paper, f'{found.ours:.2f} against {found.theirs:.2f}: {found}', judged, '-',
                   len(found.each), effects.verdict(effect, found))


def _number(look: dict[str, Any], row: str | None, column: str) -> float:
    columns, rows = look['table']['columns'], look['table']['rows']
    chosen = [cells for cells in rows if row in (None, cells[0])]
    if not chosen or column not in columns:
        raise UsageError(f'{look["command"]} made no table with a row {row!r} and a column {column!r}: name others.')
    return statistics.fmean(float(cells[columns.index(column)]) for cells in chosen)
