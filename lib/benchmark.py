"""How fast networks are: what is timed, in turns with what it is compared to, and what follows from the times."""
import functools
import math
import statistics as averages
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from lib import mesh as meshes
from lib import train
from lib.data import augment, batches
from lib.data.sources import Split
from lib.data.statistics import Statistics
from lib.evaluate import probabilities
from lib.experiment import Crops, Data, Evaluation, Experiment
from lib.task import Params, Task

TURN = 0.2                  # seconds: short work is repeated for at least as long, and its mean counts
PAUSE = 0.05                # seconds between turns, in which the threads of the one before stop waiting for more work
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


def compared(seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    """Times of the rounds, 'ours' and maybe 'theirs' among them, and the ratio of those two."""
    ratio = ratios(seconds['theirs'], seconds['ours'])._asdict() if 'theirs' in seconds else None
    return {'seconds': {name: spread(values)._asdict() for name, values in seconds.items()}, 'ratio': ratio,
            'rounds': dict(seconds)}


def beside_a_product(seconds: Mapping[str, list[float]], operations: float, size: int) -> dict[str, Any]:
    """Floating-point operations a second of 'ours', which has so many; those of 'product', one of two square matrices
    of this size; and the first as a fraction of the second, round by round."""
    reached = [operations / value for value in seconds['ours']]
    limit = [2 * size**3 / value for value in seconds['product']]
    return {'operations_a_second': spread(reached)._asdict(), 'product_operations_a_second': spread(limit)._asdict(),
            'fraction_of_product': spread(own / most for own, most in zip(reached, limit))._asdict()}


def product_size() -> int:
    """Of the square matrices whose product shows what the device can do."""
    return 2048 if jax.default_backend() == 'cpu' else 8192


def product() -> Callable[[], Any]:
    """The work of a product of two float32 matrices of `product_size`."""
    matrix = jnp.asarray(np.random.default_rng(0).standard_normal((product_size(),) * 2, np.float32))
    dot = jax.jit(jnp.dot)
    return lambda: jax.block_until_ready(dot(matrix, matrix))


# ------------------------------------------------------------------------------------------------------- what is timed

def draw(shapes: Params) -> Params:
    """Weights that keep the size of a signal, for parameters of these shapes; biases are 0."""
    rng = np.random.default_rng(0)

    def one(path, leaf):
        match path[-1].key:
            case 'kernel':
                deviation = (2 / np.prod(leaf.shape[:-1]))**0.5
                return np.float32(deviation) * rng.standard_normal(leaf.shape, np.float32)
            case 'scale' | 'var':
                return np.ones(leaf.shape, np.float32)
            case _:
                return np.zeros(leaf.shape, np.float32)

    return jax.tree_util.tree_map_with_path(one, shapes)


def random_split(examples: int, side: int, classes: int = 10) -> Split:
    """Images without meaning, stored with `side` pixels a side."""
    rng = np.random.default_rng(1)
    return Split('random images', rng.integers(0, 256, (examples, side, side, 3), np.uint8),
                 rng.integers(0, classes, examples, np.int32), tuple(map(str, range(classes))))


def plain_statistics(data: Data, side: int) -> Statistics:
    """Of training images that are alike everywhere, stored with `side` pixels a side."""
    whitening = np.eye(side * side * 3 if data.whiten else 0, dtype=np.float32)
    return Statistics(np.full((side, side, 3), 120, np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32),
                      whitening)


class Subject:
    """A network and one batch of random images, stored with `stored` pixels a side. The learning rate is 0, so that
    every call does the same. All methods return when all is computed."""

    def __init__(self, task: Task, experiment: Experiment, mesh, stored: int):
        self.task, self.experiment, self.mesh = task, experiment, mesh
        n, side = experiment.batch_size, experiment.data.image_size
        shapes = jax.eval_shape(functools.partial(train.init, task, experiment, mesh))
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        self.state = jax.device_put(zeros | {'params': draw(shapes['params'])},
                                    train.placement(task, experiment, shapes, mesh))
        crops = np.random.default_rng(2).standard_normal((n, side, side, 3), np.float32)
        self.split = random_split(n, stored, jax.eval_shape(task.predict, shapes['params'], crops).shape[1])
        self.crops, self.images, self.labels = jax.device_put((crops, self.split.images, self.split.labels),
                                                              meshes.images(mesh))
        self.statistics = jax.device_put(plain_statistics(experiment.data, stored), meshes.everywhere(mesh))
        self.key = jax.random.key(0)
        self._gradient = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
        self._step = train.make_step(task, experiment)

    def gradient(self) -> None:
        """Forward and backward pass in training, with dropout: the gradient of all parameters."""
        jax.block_until_ready(self._gradient(self.state['params'], self.crops, self.labels, self.key))

    def program(self) -> str:
        """The compiled program of `gradient`."""
        return self._gradient.lower(self.state['params'], self.crops, self.labels, self.key).compile().as_text()

    def step(self) -> None:
        """A whole step of training: augmentation, gradient and update."""
        self.state, *rest = self._step(self.state, self.images, self.labels, self.statistics, np.uint32(0),
                                       np.float32(0))
        jax.block_until_ready((self.state, rest))

    def evaluate(self, crops: Crops) -> None:
        """The probabilities of the batch, from images on the host."""
        evaluation = Evaluation(crops=crops, batch_size=len(self.split))
        jax.block_until_ready(list(probabilities(self.task, self.state['params'], self.split, self.statistics,
                                                 self.experiment.data, evaluation, self.mesh)))


def reading(split: Split, batch_size: int) -> Iterator[None]:
    """Reads a batch of training whenever it is asked for the next."""
    for _ in batches.training(split, 0, batch_size, 0):
        yield


def augmenting(split: Split, data: Data, batch_size: int) -> Iterator[None]:
    """Reads a batch, moves it to the device and changes it as in training, whenever it is asked for the next."""
    statistics = jax.device_put(plain_statistics(data, split.images.shape[1]))

    @jax.jit
    def change(number, images, statistics):
        return augment.train(jax.random.fold_in(jax.random.key(0), number), images, statistics, data)

    for number, images, _ in batches.training(split, 0, batch_size, 0):
        jax.block_until_ready(change(np.uint32(number), jax.device_put(images), statistics))
        yield


def compiling(task: Task, experiment: Experiment, mesh, stored: int) -> dict[str, float]:
    """Seconds before the first training step. 'initialise': compiling what draws new parameters, and drawing them;
    'lower': from the step in Python to a program; 'compile': the program; 'cached': both once more, when the compiled
    program lies in the persistent cache, which has to be there and not to have it yet."""
    abstract = jax.eval_shape(functools.partial(train.init, task, experiment, mesh))
    place = train.placement(task, experiment, abstract, mesh)
    state = jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                         abstract, place)
    images = functools.partial(jax.ShapeDtypeStruct, sharding=meshes.images(mesh))
    arguments = (state, images((experiment.batch_size, stored, stored, 3), np.uint8),
                 images((experiment.batch_size,), np.int32), plain_statistics(experiment.data, stored), np.uint32(0),
                 np.float32(0))

    def ready() -> tuple[float, float]:
        jax.clear_caches()
        start = time.perf_counter()
        program = train.make_step(task, experiment).lower(*arguments)
        lowered = time.perf_counter()
        program.compile()
        return lowered - start, time.perf_counter() - lowered

    (lower, compile_), again = ready(), ready()
    start = time.perf_counter()
    jax.block_until_ready(train.init(task, experiment, mesh))
    return {'initialise': time.perf_counter() - start, 'lower': lower, 'compile': compile_, 'cached': sum(again)}


def use_cache(folder: str) -> None:
    """Programs are kept in this folder from now on, however small they are."""
    jax.config.update('jax_compilation_cache_dir', folder)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    compilation_cache.reset_cache()
