"""What a network computes and sees, layer by layer: python -m launch.inspect PAPER [--explain=LAYER]

Prints the size, window, parameters, multiply-adds, memory and receptive field of every layer as built, beside what the
paper says or implies of them. Nothing is computed, so networks of any size are shown at once.
"""
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from absl import app, flags
from rich import box
from rich.table import Table as Grid
from rich.text import Text

from launch import cli
from launch.cli import FLAGS
from launch.papers import PAPERS
from lib import explain, geometry
from lib.experiment import Comparison, Experiment, require
from lib.geometry import Geometry, Layer
from lib.paper import Counts, Paper

COLUMNS = ('layer', 'kind', 'output', 'window', 'stride', 'border', 'groups', 'parameters', 'multiply-adds',
           'KiB of\noutput', 'KiB of\nparameters', 'receptive\nfield', 'jump', 'first\nat', 'as published')
MIB = 2**20


def define_flags() -> None:
    flags.DEFINE_string('experiment', 'paper', 'whose network; python -m launch.PAPER --list prints the choices')
    flags.DEFINE_multi_string('set', [], 'change a field, as in --set model.groups=1; may be repeated')
    flags.DEFINE_bool('json', False, 'print JSON, and nothing else')
    flags.DEFINE_string('explain', None, 'a layer whose arithmetic is written out, or all')


def main(argv: list[str]) -> None:
    cli.prepare()
    inspect(cli.named_paper(argv, PAPERS, 'launch.inspect {}'), FLAGS.experiment, FLAGS.set, FLAGS.explain, FLAGS.json)


def inspect(paper: Paper, name: str, assignments: Sequence[str], explained: str | None, as_json: bool) -> None:
    """Prints the network of an experiment.

    Raises:
      UsageError: if the experiment, a field or the layer to explain does not exist.
    """
    chosen = paper.choose(name, assignments)
    experiment = chosen.base if isinstance(chosen, Comparison) else chosen
    network = geometry.measure(paper.build(experiment), experiment.data.image_size)
    names = [layer.name for layer in network.layers]
    require(explained in (None, 'all', *names),
            f'--explain={explained} is not a layer of {name}: choose all, or one of {", ".join(names)}.')
    published = _published(paper, name, assignments, experiment)
    told = {layer: _told(paper, name, network, layer) for layer in names if explained in ('all', layer)}
    if as_json:
        print(json.dumps(_as_json(paper, name, assignments, network, published, told), indent=1, ensure_ascii=False))
        return
    cli.say(f'{paper.name}, {name}{"".join(f", {text}" for text in assignments)}: {experiment.summary}\n'
            f'{network.image_size} pixels a side, one image')
    if isinstance(chosen, Comparison):
        cli.say(chosen.note(name))
    if explained in (None, 'all'):
        _table(network, paper.counts.get(published))
        for line in [*_totals(network), *_comparison(paper, published, network)]:
            cli.say(line)
    for lines in [*told.values(), *([explain.lessons(network)] if explained in (None, 'all') else [])]:
        cli.say('\n' + '\n'.join(lines)) if lines else None
    if explained is None:
        cli.say(f'\n--explain={names[0]} writes out the arithmetic of a layer, --explain=all of all.')


def _published(paper: Paper, name: str, assignments: Sequence[str], experiment: Experiment) -> str | None:
    """The experiment whose published counts a network is compared with: its own, or that which it is a version of."""
    if name in paper.counts and not assignments:
        return name
    return experiment.published if experiment.published in paper.counts else None


def _told(paper: Paper, name: str, network: Geometry, layer: str) -> list[str]:
    lesson = paper.lessons.get(name, {}).get(layer)
    return [*explain.layer(network, layer), *([lesson] if lesson else [])]


# --------------------------------------------------------------------------------------------------- on the terminal

def _table(network: Geometry, counts: Counts | None) -> None:
    shown = [column for column in COLUMNS if (column != 'as published' or counts) and
             (column != 'groups' or any(layer.groups > 1 for layer in network.layers))]
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in shown:
        grid.add_column(Text(column), justify='left' if column in ('layer', 'kind', 'as published') else 'right',
                        vertical='bottom', no_wrap=True)
    for layer in network.layers:
        cells = _cells(layer) | {'as published': _agreement(layer.name, network, counts) if counts else ''}
        grid.add_row(*(Text(cells[column]) for column in shown), style='' if layer.shapes else 'dim')
    for layer, count in network.training_only.items():
        cells = {'layer': layer, 'kind': 'in training only', 'parameters': f'{count:,}',
                 'as published': _agreement(layer, network, counts) if counts else ''}
        grid.add_row(*(Text(cells.get(column, '')) for column in shown))
    cli.show(grid)


def _cells(layer: Layer) -> dict[str, str]:
    window, border = layer.window, ''
    if window:
        before, after = window.padding
        border = str(before) if before == after else f'{before}, {after}'
    return {
        'layer': layer.name, 'kind': layer.kind, 'output': explain.by(layer.size),
        'window': f'{window.size}x{window.size}' if window else '', 'stride': str(window.stride) if window else '',
        'border': border, 'groups': str(layer.groups) if layer.groups > 1 else '',
        'parameters': f'{layer.parameters:,}', 'multiply-adds': f'{layer.multiply_adds:,}',
        'KiB of\noutput': f'{layer.output_bytes / 1024:,.1f}',
        'KiB of\nparameters': f'{layer.parameter_bytes / 1024:,.1f}' if layer.shapes else '',
        'receptive\nfield': f'{layer.receptive_field:,}' if layer.has_places else 'all',
        'jump': str(layer.jump or ''), 'first\nat': str(layer.start) if layer.has_places else ''}


def _agreement(layer: str, network: Geometry, counts: Counts) -> str:
    """Whether a layer is as published; '' where that is not known."""
    if layer not in counts.sizes and layer not in counts.parameters:
        return ''
    departures = counts.departures(network)
    wrong = []
    for what, show in (('size', explain.by), ('parameters', '{:,} parameters'.format)):
        if f'{layer}: {what}' in departures:
            published, _ = departures[f'{layer}: {what}']
            wrong.append('not there' if published is None else show(published))
    return ', '.join(wrong) or 'the same'


def _totals(network: Geometry) -> list[str]:
    outputs = sum(layer.output_bytes for layer in network.layers)
    last = network.last_maps
    return [f'{network.total:,} parameters ({geometry.FLOAT32 * network.total / MIB:.1f} MiB in float32), '
            f'{network.multiply_adds:,} multiply-adds forward, {outputs / MIB:.1f} MiB of outputs.',
            f'The last maps, {last.name}, see {last.receptive_field} pixels a side, the border included.',
            'Border: pixels added at the left and top, then at the right and bottom; negative ones are read by no '
            'window.']


def _comparison(paper: Paper, published: str | None, network: Geometry) -> list[str]:
    if published is None:
        return ['The paper says nothing of the counts of this network.']
    counts = paper.counts[published]
    departures = counts.departures(network)
    parts = []
    for name, what in (('total', 'parameters'), ('multiply_adds', 'multiply-adds'),
                       ('receptive_field', 'pixels of receptive field')):
        difference = f' ({getattr(network, name) - getattr(counts, name):+,} here)' if name in departures else ''
        parts.append(f'{getattr(counts, name):,} {what}{difference}')
    verdict = 'As published and as built agree in everything' if not departures else \
        f'As published and as built differ in {len(departures)} numbers'
    missing = [layer for layer in {**counts.sizes, **counts.parameters}
               if layer not in network.sizes and layer not in network.parameters]
    return [f'As published ({counts.network}): {", ".join(parts)}.',
            verdict + (f'; not here: {", ".join(missing)}' if missing else '') + '.']


# ---------------------------------------------------------------------------------------------------------- as JSON

def _as_json(paper: Paper, name: str, assignments: Sequence[str], network: Geometry, published: str | None,
             told: dict[str, list[str]]) -> dict[str, Any]:
    layers = [dataclasses.asdict(layer) | {'window': layer.window and layer.window._asdict(),
                                           'parameters': layer.parameters, 'output_bytes': layer.output_bytes,
                                           'parameter_bytes': layer.parameter_bytes} for layer in network.layers]
    counts = paper.counts.get(published)
    return {
        'paper': paper.name, 'experiment': name, 'set': list(assignments), 'image_size': network.image_size,
        'layers': layers, 'training_only': network.training_only,
        'total': network.total, 'multiply_adds': network.multiply_adds, 'receptive_field': network.receptive_field,
        'last_maps': network.last_maps.name,
        'output_bytes': sum(layer.output_bytes for layer in network.layers),
        'parameter_bytes': geometry.FLOAT32 * network.total,
        'published': counts and {'experiment': published, **dataclasses.asdict(counts),
                                 'departures': {what: {'published': theirs, 'built': ours} for what, (theirs, ours) in
                                                counts.departures(network).items()}},
        'lessons': explain.lessons(network), 'explained': told}


if __name__ == '__main__':
    define_flags()
    app.run(lambda argv: cli.guarded(lambda: main(argv)), flags_parser=cli.parse_after_name)
