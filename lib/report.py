"""What a paper printed beside what a run measured: on the terminal, and as sheets and findings for the READMEs.

A paper's tables are data: lib/tables.py, and lib/races.py and lib/effects.py for claims that comparisons test. A run is
its results.json (lib/results.py). The rule of this module: unlike is never compared with like in silence. A number
measured on other data, another network, fewer epochs or a changed recipe carries a dagger, and the lines under the
table say why.
"""
import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from lib import effects, races, seeds
from lib.effects import Effects, Where
from lib.experiment import NO_RECIPE, in_words
from lib.races import Entrant, Race
from lib.results import kept, origin
from lib.tables import Column, Row, Table

DAGGER = '†'
METRICS = {'top1': 'top-1', 'top5': 'top-5'}
MEMORY = ' (from memory)'
READABLE = 200                                          # characters of two lists
NOT_MEASURED = f'-{DAGGER}'


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table ready to be printed: text in every cell, the lines that belong under it."""
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    ours: tuple[bool, ...]                              # by row: the run speaks to it; the others are context
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One number of the paper with ours beside it, as text."""
    claim: str
    paper: str
    ours: str
    judged: str                                         # images and crops that the error is of
    epochs: str
    seeds: int
    verdict: str | None                                 # does the claim hold; None if the run does not test it
    claimed: bool = True                                # False: the paper says nothing of it


# ---------------------------------------------------------------------------------- a run beside a paper's tables

def sheets(results: dict[str, Any], tables: Iterable[Table | Race | Effects], speaks_to: str) -> list[Sheet]:
    """Every table in which a row belongs to the run's experiment or to `speaks_to`, the run's numbers in those rows."""
    found, experiments = [], {results['experiment'], speaks_to}
    for table in tables:
        if isinstance(table, Race):
            if table.experiment in experiments and 'arms' in results:
                found.append(_race(results, table))
        elif isinstance(table, Effects):
            if table.experiment in experiments and 'arms' in results:
                found += [_effects(results, table, where) for where in effects.measured(results)
                          if where.split != effects.trained_on(results)]
        elif 'arms' not in results and any(concerns(results, row, experiments) for row in table.rows):
            found.append(_table(results, table, experiments))
    if 'arms' in results and results['target'] is None:
        found.append(_arms(results))
    return found


def concerns(results: dict[str, Any], row: Row, experiments: set[str]) -> bool:
    """A run, or an evaluation of one network, speaks to the rows of its experiments; an average to all averages."""
    if row.members:
        return len(networks(results)) > 1
    return len(networks(results)) == 1 and bool(experiments & {row.experiment, *row.shorter})


def networks(results: dict[str, Any]) -> list[dict[str, Any]]:
    """What is known of each network in a result: of a run, that is the result itself; of those that differ in their
    seed only, it is said once."""
    found = results.get('members', [results])
    return found[:1] if 'seeds' in results else found


def _error(results: dict[str, Any], row: Row, column: Column) -> dict[str, Any] | None:
    """The measurement for a cell: the row's crops; for a row that names none, those of the experiment's evaluation,
    which come first."""
    split = 'train' if column.split == 'train' else 'validation'
    fitting = [error for error in results['errors']
               if error['split'] == split and row.protocol in (None, error['protocol'])]
    return fitting[0] if fitting else None


def _same_data(results: dict[str, Any], table: Table | Race) -> bool:
    return results['data']['name'].split()[0] == table.source


def unlike(results: dict[str, Any], table: Table, row: Row, column: Column, seen: int) -> list[str]:
    """Why a number of this run is not the quantity that the paper printed in a column, one sentence each; the
    differences from the published recipe, which `recipe` lists, left out."""
    reasons = _another_quantity(results, table, row, column, seen)
    examples = table.train_examples if column.split == 'train' else table.examples
    if not reasons and examples not in (None, seen):
        reasons.append(f'Fewer examples: the paper evaluated {examples:,}, this run {seen:,}.' if seen < examples else
                       f'More examples: the paper evaluated {examples:,}, this run {seen:,}.')
    return reasons


def _another_quantity(results: dict[str, Any], table: Table, row: Row, column: Column, seen: int) -> list[str]:
    """The reasons of `unlike` but for a number of examples, which an interval allows for."""
    name, reasons = results['data']['name' if column.split == 'train' else 'validation_name'], []
    if not _same_data(results, table):
        reasons.append(f'Other data: {seen:,} examples of {name} are not {table.data}.')
    elif column.split == 'test' and not re.search(r'\btest\b', name):
        reasons.append(f'Other split: the paper measured on the test set, this run on {name}.')
    for network in networks(results):
        if row.parameters not in (None, network['parameters']):
            reasons.append(f'Another network: {network["parameters"]:,} parameters, {row.parameters:,} in the paper.')
        if network['epochs'] is None and network['experiment'] != row.experiment:
            reasons.append('Trained elsewhere, by a recipe of its own.')
        elif None not in (table.epochs, network['epochs']) and round(network['epochs'], 2) != table.epochs:
            reasons.append(f'{number(network["epochs"])} epochs of training here, {table.epochs} in the paper.')
    ours = [network['experiment'] for network in networks(results)]
    if row.members and sorted(ours) != sorted(row.members):
        reasons.append(f'{row.name}: other networks, {listed(ours)} here and {listed(row.members)} in the paper.')
    return reasons


def verdict(results: dict[str, Any], table: Table, row: Row, i: int) -> str | None:
    """Whether the paper's number, which is of one run, lies within what chance allows another run of ours: a 95 %
    prediction interval over the seeds, wider for fewer test images than the paper's, and the paper's rounding. Of one
    seed what lies beyond is undecided. None if ours is another quantity or recipe."""
    column, printed, error = table.columns[i], row.values[i], _error(results, row, table.columns[i])
    ours, seen = error[column.metric], error['seen']
    if _another_quantity(results, table, row, column, seen) or _departures(results, row) or ours is None:
        return None
    each = error.get('each', {}).get(column.metric, [ours])
    examples = table.train_examples if column.split == 'train' else table.examples
    sampling = 1.96 * (ours * (100 - ours) / seen)**0.5 if seen < (examples or seen) else 0.0
    of_seeds = effects.half_interval(each) * (len(each) + 1)**0.5 if len(each) > 1 else 0.0
    allowed, off = math.hypot(sampling, of_seeds) + 0.5 * 10**-column.decimals, abs(ours - printed)
    said = 'holds' if off <= allowed else 'lower' if ours < printed else 'missed'
    digits = max(1, column.decimals)
    if len(each) == 1 and off > allowed:        # how much other seeds differ is not known
        return f'undecided: {off:.{digits}f} off (one seed)'
    return f'{said}: {off:.{digits}f} off, {allowed:.{digits}f} allowed' + ' (one seed)' * (len(each) == 1)


def listed(names: Iterable[str]) -> str:
    return ' and '.join(f'{count} x {name}' for name, count in collections.Counter(names).items())


def recipe(results: dict[str, Any]) -> str:
    """The fields in which the run departs from the published recipe, in one sentence; '' if it follows it. Of two
    lists too long to read, only how many of their items differ is said."""
    changes = [_change(path, published, ours) for path, (published, ours) in results['differences'].items()]
    if not changes:
        return ''
    return f'Departs in {len(changes)} fields from the recipe here that it is a version of: {"; ".join(changes)}.'


def _change(path: str, published: Any, ours: Any) -> str:
    if isinstance(published, list) and isinstance(ours, list) and len(f'{published}{ours}') > READABLE:
        if len(published) == len(ours):
            differing = sum(one != other for one, other in zip(published, ours))
            return f'{path}: {differing} of {len(ours)} differ (results.json has both)'
        return f'{path}: {len(ours)}, there {len(published)} (results.json has both)'
    return f'{path} = {_plain(ours)} (there: {_plain(published)})'


def _departures(results: dict[str, Any], row: Row) -> list[str]:
    """The fields in which the run departs from the published recipe, those of the test only if the row names none: a
    measurement for a row that does is by that row's crops and scales. It is always of its column's split."""
    of_the_test = ('evaluation.split', *(('evaluation.crops', 'evaluation.scales') if row.protocol else ()))
    return [path for path in results['differences'] if path not in of_the_test]


def _plain(value: Any) -> str:
    words = {'None': 'none', 'True': 'true', 'False': 'false'}
    return words.get(str(value), str(value))


def cell(results: dict[str, Any], table: Table, row: Row, i: int) -> tuple[str, list[str]]:
    """The text of one cell of ours, and the reasons for its dagger."""
    column, printed = table.columns[i], row.values[i]
    # A table that prints both has a test set whose labels are not public.
    withheld = column.split == 'test' and any(other.split == 'validation' for other in table.columns)
    if printed is None or row.minus or withheld:
        return '', []
    error = _error(results, row, column)
    if error is None:
        how = in_words(row.protocol) if row.protocol else f'the {column.split} split'
        return NOT_MEASURED, [f'{row.name}: not measured by this run with {how}.']
    reasons = unlike(results, table, row, column, error['seen'])
    dagger = DAGGER if reasons or _departures(results, row) else ''
    return beside(error[column.metric], printed, column.decimals) + dagger, reasons


def _table(results: dict[str, Any], table: Table, experiments: set[str]) -> Sheet:
    speaking = tuple(concerns(results, row, experiments) for row in table.rows)
    cells, reasons, notes = [], [], []
    for row, speaks in zip(table.rows, speaking):
        answers = [cell(results, table, row, i) if speaks else ('', []) for i in range(len(table.columns))]
        cells.append([(printed(value, column, row), ours)
                      for value, column, (ours, _) in zip(row.values, table.columns, answers)])
        reasons += [reason for _, found in answers for reason in found]
        if speaks and row.minus:
            notes.append(f'{row.name}: a difference between two runs, {row.experiment} minus {row.minus}.')
        if speaks and row.note:
            notes.append(f'{row.name}: {row.note}')
    answered = [any(row[i][1] for row in cells) for i in range(len(table.columns))]
    header = ['']
    for column, has_ours in zip(table.columns, answered):
        header += [column.name.replace(' (', '\n(') + '\npaper'] + ['ours\n(ours - paper)'] * has_ours
    rows = [(row.name, *(text for (paper, ours), has in zip(line, answered) for text in ((paper, ours) if has
             else (paper,)))) for row, line in zip(table.rows, cells)]
    if any(_departures(results, row) for row, line in zip(table.rows, cells) if any(ours for _, ours in line)):
        reasons.append('A changed recipe: see below.')
    if any(speaking) and {column.split for column in table.columns} == {'validation', 'test'}:
        notes.append('Test: its labels are not public, so only the validation columns can be measured.')
    reasons = [f'{DAGGER} {reason}' for reason in dict.fromkeys(reasons)]
    unit = 'percentage points of error' if any(row.minus for row in table.rows) else 'error in %'
    return Sheet(f'{table.title}: {unit} on {table.data}', tuple(header), tuple(rows), speaking,
                 (*reasons, *notes))


def printed(value: float | None, column: Column, row: Row) -> str:
    """A paper's number as the paper printed it."""
    if value is None:
        return '-'
    sign = '+' if row.minus else ''
    return (row.words or f'{value:{sign}.{column.decimals}f}') + (MEMORY if row.memory else '')


def beside(ours: float | None, paper: float, decimals: int = 1) -> str:
    """Our error in %, and how much more than the paper's it is: '41.2 (+0.5)'; with one decimal at least."""
    if ours is None or not math.isfinite(ours):
        return 'not a number'
    places = max(1, decimals)
    difference = round(ours - paper, places) + 0.0      # + 0.0: a rounded -0.04 is +0.0, not -0.0
    return f'{ours:.{places}f} ({difference:+.{places}f})'


def number(value: float) -> str:
    """A count of epochs or of millions, with at most two decimals."""
    return f'{round(value, 2):,g}'


def _race(results: dict[str, Any], race: Race) -> Sheet:
    grid, target = races.entrants(results), number(results['target'])
    winners, reasons = races.best(grid), race_unlike(results, race)
    dagger = DAGGER * bool(reasons)
    rows, ours = [], []
    for e in grid:
        wins = winners.get(e.name) == e
        first = e == next(other for other in grid if other.name == e.name)
        speaks = wins or (e.name not in winners and first)
        rows.append((e.name, f'{e.learning_rate:g}', str(e.seeds),
                     _reached(e) + dagger * (e.reached is not None),
                     'not a number' if e.lowest is None else f'{e.lowest:.1f}',
                     race.epochs.get(e.name, '-') + MEMORY * race.memory if speaks else ''))
        ours.append(wins)
    found = races.speed_up(results, race)
    said = (f'{race.faster} and {race.slower} have no seed with which both can be compared' if found is None else
            f'{race.slower} needs {found}{dagger} the epochs of {race.faster}, each at the best learning rate tried')
    each = found.each if found else ()
    by_seed = f' By seed: {", ".join(f"{ratio:.2f}" for ratio in each)}.' * (len(each) > 1)
    notes = [f'{said}; the paper: {race.claim}.{by_seed}', *reasons]
    for name, winner in winners.items():
        rates = [e.learning_rate for e in grid if e.name == name]
        if len(rates) == 1:
            notes.append(f'One learning rate of {name} was tried: another may be faster.')
        elif winner.learning_rate in (min(rates), max(rates)):
            notes.append(f'The best learning rate of {name} lies at the edge of its grid: another may be faster.')
    header = ('', 'learning\nrate', 'seeds', f'epochs\nto {target} %', 'lowest\n%', 'epochs\npaper')
    return Sheet(f'{race.title}: epochs of training on {race.data} until {number(race.target)} % training error',
                 header, tuple(rows), tuple(ours), tuple(notes))


def _reached(entrant: Entrant) -> str:
    if entrant.reached is not None:
        return number(entrant.reached)
    return f'with {entrant.arrived} of {entrant.seeds} seeds' if entrant.arrived else f'not in {number(entrant.epochs)}'


def _effects(results: dict[str, Any], table: Effects, where: Where) -> Sheet:
    """The claims, each beside the difference that was found."""
    rows, unlike = [], effects_unlike(results, table)
    dagger = DAGGER * bool(unlike)
    for effect in table.rows:
        judged = effects.judged(results, effect, where)
        if judged is not None:
            found, said = judged
            rows.append((effect.claim, effect.paper, f'{found.ours:.2f}', f'{found.theirs:.2f}', f'{found}{dagger}',
                         str(len(found.each)), '-' if unlike else said))
    header = ('change', 'paper', 'error %', 'against %', 'difference (95 %)', 'seeds', 'claim')
    notes = ["Differences are between runs of the same seed; the interval is that of Student's t over the seeds and "
             'says nothing of other images. Of what the paper says only the sign is tested, not the size.']
    return Sheet(f'{table.title}: top-1 error on {place(results, where)}', header, tuple(rows), (True,) * len(rows),
                 (*unlike, *notes))


def place(results: dict[str, Any], where: Where) -> str:
    """What an arm's errors are of: the images, and the crops of each."""
    seen = next(error['seen'] for arm in results['arms'] for error in arm['errors']
                if (error['split'], error['protocol']) == where)
    data = results['data']
    if where.split == effects.trained_on(results):
        name = data['name']
    elif where.split == 'validation':
        name = data['validation_name']
    else:
        name = f'{origin(data["validation_name"])[0]} {where.split}'
    return _judged(name, seen, where.protocol)


def _judged(name: str, seen: int, protocol: str) -> str:
    return f'{seen:,} images of {name}, {in_words(protocol)}'


def _arms(results: dict[str, Any]) -> Sheet:
    """Every arm: what it changes, its errors by seed, its length."""
    measured, rows = effects.measured(results), []
    numbers = sorted({arm['seed'] for arm in results['arms']})
    for name in dict.fromkeys(arm['name'] for arm in results['arms']):
        own = [arm for arm in results['arms'] if arm['name'] == name]
        by_seed = {arm['seed']: arm for arm in own}
        cells = [', '.join(_top1(by_seed[seed], where) if seed in by_seed else '-' for seed in numbers)
                 for where in measured]
        changes = ', '.join(path if len(value) > 20 else f'{path} = {value}'
                            for path, value in own[0]['changes'].items())
        rows.append((name, changes or 'nothing', *cells, f'{max(arm["parameters"] for arm in own):,}',
                     number(max(arm['epochs'] for arm in own))))
    header = ('arm', 'changes', *(f'{place(results, where)}, top-1 %' for where in measured), 'parameters', 'epochs')
    return Sheet(f'Every arm, seed {", ".join(map(str, numbers))}', header, tuple(rows), (True,) * len(rows), ())


def _top1(arm: dict[str, Any], where: Where) -> str:
    """An error of an arm, '-' if only others were measured."""
    found, splits = effects.top1(arm, where), {error['split'] for error in arm['errors']}
    if found is not None:
        return f'{found:.2f}'
    return '-' if splits and where.split not in splits else 'diverged'


def race_unlike(results: dict[str, Any], race: Race) -> list[str]:
    reasons, seen = [], min(arm['seen'] for arm in results['arms'])
    if not _same_data(results, race):
        reasons.append(f'{DAGGER} Other data: {results["data"]["name"]} is not {race.data}.')
    if results['target'] != race.target:
        reasons.append(f'{DAGGER} Another line: {number(results["target"])} % here, {number(race.target)} % in the '
                       'paper.')
    if seen != results['data']['train_examples']:
        reasons.append(f'{DAGGER} Error on {_part(seen, results["data"]["train_examples"])} training images only.')
    return reasons + _changed(results)


def _changed(results: dict[str, Any]) -> list[str]:
    changes = [path for path in results['overrides'] if path not in NO_RECIPE]
    return [f'{DAGGER} Changed for this run: {", ".join(changes)}.'] if changes else []


def effects_unlike(results: dict[str, Any], table: Effects) -> list[str]:
    """Why a comparison does not test the claims as the table means them."""
    name = results['data']['name']
    reasons = [] if name.split()[0] == table.source else [f'{DAGGER} Other data: {name} is not {table.data}.']
    lengths = [arm['epochs'] for arm in results['arms'] if arm['errors'] and 'epochs' not in arm['changes']]
    if lengths and max(lengths) > 1.05 * min(lengths):
        reasons.append(f'{DAGGER} Arms of other lengths: {number(min(lengths))} to {number(max(lengths))} epochs.')
    return reasons + _changed(results)


# ------------------------------------------------------------------------------------------------ on the terminal

def measured(results: dict[str, Any]) -> Sheet:
    """What a run measured, whatever a paper says."""
    names = {'train': results['data']['name'], 'validation': results['data']['validation_name']}
    rows = tuple((names[error['split']], in_words(error['protocol']),
                  *(_two_decimals(error[metric]) for metric in (*METRICS, 'loss')),
                  _part(error['seen'], results['data'][f'{error["split"]}_examples'])) for error in results['errors'])
    header = ('data', 'protocol', 'top-1 %', 'top-5 %', 'loss', 'examples')
    notes = tuple(f'Top-1, {in_words(error["protocol"])}: {seeds.spread(error)}.' for error in results['errors']
                  if len(results.get('seeds', ())) > 1)
    return Sheet('Measured', header, rows, (True,) * len(rows), notes)


def _two_decimals(value: float | None) -> str:
    return 'not a number' if value is None or not math.isfinite(value) else f'{value:.2f}'


def _part(seen: int, examples: int) -> str:
    return f'{seen:,}' if seen == examples else f'{seen:,} of {examples:,}'


def provenance(results: dict[str, Any]) -> list[str]:
    """Where the numbers come from: data, length, machine, command; one line each."""
    data, seconds = results['data'], results['seconds']
    where = f'on {results["devices"]} x {results["device"]} (mesh {results["mesh"]}), {results["machine"]}.'
    versions = ', '.join(f'{name} {version}' for name, version in results['versions'].items())
    source = f'Commit {results["commit"]}, {results["date"]}, {versions}.'
    if 'members' in results:
        return [f'Data: {data["validation_examples"]:,} examples ({data["validation_name"]}).',
                *(f'Network: {member["origin"]}.' for member in results['members']),
                f'Evaluation took {seconds:,.0f} s and at most {results["peak_memory_gib"]:.2f} GiB {where}', source]
    grid = 'arms' in results
    own = sorted({arm['seed'] for arm in results['arms']}) if grid else results.get('seeds', [results['seed']])
    n = len(own)
    length = (f'{len(results["arms"])} runs, {number(sum(arm["epochs"] for arm in results["arms"]))} epochs in all'
              if grid else f'{number(results["epochs"])} epochs, {results["steps"]:,} steps')
    lines = [f'Data: {data["train_examples"]:,} training examples ({data["name"]}), '
             f'{data["validation_examples"]:,} for validation ({data["validation_name"]}).',
             f'Training: {length} of batch {results["batch_size"]}, seed {", ".join(map(str, own))} (n = {n}).']
    if not grid:
        loss = results['training_loss']
        lines[-1] += (' Last training loss ' + ('not a number: training diverged.' if loss is None or
                                                not math.isfinite(loss) else f'{loss:.3f}.'))
    hours = f' ({seconds / 3600:.1f} h)' if seconds >= 3600 else ''
    return lines + [f'Took {seconds:,.0f} s{hours} and at most {results["peak_memory_gib"]:.2f} GiB {where}', source]


def show(results: dict[str, Any], tables: Iterable[Table | Race | Effects], console: Console, speaks_to: str,
         workdir: Path | None = None) -> None:
    """Prints what a run measured beside the paper's tables, and everything that keeps the two from being compared.

    Args:
      results: as in results.json.
      tables: the paper's, of which those are printed that have a row for the run.
      console: where to.
      speaks_to: an experiment whose rows the run answers besides its own: the one it is a small version of.
      workdir: where the run was written, if it should be said.
    """
    found = sheets(results, tables, speaks_to)
    for sheet in found if 'arms' in results else [measured(results), *found]:
        _print(sheet, console)
    lines = [recipe(results), *provenance(results), f'Command: {results["command"]}']
    for line in [*lines, f'Written to {workdir}'] if workdir else lines:
        if line:
            console.print(Text(line), soft_wrap=line.startswith(('Command', 'Written')))


def whole(grid: Grid, console: Console) -> None:
    """Prints a table as wide as it is: a narrow terminal breaks its lines, and nothing is cut off."""
    wide = Console(file=console.file, width=1000, highlight=False)
    wide.width = max(console.width, wide.measure(grid).maximum)
    wide.print(grid)


def _print(sheet: Sheet, console: Console) -> None:
    console.print(Text(sheet.title, style='bold'))
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(sheet.header):
        grid.add_column(Text(name), justify='left' if i == 0 else 'right', vertical='bottom', no_wrap=i > 0)
    for row, ours in zip(sheet.rows, sheet.ours):
        grid.add_row(*map(Text, row), style='bold' if ours else 'dim')
    whole(grid, console)
    for note in sheet.notes:
        console.print(Text(note))
    if sheet.notes:
        console.print()


# ------------------------------------------------------------------------------------------- all committed results

def findings(results: dict[str, Any], tables: Iterable[Table | Race | Effects], speaks_to: str) -> Iterator[Finding]:
    """Every number of the paper that a run speaks to, with ours."""
    for table in tables:
        if isinstance(table, Race):
            if table.experiment == speaks_to and 'arms' in results:
                grid, unlike = races.entrants(results), race_unlike(results, table)
                found = races.speed_up(results, table)
                epochs = ', '.join(f'{name} {number(e.reached)}' for name, e in races.best(grid).items())
                yield Finding(f'{table.title}: {table.faster} against {table.slower}', f'{table.factor:g} times',
                              ('undecided' if found is None else str(found)) + DAGGER * bool(unlike),
                              _judged(results['data']['name'], min(arm['seen'] for arm in results['arms']), 'centre'),
                              epochs or '-',
                              len(found.each if found else ()) or max(e.seeds for e in grid),
                              None if unlike else races.verdict(found, table))
        elif isinstance(table, Effects):
            if table.experiment == speaks_to and 'arms' in results:
                unlike = effects_unlike(results, table)
                for effect, found, said in effects.tested(results, table):
                    yield Finding(f'{table.title}: {effect.claim}', effect.paper,
                                  f'{found.ours:.2f} against {found.theirs:.2f}: {found}{DAGGER * bool(unlike)}',
                                  place(results, effects.measured(results)[0]), number(results['arms'][0]['epochs']),
                                  len(found.each),
                                  None if unlike else said, effect.sign is not None)
        elif 'arms' not in results:
            for row in table.rows:
                for i, column in enumerate(table.columns):
                    if concerns(results, row, {speaks_to}) and not row.minus and row.values[i] is not None:
                        if (ours := cell(results, table, row, i)[0]) in (NOT_MEASURED, ''):
                            continue
                        error = _error(results, row, column)
                        each, name = error.get('each'), 'name' if error['split'] == 'train' else 'validation_name'
                        if each and len(each[column.metric]) > 1:
                            ours += f' ± {effects.half_interval(each[column.metric]):.2f}'
                        epochs = {network['epochs'] for network in networks(results)}
                        continued = ' (continued)' * bool(results.get('init_from'))
                        yield Finding(f'{table.title}, {row.name}, {column.name}', printed(row.values[i], column, row),
                                      ours, _judged(results['data'][name], error['seen'], error['protocol']),
                                      ', '.join('unknown' if e is None else number(e) for e in epochs) + continued,
                                      len(results.get('seeds', [0])), verdict(results, table, row, i))


def first_row(tables: Iterable[Table | Race | Effects], experiment: str) -> tuple[Table, Row, dict[str, int]] | None:
    """The first row that prints errors of an experiment itself on images that it was not trained on, its table, and by
    metric the first column with one. None if there is no such row."""
    for table in tables:
        for row in table.rows if isinstance(table, Table) else ():
            columns: dict[str, int] = {}
            for i, column in enumerate(table.columns):
                if column.split != 'train' and row.values[i] is not None:
                    columns.setdefault(column.metric, i)
            if row.experiment == experiment and not row.minus and columns:
                return table, row, columns
    return None


def measured_of(results: dict[str, Any], experiment: str, found: tuple[Table, Row, dict[str, int]] | None) -> str:
    """Errors of a run beside those of a row that `first_row` found, or without one as they are; '' if the run is not
    of that experiment or one that stands for it, or of several networks."""
    stands_for = {experiment, *(found[1].shorter if found else ())}
    if 'arms' in results or len(networks(results)) > 1 or networks(results)[0]['experiment'] not in stands_for:
        return ''
    if found is None:
        error, dagger = results['errors'][0], DAGGER * bool(results['differences'])
        return ', '.join(f'{METRICS[metric]} {_two_decimals(error[metric])}{dagger}' for metric in METRICS)
    table, row, columns = found
    cells = {metric: cell(results, table, row, i)[0] for metric, i in columns.items()}
    return ', '.join(f'{METRICS[metric]} {text}' for metric, text in cells.items() if text != NOT_MEASURED)


def committed(folder: Path, tables: Iterable[Table | Race | Effects]) -> str:
    """The results kept in `folder`/results, as text for a terminal: every number beside the paper's, date, command.

    Raises:
      UsageError: if one of them cannot be read.
    """
    lines = []
    for name, results in kept(folder).items():
        lines.append(f'{name} ({results["date"]}, {results["data"]["name"]}, {results["machine"]})')
        lines += [f'  {f.claim}: paper {f.paper}, ours {f.ours}'
                  for f in findings(results, tables, results['experiment'])]
        lines += [f'  $ {command}' for command in results['command'].splitlines()]
    if any(DAGGER in line for line in lines):
        lines.append(f'{DAGGER} Not comparable as it stands: {Path(folder) / "README.md"} says why.')
    return '\n'.join(lines)
