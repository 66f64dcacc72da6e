"""How much devices exchange as there are more of them: ways to share a training, measured on the compiled step."""
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib.ticker as ticker

from lib import figures, hardware, plan
from lib.experiment import Experiment, UsageError, change_all
from lib.figures import COLOURS, DASHES, GREY, plt
from lib.task import Task

MIB = 2**20
DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
FILE, PICTURE = 'scaling.json', 'scaling.png'


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A way to share a training among any number of devices. Those that see the same images are `model` in number; the
    batch is the experiment's on each of their groups, so it grows with the devices."""
    name: str
    experiment: str
    model: int = 1
    grows: tuple[str, ...] = ('batch_size',)    # fields that are multiplied by the number of groups
    measured: Mapping[int, str] = dataclasses.field(default_factory=dict)
    # by devices: how many times as fast as on one, as the author printed it, and a mark if that is from memory

    def on(self, devices: int, experiments: Mapping[str, Experiment]) -> tuple[Experiment, tuple[int, int]] | None:
        """The experiment and mesh for so many devices; None if there is none."""
        if devices % self.model:
            return None
        groups, experiment = devices // self.model, experiments[self.experiment]
        fields = {'batch_size': experiment.batch_size, 'optimizer.fc_batch': experiment.optimizer.fc_batch}
        changes = {name: groups * fields[name] for name in self.grows}
        return change_all(experiment, changes), (groups, self.model)


def measure(schemes: Sequence[Scheme], experiments: Mapping[str, Experiment], build: Callable[[Experiment], Task],
            done: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """What a device exchanges in a step, by scheme and number of devices, from the steps compiled for CPU devices.
    `done` is called after each. Called before JAX is used."""
    found = hardware.devices(hardware.parse(f'cpu:{DEVICES[-1]}'))
    for scheme in schemes:
        for count in DEVICES:
            if (way := scheme.on(count, experiments)) is None:
                continue
            experiment, mesh = way
            made = plan.make(build(experiment), experiment, hardware.parse(f'cpu:{count}'), found[:count], mesh, None)
            kinds = {kind: sum(one.times * one.payload for one in made.collectives if one.kind == kind)
                     for kind in sorted({one.kind for one in made.collectives})}
            yield {'scheme': scheme.name, 'devices': count, 'mesh': {'data': mesh[0], 'model': mesh[1]},
                   'batch_size': experiment.batch_size, 'fc_batch': experiment.optimizer.fc_batch,
                   'sent_bytes': round(made.sent), 'exchanged_bytes': kinds}
            done()
            jax.clear_caches()


def read(folder: Path) -> dict[str, Any]:
    """What `measure` found, as it lies in `folder`.

    Raises:
      UsageError: if it is not there.
    """
    try:
        return json.loads((folder / FILE).read_text())
    except OSError as error:
        raise UsageError(f'{folder / FILE} cannot be read ({error.strerror}): run python -m launch.plan PAPER '
                         f'--scaling --workdir={folder}.') from error


def table(results: Mapping[str, Any], schemes: Sequence[Scheme]) -> tuple[list[str], list[list[str]]]:
    """The header and rows of a table: MiB that a device sends in a step, and the speed-ups that were printed."""
    sent = {(point['scheme'], point['devices']): point['sent_bytes'] / MIB for point in results['points']}
    timed = [scheme for scheme in schemes if scheme.measured]
    header = ['devices', *(f'{scheme.name}, MiB' for scheme in schemes),
              *(f'{scheme.name}, speed-up printed' for scheme in timed)]
    rows = [[str(count), *(f'{sent[scheme.name, count]:,.1f}' if (scheme.name, count) in sent else '-'
                           for scheme in schemes), *(scheme.measured.get(count, '-') for scheme in timed)]
            for count in DEVICES]
    return header, rows


def findings(results: Mapping[str, Any], schemes: Sequence[Scheme]) -> list[str]:
    """What the table shows: from how many devices on a scheme sends more than the first."""
    first, *others = schemes
    sent = {(point['scheme'], point['devices']): point['sent_bytes'] for point in results['points']}
    lines = []
    for scheme in others:
        more = [count for count in DEVICES if sent.get((scheme.name, count), 0) > sent[first.name, count]]
        lines.append(f'{scheme.name[0].upper()}{scheme.name[1:]}: ' + (
            f'more than {first.name} from {more[0]} devices on.' if more else
            f'less than {first.name} on any of these numbers of devices.'))
    return lines


def provenance(results: Mapping[str, Any]) -> list[str]:
    """How the numbers were counted, and where they come from."""
    batches = ', '.join(sorted({str(point['batch_size'] // point['mesh']['data']) for point in results['points']}))
    versions = ', '.join(f'{name} {version}' for name, version in results['versions'].items())
    return ['What a device sends in a step of training, read off the steps compiled by XLA for CPU devices, in '
            f'float32, with {batches} images on each device or pair of devices that see the same ones. In a ring of N '
            'devices it is 2 (N - 1) / N of the bytes of an all-reduce, and (N - 1) / N of those that an all-gather or '
            'all-to-all makes. Speed-ups are over one device.',
            f'Commit {results["commit"]}, {results["date"]}, {versions}.']


def picture(results: Mapping[str, Any], schemes: Sequence[Scheme], output_png: Path) -> None:
    """Draws what a device sends in a step against the number of devices, both on logarithmic axes."""
    figure, axes = plt.subplots(figsize=(8, 4.6), dpi=figures.DPI, layout='constrained')
    ends = []
    for scheme, colour, dash in zip(schemes, COLOURS, DASHES):
        points = [(point['devices'], point['sent_bytes'] / MIB) for point in results['points']
                  if point['scheme'] == scheme.name and point['sent_bytes']]
        axes.plot(*zip(*points), dash, color=colour, linewidth=2, marker='o', markersize=3.5)
        ends.append((points[-1][1], scheme.name, colour))
    axes.set_xscale('log', base=2)
    axes.set_yscale('log')
    axes.set_xlim(DEVICES[1] * 0.9, DEVICES[-1] * 1.05)
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f'{value:g}'))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f'{value:g}'))
    axes.set_xlabel('devices')
    axes.set_title('MiB that a device sends in a step of training', loc='left', fontsize=10, color=GREY)
    place = 0.0
    for value, name, colour in sorted(ends):
        place = max(value, 1.25 * place)        # names of lines that end together stand one above the other
        axes.annotate(name, (1.02, place), xycoords=('axes fraction', 'data'), color=colour, va='center')
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(axis='y', color='#e4e4e4', linewidth=0.8)
    figure.savefig(output_png)
    plt.close(figure)
