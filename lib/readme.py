"""The generated blocks of the READMEs: committed results beside the papers' tables, all claims, all networks.

A block lies between `<!-- generated: NAME -->` and `<!-- end -->`.
"""
import dataclasses
import functools
import json
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib import geometry, looks, report, scaling, speed
from lib.effects import Effects
from lib.experiment import UsageError, in_words
from lib.looks import Look
from lib.paper import Paper
from lib.races import Race
from lib.report import DAGGER
from lib.results import kept
from lib.tables import Row, Table

BLOCK = re.compile(r'<!-- generated: (\S+) -->\n(.*?)<!-- end -->', re.DOTALL)


def markdown(results: dict[str, Any], tables: Iterable[Table | Race | Effects], speaks_to: str,
             pictures: Mapping[str, str]) -> str:
    """The same report as `report.show`, for a README; `pictures` are paths as seen from it, with a sentence about
    each or none."""
    found = report.sheets(results, tables, speaks_to)
    parts = []
    for sheet in found if 'arms' in results else [report.measured(results), *found]:
        lines = [f'**{sheet.title}**', '', _line(name.replace('\n', ' ') for name in sheet.header),
                 _line(['---'] + ['---:'] * (len(sheet.header) - 1))]
        for row, ours in zip(sheet.rows, sheet.ours):
            lines.append(_line([f'**{cell}**' if ours and cell else cell for cell in map(_escape, row)]))
        parts.append('\n'.join(lines))
        if sheet.notes:
            parts.append('\n'.join(f'- {_escape(note)}' for note in sheet.notes))
    for picture, sentence in pictures.items():
        parts += [f'![{Path(picture).stem}]({picture})', *([_escape(sentence)] if sentence else [])]
    facts = [report.recipe(results), *report.provenance(results)]
    parts.append('\n'.join(f'- {_escape(line)}' for line in facts if line))
    return '\n\n'.join([*parts, f'```\n{results["command"]}\n```']) + '\n'


def _line(cells: Iterable[str]) -> str:
    return '| ' + ' | '.join(cells) + ' |'


def _escape(text: str) -> str:
    """Text as Markdown that shows it; what stands between backticks is code already."""
    return re.sub(r'(`[^`]*`)|([|*_<\[\]])', lambda found: found[1] or '\\' + found[2], text)


def regenerate(root: Path, papers: Mapping[str, Paper], claims: Sequence[Look] = ()) -> dict[Path, str]:
    """Every README of the repository with its generated blocks written anew: {path: text}.

    In reproductions/PAPER/README.md the block NAME reports results/NAME/results.json, `claims` lists every number of
    the paper, and `scaling` what devices exchange; the README at the top has the blocks `networks`, what each published
    network counts and errs, `headline`, all committed results in one table, and `speed`, those of launch.benchmark. In
    reproductions/gallery/README.md, `methods` is what launch.gallery found to work, and FOLDER/NAME the picture of that
    name with what was found in it.

    Args:
      root: of the repository.
      papers: by the name of their folder under reproductions.
      claims: those that looks of the gallery test.

    Raises:
      UsageError: if a block has no end, its results are missing or broken, or a network as built has not the counts of
        its paper.
    """
    texts = {}
    headline = functools.partial(_headline, claims=claims)
    top, blocks = root / 'README.md', {'headline': headline, 'networks': _networks, 'speed': _speed}
    if top.exists():
        texts[top] = _fill(top, lambda name: blocks[name](root, papers) if name in blocks else None)
    for folder, paper in papers.items():
        path = root / 'reproductions' / folder / 'README.md'
        if path.exists():
            texts[path] = _fill(path, functools.partial(_block, path.parent, paper))
    gallery = root / 'reproductions' / 'gallery' / 'README.md'
    if gallery.exists():
        texts[gallery] = _fill(gallery, functools.partial(_looks, gallery.parent))
    return texts


def _fill(path: Path, content: Callable[[str], str | None]) -> str:
    def fill(match: re.Match[str]) -> str:
        name, body = match.groups()
        text = None if '<!-- generated:' in body else content(name)
        if text is None:
            raise UsageError(f'{path} has a generated block {name!r} without an end, or one that nothing fills.')
        return f'<!-- generated: {name} -->\n{text}<!-- end -->'

    old = path.read_text()
    new, blocks = BLOCK.subn(fill, old)
    if blocks != old.count('<!-- generated:'):
        raise UsageError(f'{path} has a generated block that is not closed: write <!-- end --> on a line after it.')
    return new


def _block(folder: Path, paper: Paper, name: str) -> str:
    if name == 'claims':
        return _claims(folder, paper)
    if name == 'scaling':
        return _scaling(folder / 'results' / 'scaling', paper)
    results = kept(folder).get(name)
    if results is None:
        raise UsageError(f'{folder / "README.md"} has a block {name!r}, and {folder / "results" / name} has no '
                         'results.json: put it there, or remove the block.')
    pictures = {}
    for path in sorted((folder / 'results' / name).glob('*.png')):
        about = path.with_suffix('.json')
        pictures[f'results/{name}/{path.name}'] = json.loads(about.read_text())['statement'] if about.exists() else ''
    return f'<a id="{name}"></a>\n\n' + markdown(results, paper.tables, results['experiment'], pictures)


def _scaling(folder: Path, paper: Paper) -> str:
    results = scaling.read(folder)
    header, rows = scaling.table(results, paper.scaling)
    lines = [_line(header), _line(['---:'] * len(header)), *(_line(map(_escape, row)) for row in rows)]
    facts = [*scaling.findings(results, paper.scaling), *scaling.provenance(results)]
    return '\n\n'.join(['\n'.join(lines), f'![scaling](results/scaling/{scaling.PICTURE})',
                        '\n'.join(f'- {_escape(fact)}' for fact in facts), f'```\n{results["command"]}\n```']) + '\n'


def _looks(folder: Path, name: str) -> str:
    if name == 'methods':
        return _methods(looks.read(folder / f'{name}.json'))
    if several := looks.of_seeds(folder / name):
        parts = _of_seeds(several)
    else:
        look = looks.read(folder / f'{name}.json')
        several, parts = [look], [f'![{look["method"]}]({name}.png)', _escape(look['statement'])]
        if 'table' in look:
            parts.append(_grid(look['table']['columns'], look['table']['rows']))
    commands = '\n'.join(look['command'] for look in several)
    return '\n\n'.join([*parts, f'```\n{commands}\n```']) + '\n'


def _of_seeds(several: Sequence[dict[str, Any]]) -> list[str]:
    """Looks at networks of several seeds: the means of their tables, or what each says if those are of other rows."""
    networks = [_escape(look['network']) for look in several]
    try:
        rows = _averaged([look['table']['rows'] for look in several])
    except ValueError:
        return [f'{network}: {_escape(look["statement"])}' for network, look in zip(networks, several)]
    return [f'Means of {len(several)} networks, trained from different seeds, and standard deviations.',
            _grid(several[0]['table']['columns'], rows), '\n'.join(f'- {network}' for network in networks)]


def _grid(columns: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    return '\n'.join([_line(map(str, columns)), _line(['---'] + ['---:'] * (len(columns) - 1)),
                      *(_line(_escape(str(cell)) for cell in row) for row in rows)])


def _averaged(tables: Sequence[Sequence[Sequence[Any]]]) -> list[list[str]]:
    """Tables as one: a cell that is the same in all stays, numbers become their mean and standard deviation.

    Raises:
      ValueError: if they have not the same size, or a cell that differs is no number.
    """
    def cell(values: Sequence[Any]) -> str:
        if len(set(values)) == 1:
            return str(values[0])
        numbers = list(map(float, values))
        return f'{statistics.fmean(numbers):.2f} ± {statistics.stdev(numbers):.2f}'

    return [[cell(values) for values in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)]


def _methods(networks: dict[str, Any]) -> str:
    """A row a method, a column a network: "works", or the number of a footnote that says why it is refused."""
    reasons = []

    def cell(reason: str | None) -> str:
        if reason is None:
            return 'works'
        if reason not in reasons:
            reasons.append(reason)
        return f'refused ({1 + reasons.index(reason)})'

    methods = {method: None for network in networks.values() for method in network['methods']}
    lines = [_line(('method', *networks)), _line(['---'] * (1 + len(networks)))]
    lines += [_line((_escape(method), *(cell(network['methods'][method]) if method in network['methods'] else 'not run'
                                        for network in networks.values()))) for method in methods]
    lines += ['', *(f'{number}. {_escape(reason)}' for number, reason in enumerate(reasons, 1)), '',
              *(f'- {_escape(name)}: {_escape(network["origin"])} (commit {network["commit"]}, {network["date"]})'
                for name, network in networks.items()), '', '```',
              *dict.fromkeys(command for network in networks.values() for command in network['commands']), '```']
    return '\n'.join(lines) + '\n'


def _headline(root: Path, papers: Mapping[str, Paper], claims: Sequence[Look]) -> str:
    """All committed results: first those that test a claim, then the runs that are too short or too far from it."""
    found = [(folder, finding, results['data'].get('name', '-'), f'[{name}](reproductions/{folder}/README.md#{name})')
             for folder, paper in papers.items()
             for name, results in kept(root / 'reproductions' / folder).items()
             for finding in report.findings(results, paper.tables, results['experiment'])]
    gallery = root / 'reproductions' / 'gallery'
    for look in claims if gallery.exists() else ():
        several = looks.of_seeds(gallery / look.place)
        found.append(('gallery', looks.finding(look, several), '-',
                      f'[{look.place}](reproductions/gallery/README.md#adversarial)'))
    tested, unclaimed, others = [], [], []
    for folder, f, data, link in found:
        cells = list(map(_escape, (f'{folder}, {f.claim}', f.paper, f.ours)))
        where = [_escape(data), _escape(f.judged), _escape(f.epochs), str(f.seeds), link]
        if f.verdict is None:
            others.append(_line((*cells, *where)))
        elif f.claimed:
            tested.append(_line((*cells, f'**{_escape(f.verdict)}**', *where)))
        else:
            unclaimed.append(_line((cells[0], cells[2], f'**{_escape(f.verdict)}**', *where)))
    columns, rules = ('paper', 'ours'), ['---', '---:', '---:']
    rest, left = ('trained on', 'error on', 'epochs', 'n', 'result'), ['---', '---', '---', '---:', '---']
    footer = (f'{DAGGER} Another network, fewer examples, other data, fewer epochs or a changed recipe: the linked '
              'page says which. Epochs (continued) came after those of another run.')
    lines = ['**Claims that were tested**', '', _line(('', *columns, 'does it hold?', *rest)),
             _line([*rules, '---', *left]), *tested, '',
             '**Differences on which the papers make no claim**', '', _line(('', 'ours', 'seen', *rest)),
             _line(['---', '---:', '---', *left]), *unclaimed, '',
             '**Runs that test no claim of their paper**, being much shorter, on other data or of another network', '',
             _line(('', *columns, *rest)), _line([*rules, *left]), *others, '', footer]
    return '\n'.join(lines) + '\n'


def _speed(root: Path, papers: Mapping[str, Paper]) -> str:
    parts = []
    for results in speed.committed(root):
        title, header, rows, notes = speed.sheet(results)
        lines = [f'**{title}**', '', _line(header), _line(['---'] + ['---:'] * (len(header) - 1)),
                 *(_line(map(_escape, row)) for row in rows), '', *(f'- {_escape(note)}' for note in notes)]
        parts.append('\n'.join(lines) + '\n')
    return '\n'.join(parts)


def _networks(root: Path, papers: Mapping[str, Paper]) -> str:
    lines = [_line(('network', 'parameters', 'multiply-adds', 'receptive field', 'top-1, paper', 'top-5, paper',
                    'where and how', 'ours (ours - paper)', 'seen short of that')),
             _line(['---', '---:', '---:', '---:', '---:', '---:', '---', '---', '---'])]
    for folder, paper in papers.items():
        committed = kept(root / 'reproductions' / folder)
        for name, counts in paper.counts.items():
            experiment = paper.experiments[name]
            built = geometry.measure(paper.build(experiment), experiment.data.image_size)
            if departures := counts.departures(built):
                raise UsageError(f'{folder} {name} is not built as its counts say ({", ".join(departures)}): see '
                                 f'python -m launch.inspect {folder} --experiment={name}.')
            found = report.first_row(paper.tables, name)
            ours = [f'[{run}](reproductions/{folder}/README.md#{run}): ' + _escape(text)
                    for run, results in committed.items() if (text := report.measured_of(results, name, found))]
            lines.append(_line((
                f'[{_escape(counts.network)}](reproductions/{folder}/README.md)', f'{built.total:,}',
                f'{built.multiply_adds:,}', str(built.receptive_field), *map(_escape, _printed(found)),
                '; '.join(ours) or 'not run', _escape(paper.evidence(name).removesuffix(': see below')))))
    footer = f'\n{DAGGER} Other data, fewer epochs or a changed recipe: the linked page says which.\n'
    return '\n'.join(lines) + '\n' + (footer if any(DAGGER in line for line in lines) else '')


def _printed(found: tuple[Table, Row, dict[str, int]] | None) -> tuple[str, str, str]:
    """Top-1 and top-5 error of a row as the paper printed them, and which row it is."""
    if found is None:
        return '-', '-', 'none printed'
    table, row, columns = found
    errors = (report.printed(row.values[columns[metric]], table.columns[columns[metric]], row) if metric in columns
              else '-' for metric in report.METRICS)
    how = f': {in_words(row.protocol)}' if row.protocol else ''
    return *errors, f'{table.title}, {row.name} ({table.data}){how}'


def _claims(folder: Path, paper: Paper) -> str:
    """Every row of the paper's tables: its number, ours where it was run, and for the rest the experiment, its cost and
    what has been seen of it so far."""
    committed, lines = kept(folder), []
    for table in paper.tables:
        lines += ['', f'**{_escape(table.title)}** ({_escape(table.data)})', '',
                  _line(('', 'paper', 'ours', 'experiment', 'training images', 'evidence short of the number')),
                  _line(['---', '---:', '---:', '---', '---:', '---'])]
        match table:
            case Race():
                rows = _race(table, paper, committed)
            case Effects():
                rows = _effects(table, paper, committed)
            case Table():
                rows = (_claim(row, table, paper, committed) for row in table.rows)
        lines += map(_line, rows)
    if any(DAGGER in line for line in lines):
        lines += ['', f"{DAGGER} Not comparable as it stands: the result's own section says why."]
    for name, results in committed.items():
        if 'steps' in results:
            runs = len(results.get('seeds', [0]))       # of a comparison the steps are those of all arms and seeds
            rate = results['steps'] * results['batch_size'] * runs / results['seconds']
            lines += ['', _escape(f'Cost: `{name}` read {rate:,.0f} training images a second, evaluations included '
                                  f'and beside whatever else ran ({results["machine"]}): {_length(1e8 / rate)} for '
                                  '100 M.')]
    return '\n'.join(lines[1:]) + '\n'


def _claim(row: Row, table: Table, paper: Paper, committed: Mapping[str, dict[str, Any]]) -> tuple[str, ...]:
    shown = [i for i, value in enumerate(row.values) if value is not None]
    theirs = ', '.join(f'{table.columns[i].name} {report.printed(row.values[i], table.columns[i], row)}' for i in shown)
    theirs = (theirs or '-') + (f': {in_words(row.protocol)}' if row.protocol else '')
    if row.why:
        return tuple(map(_escape, (row.name, theirs, '', '', '', row.why)))
    runs = {name: [report.cell(results, table, row, i)[0] for i in shown] for name, results in committed.items()
            if report.concerns(results, row, {results['experiment']}) and not row.minus}
    ours = [f'[{name}](#{name}): ' + ', '.join(map(_escape, cells)) for name, cells in runs.items()
            if set(cells) != {report.NOT_MEASURED}]
    names = row.members or tuple(filter(None, (row.experiment, row.minus)))
    experiments = [paper.experiments[name] for name in names]
    if row.members:
        command = '--ensemble=DIR,... of ' + report.listed(names)
    else:
        command = ' minus '.join(f'--experiment={name}' for name in names)
    images = sum(e.epochs for e in experiments) * (table.train_examples or 0) + row.pretraining
    return (_escape(row.name), _escape(theirs), '; '.join(ours) or 'not run', f'`{command}`',
            f'{report.number(images / 1e6)} M' if images else '-',
            _escape('; '.join(paper.evidence(name) for name in dict.fromkeys(row.members or (row.experiment,)))))


def _length(seconds: float) -> str:
    hours = seconds / 3600
    return f'{hours:,.0f} hours' if hours < 48 else f'{hours / 24:,.0f} days'


def _race(race: Race, paper: Paper, committed: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    ours = [f'[{name}](#{name}): {_escape(finding.ours)}' for name, results in committed.items()
            for finding in report.findings(results, (race,), results['experiment'])]
    yield (_escape(f'{race.faster} against {race.slower}'), _escape(race.claim), '; '.join(ours) or 'not run',
           f'`{race.experiment}`', '-', _escape(paper.evidence(race.experiment)))


def _effects(table: Effects, paper: Paper, committed: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for effect in table.rows:
        one = dataclasses.replace(table, rows=(effect,))
        ours = [f'[{name}](#{name}): {_escape(f"{f.ours}, {f.verdict}")}' for name, results in committed.items()
                for f in report.findings(results, (one,), results['experiment'])]
        yield (_escape(effect.claim), _escape(effect.paper), '; '.join(ours) or 'not run',
               f'`{table.experiment}`', '-', _escape(paper.evidence(table.experiment)))
