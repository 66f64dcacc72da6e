"""How fast networks are: what is timed, in turns with what it is compared to, and what follows from the times."""
import functools
import math
import statistics as averages
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from lib import mesh as meshes
from lib import train
from lib.data.statistics import Statistics
from lib.experiment import Data, Experiment
from lib.task import Params, Task

TURN = 0.2                  # seconds: short work is repeated for at least as long, and its mean counts
PAUSE = 0.05                # seconds between turns, in which the threads of the one before stop waiting for more work
WIDTH = 120                 # of a table in a file or a narrow window
TRAINING = 3                # a backward pass takes two products for each one of the forward pass: of the gradient with
# the weights and with what they read. The first layer needs only one of them, which is not subtracted


class Spread(NamedTuple):
    """Of a figure over the rounds."""
    median: float
    least: float
    greatest: float


def spread(values: Iterable[float]) -> Spread:
    values = list(values)
    return Spread(averages.median(values), min(values), max(values))


def ratios(theirs: Iterable[float], ours: Iterable[float]) -> Spread:
    """How many times their seconds are ours, round by round: 2 if we take half their time."""
    return spread(other / own for other, own in zip(theirs, ours, strict=True))


def timed(work: Callable[[], Any]) -> Callable[[], float]:
    """A turn of `work`, which returns when all is done: seconds of one call, the mean of as many in a row as take TURN
    seconds. The work is done twice here, so that it is compiled and its length known."""
    work()
    start = time.perf_counter()
    work()
    repeats = max(1, math.ceil(TURN / (time.perf_counter() - start)))

    def turn() -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        return (time.perf_counter() - start) / repeats

    return turn


def in_turns(turns: Mapping[str, Callable[[], float]], rounds: int,
             each: Callable[[], None] = lambda: None) -> dict[str, list[float]]:
    """What each gives in each round. They take turns, so that whatever else the machine does meets all of them; `each`
    is called after every turn."""
    found = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            time.sleep(PAUSE)
            found[name].append(turn())
            each()
    return found


def product_size() -> int:
    """Of the square matrices whose product shows what the device can do."""
    return 2048 if jax.default_backend() == 'cpu' else 8192


def product() -> Callable[[], Any]:
    """The work of a product of two float32 matrices of `product_size`."""
    matrix = jnp.asarray(np.random.default_rng(0).standard_normal((product_size(),) * 2, np.float32))
    dot = jax.jit(jnp.dot)
    return lambda: jax.block_until_ready(dot(matrix, matrix))


def draw(shapes: Params) -> Params:
    """Weights that keep the size of a signal, for parameters of these shapes; biases are 0."""
    rng = np.random.default_rng(0)

    def one(path, leaf):
        match path[-1].key:
            case 'kernel':
                deviation = (2 / np.prod(leaf.shape[:-1]))**0.5
                return deviation * rng.standard_normal(leaf.shape, np.float32)
            case 'scale' | 'var':
                return np.ones(leaf.shape, np.float32)
            case _:
                return np.zeros(leaf.shape, np.float32)

    return jax.tree_util.tree_map_with_path(one, shapes)


def plain_statistics(data: Data, side: int) -> Statistics:
    """Of training images that are alike everywhere, stored with `side` pixels a side."""
    whitening = np.eye(side * side * 3 if data.whiten else 0, dtype=np.float32)
    return Statistics(np.full((side, side, 3), 120, np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32),
                      whitening)


class Subject:
    """A network in training on one batch of random images, stored with `stored` pixels a side. The learning rate is 0,
    so that every call does the same."""

    def __init__(self, task: Task, experiment: Experiment, mesh, stored: int):
        rng, n, side = np.random.default_rng(1), experiment.batch_size, experiment.data.image_size
        shapes = jax.eval_shape(functools.partial(train.init, task, experiment, mesh))
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        self.state = jax.device_put(zeros | {'params': draw(shapes['params'])},
                                    train.placement(task, experiment, shapes, mesh))
        put = functools.partial(jax.device_put, device=meshes.images(mesh))
        self.crops = put(rng.standard_normal((n, side, side, 3), np.float32))
        self.images = put(rng.integers(0, 256, (n, stored, stored, 3), np.uint8))
        classes = jax.eval_shape(task.predict, shapes['params'], self.crops).shape[1]
        self.labels = put(rng.integers(0, classes, n, np.int32))
        self.statistics = jax.device_put(plain_statistics(experiment.data, stored), meshes.everywhere(mesh))
        self.key = jax.random.key(0)
        self._gradient = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
        self._step = train.make_step(task, experiment)

    def gradient(self) -> None:
        """Forward and backward pass in training, with dropout: the gradient of all parameters."""
        jax.block_until_ready(self._gradient(self.state['params'], self.crops, self.labels, self.key))

    def step(self) -> None:
        """A whole step of training: augmentation, gradient and update."""
        self.state, *rest = self._step(self.state, self.images, self.labels, self.statistics, np.uint32(0),
                                       np.float32(0))
        jax.block_until_ready((self.state, rest))


def step_figures(seconds: Mapping[str, list[float]], operations: float, size: int) -> dict[str, Any]:
    """What follows from the times of a step.

    Args:
      seconds: of every round, 'ours', 'theirs' if there are, 'training_step' and 'product'.
      operations: floating-point operations of a forward and backward pass.
      size: of the matrices of 'product'.
    """
    found = {name: spread(values)._asdict() for name, values in seconds.items()}
    limit = [2 * size**3 / value for value in seconds['product']]
    reached = [operations / value for value in seconds['ours']]
    return {
        'seconds': found,
        'ratio': ratios(seconds['theirs'], seconds['ours'])._asdict() if 'theirs' in seconds else None,
        'operations_a_second': spread(reached)._asdict(),
        'product_operations_a_second': spread(limit)._asdict(),
        'fraction_of_product': spread(own / most for own, most in zip(reached, limit))._asdict(),
        'rounds': dict(seconds),
    }


class Sheet(NamedTuple):
    """Results as a table, for the console and the README."""
    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: list[str]


def sheet(results: Mapping[str, Any]) -> Sheet:
    """The table of what launch.benchmark wrote."""
    peer = results.get('peer')
    header = ('network', 'batch', 'ours, ms', *(('PyTorch, ms', 'PyTorch / ours') if peer else ()), 'training step, ms',
              'images/s', 'GFLOP/s', 'of a product')
    rows = []
    for row in results['networks']:
        seconds = {name: 1000 * found['median'] for name, found in row['seconds'].items()}
        theirs = (f'{seconds["theirs"]:.1f}', _spread(row['ratio'])) if peer else ()
        rows.append((row['network'], str(row['batch_size']), f'{seconds["ours"]:.1f}', *theirs,
                     f'{seconds["training_step"]:.1f}', f'{1000 * row["batch_size"] / seconds["training_step"]:,.0f}',
                     f'{row["operations_a_second"]["median"] / 1e9:,.0f}',
                     f'{100 * row["fraction_of_product"]["median"]:.0f} %'))
    notes = [
        'Forward and backward pass in training, float32, dropout included. The ratio is above 1 where ours is faster: '
        'the median of the rounds, and the least and greatest.',
        'A training step adds augmentation and the update of the parameters; images/s are its.',
        f'GFLOP/s: 6 for each multiply-add of the forward pass. A product of two matrices of {results["product"]} x '
        f'{results["product"]}, timed in the same rounds, is the limit.']
    return Sheet('Forward and backward pass', header, rows, notes + about(results))


def about(results: Mapping[str, Any]) -> list[str]:
    """Where and with what it was measured."""
    peer = results.get('peer')
    theirs = f', PyTorch {peer["version"]} eager, channels last, {peer["threads"]} threads' if peer else ''
    rounds = {len(turns) for row in results['networks'] for turns in row['rounds'].values()}
    versions = ', '.join(f'{name} {version}' for name, version in results['versions'].items())
    return [*([results['without_peer']] if 'without_peer' in results else []),
            f'{results["machine"]}, on {results["device"]}, {results["threads"]} threads{theirs}; '
            f'{max(rounds)} rounds.',
            f'Commit {results["commit"]}, {results["date"]}, {versions}.', f'Command: {results["command"]}']


def _spread(found: Mapping[str, float]) -> str:
    return f'{found["median"]:.2f} ({found["least"]:.2f}-{found["greatest"]:.2f})'


def show(results: Mapping[str, Any], console: Console) -> None:
    """Prints the table."""
    title, header, rows, notes = sheet(results)
    grid = Grid(title=title, box=box.SIMPLE, title_justify='left')
    for number, name in enumerate(header):
        grid.add_column(name, justify='right' if number else 'left', no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    console.print(grid, width=max(console.width, WIDTH), crop=False)
    for note in notes:
        console.print(Text(note), soft_wrap=True)
