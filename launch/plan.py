"""What a training would take on hardware that is not there: python -m launch.plan PAPER --topology=v5e:2x2

Compiles the training step for a TPU slice (with libtpu, requirements-tpu.txt; no TPU is needed) or for CPU devices, and
prints for one device: its memory, its work, what it exchanges with the others layer by layer, and the least time of a
step, of an epoch and of the whole recipe at the rates that the maker states. For GPUs all but the exchanges is an
estimate.
"""
import collections
import contextlib
import datetime
import json
import math
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from rich import box
from rich.progress import Progress
from rich.table import Table as Grid
from rich.text import Text

from launch import cli, workdir
from launch.cli import FLAGS
from launch.papers import PAPERS
from lib import hardware, plan, report, scaling
from lib import mesh as meshes
from lib.experiment import Comparison, Experiment, UsageError, diff, require
from lib.paper import Paper
from lib.plan import Plan

MIB, GIB = 2**20, 2**30
LIMITED_BY = {'compute': 'its multiply-adds', 'memory': 'its memory traffic', 'interconnect': 'the interconnect'}


def define_flags() -> None:
    flags.DEFINE_string('topology', None, 'the devices: v5e:2x2, v5e:16x16, v6e:2x2, v5p:2x2x1, gpu:h100, gpu:a100:8, '
                        'cpu:8')
    flags.DEFINE_string('mesh', None, 'how they share the work, as in data:2,model:2 (default: images over all)')
    flags.DEFINE_string('experiment', 'paper', 'whose training; python -m launch.PAPER --list prints the choices')
    flags.DEFINE_multi_string('set', [], 'change a field, as in --set batch_size=512, which is that of all devices '
                              'together; may be repeated')
    flags.DEFINE_bool('json', False, 'print JSON, and nothing else')
    flags.DEFINE_bool('scaling', False, 'instead, write to --workdir what 1 to 256 devices exchange, as JSON and as a '
                      'picture')
    flags.DEFINE_string('workdir', None, 'with --scaling: where it is written (default runs/PAPER-scaling)')


def main(argv: list[str]) -> None:
    cli.prepare()
    jax.config.update('jax_platforms', 'cpu')       # what is compiled for is not what this runs on
    paper = cli.named_paper(argv, PAPERS, 'launch.plan {} --topology=v5e:2x2')
    if FLAGS.scaling:
        scale(paper, workdir.path(FLAGS.workdir, f'{paper.name}-scaling'))
        return
    require(FLAGS.topology is not None, f'Name the devices with --topology. There are: {hardware.EXISTING}.')
    show(paper, FLAGS.experiment, FLAGS.set, FLAGS.topology, FLAGS.mesh, FLAGS.json)


def show(paper: Paper, name: str, assignments: Sequence[str], topology: str, mesh: str | None, as_json: bool) -> None:
    """Prints the plan of an experiment, and if it does not fit, one that does.

    Raises:
      UsageError: if the experiment, a field, the topology or the mesh does not exist, or nothing can compile for it.
    """
    chosen = paper.choose(name, assignments)
    experiment = chosen.base if isinstance(chosen, Comparison) else chosen
    place = hardware.parse(topology)
    shape = meshes.parse(mesh) if mesh else (place.count, 1)
    devices = hardware.devices(place)
    task = paper.build(experiment)
    waiting = contextlib.nullcontext() if as_json else cli.console.status(f'Planning for {topology}: minutes for a TPU')
    with waiting:
        made = plan.make(task, experiment, place, devices, shape, examples(paper, name, experiment))
        others = () if made.fits else plan.alternatives(made, task, devices)
        fits = next((other for other in others if other.fits), None)
    if as_json:
        print(json.dumps({'paper': paper.name, 'experiment': name, 'set': list(assignments), **_as_json(made),
                          'alternative': fits and _as_json(fits)}, indent=1))
        return
    cli.say(f'{paper.name}, {name}{"".join(f", {text}" for text in assignments)}: {experiment.summary}')
    if isinstance(chosen, Comparison):
        cli.say(chosen.note(name))
    for line in _head(made):
        cli.say(line)
    for grid in filter(None, (_memory(made), _limits(made), _exchanges(made), _times(made))):
        cli.show(grid)
    for line in [*_notes(made), _verdict(made, fits)]:
        cli.say(line)


def scale(paper: Paper, folder: Path) -> None:
    """Writes what devices exchange as there are more of them, for every way to share the paper's training.

    Raises:
      UsageError: if the paper names none, or the folder cannot be written.
    """
    require(bool(paper.scaling), f'{paper.name} names no ways to share its training: --scaling is for '
                                 f'{", ".join(name for name, one in PAPERS.items() if one.scaling)}.')
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / scaling.FILE).touch()
    except OSError as error:
        raise UsageError(f'{folder} cannot be written ({error.strerror}): choose another --workdir.') from error
    with Progress(console=cli.console, transient=True) as bars:
        bar = bars.add_task('compiling', total=len(paper.scaling) * len(scaling.DEVICES))
        points = list(scaling.measure(paper.scaling, paper.experiments, paper.build, lambda: bars.advance(bar)))
    results = {
        'paper': paper.name, 'points': points, 'commit': workdir.commit(),
        'date': datetime.datetime.now(datetime.UTC).date().isoformat(),
        'versions': {'python': platform.python_version(), 'jax': metadata.version('jax'),
                     'jaxlib': metadata.version('jaxlib')},
        'command': shlex.join(['python', '-m', 'launch.plan', *sys.argv[1:]])}
    (folder / scaling.FILE).write_text(json.dumps(results, indent=1) + '\n')
    scaling.picture(results, paper.scaling, folder / scaling.PICTURE)
    cli.say(f'{folder / scaling.FILE} and {scaling.PICTURE} written.')


def examples(paper: Paper, name: str, experiment: Experiment) -> int | None:
    """The number of training images of the paper's table that an experiment, or the recipe it is a version of, is for;
    None if there is none."""
    for one in (name, experiment.published):
        found = report.first_row(paper.tables, one)
        if found and found[0].train_examples:
            return found[0].train_examples
    return None


# --------------------------------------------------------------------------------------------------- on the terminal

def _head(made: Plan) -> list[str]:
    data, model = made.mesh
    place, rates = made.topology, made.topology.rates
    how = {'tpu': 'The training step is compiled for it', 'cpu': 'The training step is compiled for it',
           'gpu': 'An estimate: nothing is compiled for a GPU here'}[place.platform]
    how = 'It was not compiled, for want of memory: estimates' if made.refused else how
    lines = [f'{place.text}: {place.count} device{"s" * (place.count > 1)}, mesh data:{data},model:{model}, batch_size='
             f'{made.experiment.batch_size}, {made.images:g} image{"s" * (made.images != 1)} on a device. {how}'
             + (f' ({made.compile_seconds:.0f} s).' if made.compile_seconds else '.')]
    if rates is None:
        return [*lines, 'No peak rates are known of a CPU: there are no times.']
    bfloat16 = f', {_si(rates.bfloat16)}FLOP/s in bfloat16' if rates.bfloat16 else ''
    return [*lines, f'Peak rates of a device, {rates.source}: {_si(rates.float32)}FLOP/s in products of float32 arrays '
                    f'by default{bfloat16}, {_si(rates.bandwidth)}B/s to its memory, {_si(rates.interconnect)}B/s to '
                    'its neighbours.']


def _memory(made: Plan) -> Grid:
    grid = _grid('Memory of a device', 'MiB', '% of it')
    names = {'parameters': 'parameters', 'optimizer': 'state of the optimiser', 'inputs': 'images, mean, colours',
             'temporaries': 'activations, gradients and other temporaries', 'program': 'program'}
    for field, words in names.items():
        size = getattr(made.memory, field)
        if field == 'program' and not size:
            continue        # estimated, or kept by the machine's own process
        words += ' (estimate)' * (field == 'temporaries' and made.estimated)
        _row(grid, words, f'{size / MIB:,.1f}', f'{100 * size / made.topology.memory:.1f}')
    _row(grid, 'peak', f'{made.memory.peak / MIB:,.1f}', f'{100 * made.memory.peak / made.topology.memory:.1f}',
         style='bold')
    _row(grid, 'there are', f'{made.topology.memory / MIB:,.1f}', '100.0')
    return grid


def _limits(made: Plan) -> Grid:
    grid = _grid('A step on a device', 'amount', 'at the peak', 'at least')
    rates, limits = made.topology.rates, made.limits
    peaks = rates and {'compute': f'{_si(rates.products(made.experiment.precision))}FLOP/s',
                       'memory': f'{_si(rates.bandwidth)}B/s', 'interconnect': f'{_si(rates.interconnect)}B/s'}
    amounts = {'compute': (f'operations in {made.experiment.precision}', f'{_si(made.work.operations)}FLOP'),
               'memory': ('memory traffic', f'{_si(made.work.traffic)}B'),
               'interconnect': ('sent to others', '-' if made.sent is None else f'{_si(made.sent)}B')}
    for name, (words, amount) in amounts.items():
        peak = peaks[name] if peaks else ''
        _row(grid, words, amount, peak, _duration(limits.get(name)),
             style='bold' if name in limits and limits[name] == made.step else '')
    return grid


def _exchanges(made: Plan) -> Grid | None:
    if not made.collectives:
        return None
    grid = _grid('Exchanged in a step', 'pass', 'by', 'among', 'arrays', 'KiB', 'KiB sent')
    for (layer, backward, kind, among), group in _by_layer(made).items():
        _row(grid, layer or 'loss, counts, other', ('backward' if backward else 'forward') if layer else '', kind,
             str(among), str(sum(one.times for one in group)),
             f'{sum(one.times * one.payload for one in group) / 1024:,.1f}',
             f'{sum(one.sent for one in group) / 1024:,.1f}')
    return grid


def _by_layer(made: Plan) -> dict[tuple[str | None, bool, str, int], list[Any]]:
    """The exchanges by layer, pass, kind and number of devices."""
    groups = collections.defaultdict(list)
    for one in made.collectives:
        groups[one.layer, one.backward, one.kind, one.devices].append(one)
    return groups


def _times(made: Plan) -> Grid | None:
    if made.step is None:
        return None
    grid = _grid('At least', 'time', '')
    limit = max(made.limits, key=made.limits.get)
    _row(grid, 'a step', _duration(made.step), f'limited by {LIMITED_BY[limit]}')
    if made.examples:
        experiment = made.experiment
        _row(grid, 'an epoch', _duration(made.epoch), f'{made.examples:,} images')
        _row(grid, 'the whole recipe', _duration(made.run), f'{experiment.epochs} epochs, '
             f'{experiment.total_steps(made.examples):,} steps, evaluations left out')
    _row(grid, 'to keep up, the input gives', f'{made.images_per_second:,.0f} images/s',
         f'{_si(made.images_per_second * made.image_bytes)}B/s of stored images')
    return grid


def _notes(made: Plan) -> list[str]:
    again = ', forward again' * made.experiment.rematerialize
    lines = [f'Operations: 2 for each multiply-add of lib/geometry, forward, backward to the weights and to the inputs '
             f'(not to the image){again}.']
    if made.compiled_operations:
        lines[0] += (f' The compiler counts {_si(made.compiled_operations)}FLOP, '
                     f'{100 * made.compiled_operations / made.work.operations:.0f} % of that: without products with '
                     'the zeros of borders, with all other arithmetic, and the body of a loop once.')
    lines.append('Memory traffic: parameters, the state of the optimiser and the output of every layer, each written '
                 'once and read once, and the images.')
    if made.compiled_traffic:
        lines[1] += (f' The operations of the compiled program read and write {_si(made.compiled_traffic)}B, on the '
                     'chip and off it.')
    if made.collectives:
        lines.append('Exchanged: the arrays as they are after an all-gather or all-reduce; sent: by a device in a ring '
                     'of N, 2 (N - 1) / N of that in an all-reduce, (N - 1) / N in the others.')
    if made.topology.platform == 'gpu':
        lines.append('Temporaries: the outputs of all layers for a part of the batch, a gradient for each parameter.')
    if made.topology.platform == 'gpu' and made.topology.count > 1:
        lines.append('Exchanges: those of the step compiled for as many CPU devices'
                     + (', which send bfloat16 as float32.' if made.experiment.precision == 'bfloat16' else '.'))
    if made.examples is None:
        lines.append('No table of the paper says how many images this experiment trains on: there is no epoch.')
    return lines


def _verdict(made: Plan, fits: Plan | None) -> str:
    count, has = made.topology.count, f'{made.topology.memory / GIB:.1f} GiB'
    if made.topology.platform == 'cpu':
        has = f'{count * made.topology.memory / GIB:.1f} GiB in this machine for all {count}'
    takes = f'a device takes {made.memory.peak / GIB:.2f} GiB and there are {has}'
    if made.fits:
        return f'It fits: {takes}.'
    why = made.refused.rstrip('.') if made.refused else takes
    if fits is None:
        return f'It does not fit: {why}. No other mesh of these devices does, nor do smaller parts of the batch.'
    data, model = fits.mesh
    changed = ''.join(f' --set {path}={value}' for path, (_, value) in diff(fits.experiment, made.experiment).items())
    how = 'by the same estimate' if fits.estimated else 'compiled too'
    return (f'It does not fit: {why}. This does, {how}, with {fits.memory.peak / GIB:.2f} GiB: --mesh=data:{data},'
            f'model:{model}{changed}')


def _grid(*columns: str) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        words = column in ('pass', 'by', '')
        grid.add_column(Text(column), justify='left' if number == 0 or words else 'right', no_wrap=True)
    return grid


def _row(grid: Grid, *cells: str, style: str = '') -> None:
    grid.add_row(*map(Text, cells), style=style)


def _si(value: float) -> str:
    """Three digits and a prefix: 132 G, 1.3 M; a space before the unit."""
    power = min(max(int(math.log10(value) // 3), 0), 5) if value > 0 else 0
    return f'{float(f"{value / 1000**power:.3g}"):g} {" kMGTP"[power].strip()}'


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ''
    units = ((86400, 'days'), (3600, 'hours'), (60, 'min'), (1, 's'), (1e-3, 'ms'), (1e-6, 'µs'))
    size, unit = next(((size, unit) for size, unit in units if seconds >= (size if size <= 1 else 2 * size)), units[-1])
    return f'{seconds / size:.3g} {unit}'


# ---------------------------------------------------------------------------------------------------------- as JSON

def _as_json(made: Plan) -> dict[str, Any]:
    place = made.topology
    return {
        'topology': place.text, 'devices': place.count, 'mesh': dict(zip(('data', 'model'), made.mesh)),
        'rates': place.rates and place.rates._asdict(), 'device_memory': place.memory,
        'batch_size': made.experiment.batch_size, 'images_on_a_device': made.images, 'fits': made.fits,
        'refused': made.refused, 'estimated': made.estimated, 'compile_seconds': made.compile_seconds,
        'memory': {**made.memory._asdict(), 'peak': made.memory.peak},
        'operations': made.work.operations, 'operations_by_the_compiler': made.compiled_operations,
        'traffic': made.work.traffic, 'traffic_by_the_compiler': made.compiled_traffic, 'sent': made.sent,
        'collectives': None if made.collectives is None else
        [{**one._asdict(), 'sent': one.sent} for one in made.collectives],
        'least_seconds': {**made.limits, 'step': made.step, 'epoch': made.epoch, 'run': made.run},
        'training_images': made.examples, 'epochs': made.experiment.epochs,
        'images_per_second': made.images_per_second, 'image_bytes': made.image_bytes}


if __name__ == '__main__':
    define_flags()
    app.run(lambda argv: cli.guarded(lambda: main(argv)), flags_parser=cli.parse_after_name)
