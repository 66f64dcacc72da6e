"""What launch.benchmark measured as tables, for the console and the README."""
import collections
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lib.experiment import UsageError

Results = Mapping[str, Any]
LEAST = 0.02        # of the time: what takes less is left out of a profile


class Sheet(NamedTuple):
    """A table and what has to be known of it; the first column has names, the others numbers."""
    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: list[str]


def sheet(results: Results) -> Sheet:
    """The table of the results of any benchmark."""
    title, header, rows, notes = SHEETS[results['benchmark']](results)
    return Sheet(title, header, rows, [*notes, *_circumstances(results)])


def _step(results):
    peer = results['peer'] is not None
    header = ('network', 'batch', 'ours, ms', *(('PyTorch, ms', 'PyTorch / ours') if peer else ()), 'training step, ms',
              'images/s', 'GFLOP/s', 'of the limit')
    rows = []
    for row in results['rows']:
        seconds = row['seconds']
        theirs = (_ms(seconds['theirs']), _spread(row['ratio'])) if peer else ()
        rows.append((row['name'], str(row['batch_size']), _ms(seconds['ours']), *theirs, _ms(seconds['training_step']),
                     _rate(row['batch_size'], seconds['training_step']),
                     f'{row["operations_a_second"]["median"] / 1e9:,.0f}',
                     f'{100 * row["fraction_of_product"]["median"]:.0f} %'))
    limits = [row['product_operations_a_second']['median'] / 1e9 for row in results['rows']]
    return 'Forward and backward pass, and training step', header, rows, [
        'Forward and backward pass in training, dropout included, the gradient of all parameters.'
        + ' PyTorch / ours is above 1 where ours is faster: median of the rounds, least and greatest.' * peer,
        'A training step adds augmentation and the update of the parameters; images/s are its.',
        'GFLOP/s: six floating-point operations for each multiply-add of a forward pass.',
        f'The limit: a product of two float32 matrices of {results["product"]} x {results["product"]} in the same '
        f'rounds, {min(limits):,.0f} to {max(limits):,.0f} GFLOP/s.']


def _eval(results):
    peer = results['peer'] is not None
    header = ('network', 'crops', 'batch', 'ours, images/s', *(('PyTorch, images/s', 'ours / PyTorch') if peer else ()))
    rows = []
    for row in results['rows']:
        theirs = (_rate(row['batch_size'], row['seconds']['theirs']), _spread(row['ratio'])) if peer else ()
        rows.append((row['name'], row['crops'], str(row['batch_size']),
                     _rate(row['batch_size'], row['seconds']['ours']), *theirs))
    return 'Evaluation', header, rows, [
        'Images, not crops. Ours from stored images on the host to probabilities'
        + '; PyTorch: as many forward passes as there are crops, of crops that are cut already.' * peer]


def _input(results):
    header = ('', 'stored', 'cut', 'batch', 'images/s')
    rows = [(row['name'], str(row['stored']), str(row['image_size']), str(row['batch_size']),
             _rate(row['batch_size'], row['seconds']['ours'])) for row in results['rows']]
    return 'Input', header, rows, [
        'Batches in the order of training. Crops: read, moved to the device and changed there as in training. Data '
        'sets: read only.', *results['missing']]


def _profile(results):
    header = ('network', 'batch', 'layer', 'pass', 'products, ms', 'others, ms', 'of all')
    products, total = collections.Counter(), collections.Counter()
    for row in results['rows']:
        products[row['name']] += row['products']
        total[row['name']] += row['products'] + row['others']
    rows = []
    for row in results['rows']:
        share = (row['products'] + row['others']) / total[row['name']]
        if share >= LEAST:
            rows.append((row['name'], str(row['batch_size']), row['layer'] or 'between layers',
                         'backward' if row['backward'] else 'forward', f'{1000 * row["products"]:.1f}',
                         f'{1000 * row["others"]:.1f}', f'{100 * share:.0f} %'))
    whole = {name: f'of {name} a pass takes {_ms(seconds["ours"])} ms, its operations together '
                   f'{1000 * total[name]:,.1f}, products {1000 * products[name]:,.1f} of these'
             for name, seconds in ((row['name'], row['seconds']) for row in results['rows'])}
    return 'Where the time goes', header, rows, [
        'Products: matrix products and convolutions; others: everything else that carries the name of a layer. Pooling '
        'and units have none. Operations run beside each other, and parts of some are not traced, so that a pass is '
        'not their sum: '
        f'{"; ".join(whole.values())}. Rows below {100 * LEAST:.0f} % are left out.']


def _compile(results):
    header = ('network', 'batch', 'new parameters, s', 'lowering, s', 'compiling, s', 'from the cache, s')
    rows = [(row['name'], str(row['batch_size']), *(
        f'{row["seconds"][what]:.1f}' for what in ('initialise', 'lower', 'compile', 'cached')))
        for row in results['rows']]
    start = results['start']
    return 'Compiling the training step', header, rows, [
        'New parameters: compiling what draws them, and drawing them. From the cache: lowering the step, and loading '
        'the program that was compiled before.',
        f'From the start of a process to the end of its first step: {start["empty"]:.1f} s with an empty cache, '
        f'{start["again"]:.1f} s once more ({start["command"]}).']


SHEETS = {'step': _step, 'eval': _eval, 'input': _input, 'profile': _profile, 'compile': _compile}


def _ms(found: Results) -> str:
    return f'{1000 * found["median"]:,.1f}'


def _rate(images: int, seconds: Results) -> str:
    return f'{images / seconds["median"]:,.0f}'


def _spread(found: Results) -> str:
    return f'{found["median"]:.2f} ({found["least"]:.2f} to {found["greatest"]:.2f})'


def _circumstances(results: Results) -> Iterator[str]:
    """Where and with what it was measured."""
    if results.get('without_peer'):
        yield results['without_peer']
    peer, rounds = results.get('peer'), results.get('rounds')
    sides = [f'JAX on {results["device"]} with {results["threads"]} threads']
    if peer:
        sides.append(f'PyTorch {peer["version"]} on {peer["device"]} with {peer["threads"]}, eager, float32, channels '
                     'last, in a process that keeps its memory as ours does')
    if rounds:
        sides.append(f'{rounds} round{"s" * (rounds > 1)}')
    yield f'{results["machine"]}; {", ".join(sides)}. Load average before: {results["load"]:.1f}.'
    if results['set']:
        yield f'Changed: {", ".join(results["set"])}.'
    versions = ', '.join(f'{name} {version}' for name, version in results['versions'].items())
    yield f'Commit {results["commit"]}, {results["date"]}, {versions}.'
    yield f'Command: {results["command"]}'


def committed(root: Path) -> list[Results]:
    """The results that the repository holds: launch/results/MACHINE/BENCHMARK.json, machine by machine.

    Raises:
      UsageError: if one of them is not what launch.benchmark wrote.
    """
    found = []
    for folder in sorted(root.glob('launch/results/*/')):
        for path in (folder / f'{name}.json' for name in SHEETS):
            if path.exists():
                try:
                    found.append(json.loads(path.read_text()))
                    sheet(found[-1])
                except (ValueError, KeyError, TypeError) as error:
                    raise UsageError(f'{path} is not a result of launch.benchmark: write it again.') from error
    return found
