"""How fast this machine is with these networks: python -m launch.benchmark step [--networks=alexnet,cifar,...]

  step      forward and backward pass, ours and PyTorch's, and our whole step of training, beside the rate of a plain
            product of matrices
  eval      images a second of an evaluation with one crop and with ten, ours and PyTorch's
  input     images a second of batches on their way to a network, by what is done to them
  profile   where the time of a forward and backward pass goes, layer by layer
  compile   seconds that a training step takes before it runs, and a run before its first step

What is compared takes turns, round after round; every figure is the median of the rounds. PyTorch is left out where it
is not installed (requirements-peer.txt). NPROC=N gives both sides N threads. The results are written to
WORKDIR/step.json and so on, over those of an earlier run; committed as launch/results/MACHINE/step.json, they are shown
in the README.
"""
import contextlib
import dataclasses
import datetime
import functools
import importlib.util
import json
import multiprocessing
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import app, flags
from jax.sharding import Mesh
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table as Grid
from rich.text import Text

from launch import cli, workdir
from launch.cli import FLAGS
from launch.papers import PAPERS
from lib import benchmark, geometry, profile, speed
from lib import mesh as meshes
from lib.data import sources
from lib.experiment import Data, Experiment, UsageError, in_words, override, require
from lib.task import Task


class Network(NamedTuple):
    """What is timed of an experiment of a paper: so many images at once, stored with so many pixels a side."""
    paper: str
    experiment: str
    batch_size: int
    stored: int = 256


NETWORKS = {
    'alexnet': Network('alexnet', 'paper', 32),
    'alexnet_no_lrn': Network('alexnet', 'no_lrn', 32),
    'zfnet': Network('zfnet', 'paper', 32),
    'vgg_a': Network('vgg', 'A', 16),
    'vgg_d': Network('vgg', 'paper', 16),
    'googlenet': Network('googlenet', 'paper', 32),
    'cifar_80sec': Network('alexnet', 'cifar_80sec', 128, 32),
    'cifar_19pct': Network('alexnet', 'cifar_19pct', 128, 32),
    'cifar_18pct': Network('alexnet', 'cifar_18pct', 128, 32),
    'cifar_13pct': Network('alexnet', 'cifar_13pct', 128, 32),
    'cifar_11pct': Network('alexnet', 'cifar_11pct', 128, 32),
    'nin': Network('nin', 'paper', 128, 32),
    'nin_mnist': Network('nin', 'mnist', 128, 28),
    'lenet5': Network('lenet5', 'paper', 500, 32),
}
LONG = ('vgg_d',)           # networks that are only compiled unless they are named


def define_flags() -> None:
    flags.DEFINE_list('networks', None, f'which of {", ".join(NETWORKS)}; cifar stands for all cifar_...')
    flags.DEFINE_integer('rounds', 9, 'turns of each', lower_bound=1)
    flags.DEFINE_multi_string('set', [], 'change a field of all networks, as in --set batch_size=8; may be repeated')
    flags.DEFINE_string('workdir', None, 'where the results are written (default runs/benchmark)')
    flags.DEFINE_string('data_dir', None, 'where TFDS data sets lie (default $TFDS_DATA_DIR or ~/tensorflow_datasets)')
    flags.DEFINE_bool('json', False, 'print JSON, and nothing else')


def main(argv: list[str]) -> None:
    cli.prepare()
    require(len(argv) > 1 and argv[1] in BENCHMARKS,
            f'Put what is measured first, as in python -m launch.benchmark step: one of {", ".join(BENCHMARKS)}.')
    name, path = argv[1], results_file(workdir.path(FLAGS.workdir, 'benchmark'), argv[1])
    networks = chosen(FLAGS.networks or [word for word in NETWORKS if word not in LONG or name == 'compile'])
    for network in networks.values():
        _experiment(network)            # a mistake in --set is said before anything begins
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')     # PyTorch needs memory of a GPU too
    mesh = meshes.make('data:1')
    with jax.set_mesh(mesh):
        results = _about(name) | BENCHMARKS[name](networks, mesh)
    path.write_text(json.dumps(results, indent=1) + '\n')
    if FLAGS.json:
        print(json.dumps(results, indent=1))
    else:
        show(results)
        cli.say(f'Written to {path}')


def show(results: dict[str, Any]) -> None:
    """Prints the table and the notes."""
    title, header, rows, notes = speed.sheet(results)
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(header):
        grid.add_column(name, justify='right' if number else 'left')
    for row in rows:
        grid.add_row(*row)
    cli.console.print(Text(title, style='bold'))
    cli.show(grid)
    for note in notes:
        cli.say(note)


def results_file(folder: Path, name: str) -> Path:
    """Where the results of a benchmark go.

    Raises:
      UsageError: if it cannot be written.
    """
    path = folder / f'{name}.json'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.open('a').close()
    except OSError as error:
        raise UsageError(f'{path} cannot be written ({error.strerror}): choose another --workdir.') from error
    return path


def chosen(words: list[str]) -> dict[str, Network]:
    """The networks that --networks names.

    Raises:
      UsageError: if a word is neither a network nor what the names of several begin with.
    """
    found = {}
    for word in words:
        names = [word] if word in NETWORKS else [name for name in NETWORKS if name.startswith(f'{word}_')]
        require(bool(names), f'--networks={word} is none of {", ".join(NETWORKS)}.')
        found |= {name: NETWORKS[name] for name in names}
    return found


def _experiment(network: Network) -> Experiment:
    experiment = PAPERS[network.paper].experiments[network.experiment]
    return override(dataclasses.replace(experiment, batch_size=network.batch_size), FLAGS.set)


def _subject(network: Network, mesh: Mesh) -> tuple[Experiment, Task, benchmark.Subject]:
    experiment = _experiment(network)
    task = PAPERS[network.paper].build(experiment)
    return experiment, task, benchmark.Subject(task, experiment, mesh, network.stored)


def _named(name: str, network: Network, experiment: Experiment) -> dict[str, Any]:
    """What is said of a network in every table."""
    return {'name': name, 'paper': network.paper, 'experiment': network.experiment,
            'batch_size': experiment.batch_size}


def _about(name: str) -> dict[str, Any]:
    """Where and with what: of every benchmark."""
    versions = {name: metadata.version(name) for name in ('jax', 'jaxlib', 'numpy')}
    return {
        'benchmark': name, 'command': shlex.join(['python', '-m', 'launch.benchmark', *sys.argv[1:]]),
        'commit': workdir.commit(), 'date': datetime.datetime.now(datetime.UTC).date().isoformat(),
        'versions': {'python': platform.python_version(), **versions}, 'machine': _processor(),
        'device': jax.devices()[0].device_kind, 'platform': jax.default_backend(), 'threads': int(os.environ['NPROC']),
        'load': os.getloadavg()[0], 'set': FLAGS.set,
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return f'{line.split(": ", 1)[1]}, {os.cpu_count()} cores'
    return f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores'


# ------------------------------------------------------------------------------------------------- PyTorch, if there is

class Peer:
    """PyTorch in a process of its own: see launch/peer.py."""

    def __init__(self, device: str):
        context = multiprocessing.get_context('spawn')
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, int(os.environ['NPROC']), device), daemon=True)
        self.process.start()
        other.close()
        self.facts = self._answer()

    def turn(self, paper: str, experiment: Experiment, method: str) -> Callable[[], float]:
        """Turns of a method of launch.peer.Subject; ends those of an earlier one."""
        def ask(request):
            self.connection.send(request)
            return self._answer()

        ask((paper, experiment, method))
        return lambda: ask(None)

    def _answer(self) -> Any:
        try:
            return self.connection.recv()
        except EOFError as error:
            raise UsageError('PyTorch has ended, for the reason above or for want of memory: choose other --networks, '
                             'or a smaller --set batch_size.') from error

    def close(self) -> None:
        self.connection.close()
        self.process.join()


def _serve(connection, threads, device):
    from launch import peer  # imports torch, which not everybody has

    peer.serve(connection, threads, device)


@contextlib.contextmanager
def _peer() -> Iterator[tuple[Peer | None, dict[str, Any]]]:
    """PyTorch or None, and what is said of it in results."""
    device = {'cpu': 'cpu', 'gpu': 'cuda'}.get(jax.default_backend())
    if importlib.util.find_spec('torch') is None:
        yield None, _alone('PyTorch is not installed (pip install -r requirements-peer.txt)')
    elif device is None:
        yield None, _alone(f'PyTorch is not timed on a {jax.default_backend()}')
    else:
        peer = Peer(device)
        with contextlib.closing(peer):
            if peer.facts['device'] == device:
                yield peer, {'peer': peer.facts}
            else:
                yield None, _alone('PyTorch is installed for the CPU only')


def _alone(why: str) -> dict[str, Any]:
    return {'peer': None, 'without_peer': f'{why}: these are our times only.'}


@contextlib.contextmanager
def _progress(steps: int) -> Iterator[Callable[[str], Callable[[], None]]]:
    """A bar: a function of what is being done, which gives one that says a part of it is."""
    with Progress(console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task('', total=steps)

        def begin(text):
            bars.update(bar, description=text)
            return lambda: bars.advance(bar)

        yield begin


# ---------------------------------------------------------------------------------------------------- what is measured

def step(networks: dict[str, Network], mesh: Mesh) -> dict[str, Any]:
    """Times of training: ours, theirs, our whole step and a product of matrices take turns."""
    product, size = benchmark.timed(benchmark.product()), benchmark.product_size()
    rows = []
    with _peer() as (peer, facts), _progress(4 * FLAGS.rounds * len(networks)) as begin:
        for name, network in networks.items():
            begin(f'{name}: compiling')
            experiment, task, subject = _subject(network, mesh)
            turns = {'ours': benchmark.timed(subject.gradient)}
            if peer:
                turns['theirs'] = peer.turn(network.paper, experiment, 'gradient')
            turns |= {'training_step': benchmark.timed(subject.step), 'product': product}
            seconds = benchmark.in_turns(turns, FLAGS.rounds, begin(name))
            multiply_adds = geometry.measure(task, experiment.data.image_size).multiply_adds
            operations = 2 * benchmark.TRAINING * multiply_adds * experiment.batch_size
            rows.append(_named(name, network, experiment) | {'multiply_adds': multiply_adds}
                        | benchmark.compared(seconds) | benchmark.beside_a_product(seconds, operations, size))
    return facts | {'rounds': FLAGS.rounds, 'product': size, 'rows': rows}


def evaluate(networks: dict[str, Network], mesh: Mesh) -> dict[str, Any]:
    """Times of evaluation with one central crop and with ten, where images are larger than a crop."""
    rows = []
    with _peer() as (peer, facts), _progress(4 * FLAGS.rounds * len(networks)) as begin:
        for name, network in networks.items():
            begin(f'{name}: compiling')
            experiment, _, subject = _subject(network, mesh)
            theirs = peer.turn(network.paper, experiment, 'predict') if peer else None
            larger = network.stored > experiment.data.image_size
            for crops, passes in {'centre': 1, **({'ten': 10} if larger else {})}.items():
                turns = {'ours': benchmark.timed(functools.partial(subject.evaluate, crops))}
                if peer:
                    turns['theirs'] = theirs
                seconds = benchmark.in_turns(turns, FLAGS.rounds, begin(f'{name}, {in_words(crops)}'))
                if peer:
                    seconds['theirs'] = [passes * value for value in seconds['theirs']]
                rows.append(_named(name, network, experiment) | {'crops': crops} | benchmark.compared(seconds))
    return facts | {'rounds': FLAGS.rounds, 'rows': rows}


BATCH = 128
PHOTOGRAPHS = Data(source='random', resize=256, image_size=224)
SMALL = Data(source='random', image_size=32)
CHANGES = {                 # what is done to images before the network sees them
    'centre': PHOTOGRAPHS,
    'random': dataclasses.replace(PHOTOGRAPHS, crop='random'),
    'random, reflected, coloured': dataclasses.replace(PHOTOGRAPHS, crop='random', reflect=True, color_noise=0.1),
    'corners': dataclasses.replace(PHOTOGRAPHS, crop='corners', reflect=True),
    'scaled': dataclasses.replace(PHOTOGRAPHS, crop='scaled', reflect=True),
    'area': dataclasses.replace(PHOTOGRAPHS, crop='area', reflect=True),
    'random, colours jittered': dataclasses.replace(PHOTOGRAPHS, crop='random', reflect=True, color_jitter=0.4),
    'small, centre': SMALL,
    'small, affine': dataclasses.replace(SMALL, affine=(1.0, 0.1, 0.1, 0.2)),
    'small, global contrast, whitened': dataclasses.replace(SMALL, contrast='global', whiten=True),
    'small, local contrast': dataclasses.replace(SMALL, contrast='local'),
}
DATA_SETS = {
    'mnist': Data(source='mnist', image_size=28, validation_split='test'),
    'cifar10': Data(source='cifar10', image_size=32, validation_split='test'),
    'imagenette/160px-v2': Data(source='imagenette/160px-v2', resize=256, image_size=224),
    'imagenet2012': Data(source='imagenet2012', resize=256, image_size=224),
}


def read(networks: dict[str, Network], mesh: Mesh) -> dict[str, Any]:
    """Times of batches on their way to a network: every change of images, and reading every data set that is there."""
    rows, missing = [], []

    def subjects():
        for name, data in CHANGES.items():
            split = benchmark.random_split(4 * BATCH, data.resize or data.image_size)
            yield f'crop: {name}', split, data, benchmark.augmenting(split, data, BATCH)
        for name, data in DATA_SETS.items():
            try:
                split = sources.load_one(data, 'train', FLAGS.data_dir, cli.CACHE)
            except UsageError:
                missing.append(f'{name} is not there.')
                continue
            yield f'{split.name}: {len(split):,} images', split, data, benchmark.reading(split, BATCH)

    with _progress(FLAGS.rounds * (len(CHANGES) + len(DATA_SETS))) as begin:
        for name, split, data, work in subjects():
            with contextlib.closing(work):
                turn = benchmark.timed(functools.partial(next, work))
                seconds = benchmark.in_turns({'ours': turn}, FLAGS.rounds, begin(name))
            rows.append({'name': name, 'stored': split.images.shape[1], 'image_size': data.image_size,
                         'batch_size': BATCH} | benchmark.compared(seconds))
    return {'rounds': FLAGS.rounds, 'rows': rows, 'missing': missing}


def profiled(networks: dict[str, Network], mesh: Mesh) -> dict[str, Any]:
    """Seconds of every layer's operations in a forward and backward pass, and of the whole pass."""
    rows = []
    with _progress(len(networks)) as begin:
        for name, network in networks.items():
            done = begin(name)
            experiment, _, subject = _subject(network, mesh)
            seconds = benchmark.in_turns({'ours': benchmark.timed(subject.gradient)}, FLAGS.rounds)
            shares = profile.by_layer(profile.spans(subject.gradient, FLAGS.rounds), subject.program(),
                                      subject.state['params'])
            rows += [_named(name, network, experiment) | share._asdict() | benchmark.compared(seconds)
                     for share in shares]
            done()
    return {'rounds': FLAGS.rounds, 'rows': rows}


OF_THIS_PROCESS = ('NPROC', 'JAX_COMPILATION_CACHE_DIR', 'XLA_PYTHON_CLIENT_PREALLOCATE')
START = ['launch.alexnet', '--experiment=quickstart', '--mesh=data:1,model:2']      # of `make reproduce`


def compile_(networks: dict[str, Network], mesh: Mesh) -> dict[str, Any]:
    """Seconds until the training step of every network can run, at the batch of its recipe, and until that of
    `make reproduce` has run once, each with an empty cache and again."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, _progress(2 + len(networks)) as begin:
        start = {'command': shlex.join(['python', '-m', *START])}
        for cache in ('empty', 'again'):
            done = begin(f'start of {START[0]}')
            start[cache] = _seconds_to_first_step(Path(folder), cache)
            done()
        benchmark.use_cache(f'{folder}/programs')
        for name, network in networks.items():
            done = begin(name)
            recipe = PAPERS[network.paper].experiments[network.experiment].batch_size
            experiment = _experiment(network._replace(batch_size=recipe))
            task = PAPERS[network.paper].build(experiment)
            seconds = benchmark.compiling(task, experiment, mesh, network.stored)
            rows.append(_named(name, network, experiment) | {'seconds': seconds})
            done()
    return {'start': start, 'rows': rows}


def _seconds_to_first_step(folder: Path, name: str) -> float:
    """Of a process of its own whose cache is in the folder."""
    metrics = folder / name / 'metrics.jsonl'
    environment = {word: text for word, text in os.environ.items() if word not in OF_THIS_PROCESS}
    environment['XDG_CACHE_HOME'] = str(folder / 'cache')
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, '-m', *START, '--set', 'steps=1', f'--workdir={folder / name}'],
                               cwd=Path(__file__).parent.parent, env=environment, stdout=subprocess.DEVNULL)
    try:
        while not (metrics.exists() and '"train"' in metrics.read_text()):
            require(process.poll() is None, f'{START[0]} ended before its first step: run python -m {START[0]}.')
            time.sleep(0.02)
        return time.monotonic() - start
    finally:
        process.terminate()
        process.wait()


BENCHMARKS = {'step': step, 'eval': evaluate, 'input': read, 'profile': profiled, 'compile': compile_}

if __name__ == '__main__':
    define_flags()
    app.run(lambda argv: cli.guarded(lambda: main(argv)), flags_parser=cli.parse_after_name)
