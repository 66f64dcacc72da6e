"""How fast this machine is with these networks: python -m launch.benchmark step [--networks=alexnet,cifar,...]

  step      forward and backward pass of ours and of PyTorch's (where installed: requirements-peer.txt), and a whole
            step of training of ours, beside the rate of a plain product of matrices

What is compared takes turns, round after round; every figure is the median of the rounds. The results go to
WORKDIR/step.json, over those of an earlier run. NPROC=N gives both N threads.
"""
import contextlib
import dataclasses
import datetime
import importlib.util
import json
import multiprocessing
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import app, flags
from rich.console import Console
from rich.progress import Progress

from launch import cli, workdir
from launch.cli import FLAGS
from launch.papers import PAPERS
from lib import benchmark, geometry
from lib import mesh as meshes
from lib.experiment import Experiment, UsageError, override, require


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


def define_flags() -> None:
    flags.DEFINE_list('networks', list(NETWORKS), f'which: of {", ".join(NETWORKS)}; cifar stands for all cifar_...')
    flags.DEFINE_integer('rounds', 9, 'turns of each', lower_bound=1)
    flags.DEFINE_multi_string('set', [], 'change a field of all networks, as in --set batch_size=8; may be repeated')
    flags.DEFINE_string('workdir', None, 'where the results are written (default runs/benchmark)')
    flags.DEFINE_bool('json', False, 'print JSON, and nothing else')


def main(argv: list[str]) -> None:
    cli.prepare()
    require(len(argv) > 1 and argv[1] in BENCHMARKS,
            f'Put what is measured first, as in python -m launch.benchmark step: one of {", ".join(BENCHMARKS)}.')
    folder = workdir.path(FLAGS.workdir, 'benchmark')
    path = folder / f'{argv[1]}.json'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise UsageError(f'{path} cannot be written ({error.strerror}): choose another --workdir.') from error
    found = BENCHMARKS[argv[1]](chosen(FLAGS.networks))
    results = _about(argv[1]) | found
    path.write_text(json.dumps(results, indent=1) + '\n')
    if FLAGS.json:
        print(json.dumps(results, indent=1))
    else:
        benchmark.show(results, cli.console)
        cli.say(f'Written to {path}')


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


def _about(name: str) -> dict[str, Any]:
    """Where and with what: of every benchmark."""
    versions = {name: metadata.version(name) for name in ('jax', 'jaxlib', 'numpy')}
    return {
        'benchmark': name, 'command': shlex.join(['python', '-m', 'launch.benchmark', *sys.argv[1:]]),
        'commit': workdir.commit(), 'date': datetime.datetime.now(datetime.UTC).date().isoformat(),
        'versions': {'python': platform.python_version(), **versions}, 'machine': _processor(),
        'device': jax.devices()[0].device_kind, 'platform': jax.default_backend(), 'threads': int(os.environ['NPROC']),
        'set': FLAGS.set,
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

    def __init__(self):
        context = multiprocessing.get_context('spawn')
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, int(os.environ['NPROC'])), daemon=True)
        self.process.start()
        other.close()
        self.facts = self.connection.recv()

    def turn(self, paper: str, experiment: Experiment, method: str) -> Callable[[], float]:
        """Turns of a method of launch.peer.Subject; ends those of an earlier one."""
        def ask(request):
            self.connection.send(request)
            return self.connection.recv()

        ask((paper, experiment, method))
        return lambda: ask(None)

    def close(self) -> None:
        self.connection.close()
        self.process.join()


def _serve(connection, threads):
    from launch import peer  # imports torch, which not everybody has

    peer.serve(connection, threads)


@contextlib.contextmanager
def _peer() -> Iterator[tuple[Peer | None, dict[str, Any]]]:
    """PyTorch or None, and what is said of it in results."""
    if importlib.util.find_spec('torch') is None:
        yield None, {'peer': None, 'without_peer': 'PyTorch is not installed (pip install -r requirements-peer.txt): '
                                                   'these are our times only.'}
        return
    peer = Peer()
    try:
        if (jax.default_backend() == 'gpu') == (peer.facts['device'] == 'cuda') and jax.default_backend() != 'tpu':
            yield peer, {'peer': peer.facts}
        else:
            yield None, {'peer': None, 'without_peer': f'JAX computes on the {jax.default_backend()} here and PyTorch '
                                                       f'on the {peer.facts["device"]}: these are our times only.'}
    finally:
        peer.close()


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

def step(networks: dict[str, Network]) -> dict[str, Any]:
    """Times of training, network by network: ours, theirs, our whole step and a product of matrices take turns."""
    found, mesh = [], meshes.make('data:1')
    product = benchmark.timed(benchmark.product())
    with jax.set_mesh(mesh), _peer() as (peer, facts), _progress(len(networks) * FLAGS.rounds * 4) as begin:
        for name, network in networks.items():
            begin(f'{name}: compiling')
            experiment = _experiment(network)
            task = PAPERS[network.paper].build(experiment)
            subject = benchmark.Subject(task, experiment, mesh, network.stored)
            turns = {'ours': benchmark.timed(subject.gradient)}
            if peer:
                turns['theirs'] = peer.turn(network.paper, experiment, 'gradient')
            turns |= {'training_step': benchmark.timed(subject.step), 'product': product}
            seconds = benchmark.in_turns(turns, FLAGS.rounds, begin(name))
            multiply_adds = geometry.measure(task, experiment.data.image_size).multiply_adds
            operations = 2 * benchmark.TRAINING * multiply_adds * experiment.batch_size
            found.append({'network': name, 'paper': network.paper, 'experiment': network.experiment,
                          'batch_size': experiment.batch_size, 'multiply_adds': multiply_adds}
                         | benchmark.step_figures(seconds, operations, benchmark.product_size()))
    return facts | {'product': benchmark.product_size(), 'networks': found}


BENCHMARKS = {'step': step}

if __name__ == '__main__':
    define_flags()
    app.run(lambda argv: cli.guarded(lambda: main(argv)), flags_parser=cli.parse_after_name)
