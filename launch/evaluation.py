"""Error without training: of a network that a run left or others published, or of several averaged."""
import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from rich.progress import track

from launch import workdir
from launch.cli import CACHE, FLAGS, console, say
from lib import evaluate, report, trained
from lib import mesh as meshes
from lib.data import sources, statistics
from lib.data.sources import Split
from lib.experiment import Data, in_words, require
from lib.paper import Paper
from lib.results import write
from lib.task import count
from lib.trained import Trained

# Not data.image_size, which the shape of the fully connected layers fixes, nor the mean, which they have learned.
MAY_BE_SET = ('evaluation.', 'data.source', 'data.resize', 'data.train_split', 'data.validation_split')
LONGEST = 100       # letters of a folder's name


def single(paper: Paper) -> None:
    """Evaluates the network in --workdir or --weights. The results of a run are left as they are: those of this
    evaluation go to a folder of their own in its workdir."""
    require(bool(FLAGS.workdir or FLAGS.weights), '--eval_only needs a network: name --workdir=DIR or --weights=FILE.')
    mesh = meshes.make(FLAGS.mesh)
    if FLAGS.weights:
        network = trained.from_weights(paper, FLAGS.weights)
        folder = workdir.path(FLAGS.workdir, f'{paper.name}-{Path(FLAGS.weights).stem}')
    else:
        network = trained.from_workdir(paper, FLAGS.workdir)
        folder = trained.run_folder(FLAGS.workdir) / 'evaluation' / folder_name(network.step, FLAGS.set)
    _run(paper, [network], network.name, folder, mesh)


def folder_name(step: int, assignments: Sequence[str]) -> str:
    """Of the evaluation of a step of a run with these assignments of --set: another one for others."""
    given = '-'.join([f'step-{step}', *assignments])
    words = re.sub(r'[^\w.=-]+', '-', given)
    if words == given and len(words) <= LONGEST:
        return words
    return f'{words[:LONGEST - 9]}-{hashlib.sha256(given.encode()).hexdigest()[:8]}'


def ensemble(paper: Paper) -> None:
    """Evaluates the networks of --ensemble, the probabilities that they give averaged (section 6 of the AlexNet
    paper)."""
    require(len(FLAGS.ensemble) >= 2, '--ensemble needs two networks or more: --ensemble=DIR,DIR.')
    require(not FLAGS.weights, '--ensemble takes files of weights too: put the one of --weights into its list.')
    mesh = meshes.make(FLAGS.mesh)
    networks = [trained.find(paper, path) for path in FLAGS.ensemble]
    origins = [network.origin for network in networks]
    require(len(set(origins)) == len(origins), 'The same network stands twice in --ensemble, which an average does not '
                                               'notice: name each once.')
    _run(paper, networks, 'ensemble', workdir.path(FLAGS.workdir, f'{paper.name}-ensemble'), mesh)


def _run(paper: Paper, networks: Sequence[Trained], name: str, folder: Path, mesh: Mesh) -> None:
    networks = [trained.with_changes(network, FLAGS.set, MAY_BE_SET) for network in networks]
    first = networks[0].experiment
    require(first.evaluation.batch_size % mesh.shape['data'] == 0,
            f'--mesh has data:{mesh.shape["data"]}, which does not divide evaluation.batch_size='
            f'{first.evaluation.batch_size}.')
    members = [{'experiment': network.name, 'origin': network.origin,
                'seed': None if network.step is None else network.experiment.seed, 'steps': network.step,
                'epochs': network.epochs, 'parameters': count(network.params)} for network in networks]
    identity = trained.identity(paper, name, FLAGS.set, first, None) | {
        'networks': [network.origin for network in networks]}
    workdir.claim(folder, identity)
    workdir.describe(folder, identity)
    for network in networks:
        say(f'Network: {network.origin}')
    splits: dict[Data, Split] = {}
    for network in networks:
        if network.experiment.data not in splits:
            splits[network.experiment.data] = sources.load_one(network.experiment.data, first.evaluation.split,
                                                               FLAGS.data_dir, CACHE)
    split = splits[first.data]
    for data, other in splits.items():
        same = (data.source, other.name) == (first.data.source, split.name)
        require(same and np.array_equal(other.labels, split.labels),
                f'The networks are judged on different data, {split.name} of {first.data.source} and {other.name} of '
                f'{data.source}: give them one with --set data.source=NAME.')
    for network in networks:
        trained.require_same_classes(network, split)
        statistics.require_fits(network.statistics, splits[network.experiment.data])
    began, errors = time.monotonic(), []
    for evaluation in dict.fromkeys((first.evaluation, first.evaluation.during_training)):
        batches = (evaluate.probabilities(network.task, jax.device_put(network.params, meshes.everywhere(mesh)),
                                          splits[network.experiment.data], network.statistics, network.experiment.data,
                                          evaluation, mesh) for network in networks)
        examples = evaluate.expected(split, first.evaluation)
        total = -(-examples // first.evaluation.batch_size)
        with jax.set_mesh(mesh):
            found = evaluate.count(track(_averaged(list(batches)), f'error, {in_words(evaluation.protocol)}', total,
                                         console=console, transient=True), examples)
        errors.append({'split': evaluation.split, 'protocol': evaluation.protocol, **found.record()})
    data = {'name': split.name, 'validation_name': split.name, 'train_examples': len(split),
            'validation_examples': len(split)}
    differences = {path: change for network in networks for path, change in trained.differences(paper, network).items()}
    results = workdir.about(paper, name, first, differences, data, [workdir.process(paper, mesh)]) | {
        'members': members, 'errors': errors, 'seconds': time.monotonic() - began}
    write(folder, results)
    report.show(results, paper.tables, console, first.published, folder)


def _averaged(batches: Sequence[Iterator]) -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
    """Batches of `evaluate.probabilities` of several networks as one, the probabilities averaged."""
    for batch in zip(*batches, strict=True):
        yield sum(probabilities for probabilities, _, _ in batch) / len(batch), *batch[0][1:]
