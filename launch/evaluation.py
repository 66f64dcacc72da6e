"""Error without training: of a network that a run left or others published, or of several averaged."""
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from rich.progress import track

from launch import trained, workdir
from launch.cli import CACHE, FLAGS, console, say
from launch.trained import Trained
from lib import evaluate, report
from lib import mesh as meshes
from lib.data import sources
from lib.data.sources import Split
from lib.experiment import CROPS, diff, require
from lib.paper import Paper
from lib.task import count

# Not data.image_size, which the shape of the fully connected layers fixes.
MAY_BE_SET = ('evaluation.', 'data.source', 'data.resize', 'data.train_split', 'data.validation_split', 'data.mean')


def single(paper: Paper) -> None:
    """Evaluates the network in --workdir or --weights. The results of a run are left as they are: those of this
    evaluation go to a folder of their own in its workdir."""
    require(bool(FLAGS.workdir or FLAGS.weights), '--eval_only needs a network: name --workdir=DIR or --weights=FILE.')
    network = trained.from_weights(paper, FLAGS.weights) if FLAGS.weights else \
        trained.from_workdir(paper, FLAGS.workdir)
    if FLAGS.weights:
        folder = workdir.path(FLAGS.workdir, f'{paper.name}-{Path(FLAGS.weights).stem}')
    else:
        words = '-'.join([f'step-{network.step}', *FLAGS.set])
        folder = workdir.path(FLAGS.workdir, '') / 'evaluation' / re.sub(r'[^\w.=-]+', '-', words)
    _run(paper, [network], network.name, folder)


def ensemble(paper: Paper) -> None:
    """Evaluates the networks of --ensemble, the probabilities that they give averaged (section 6 of the AlexNet
    paper)."""
    require(len(FLAGS.ensemble) >= 2, '--ensemble needs two networks or more: --ensemble=DIR,DIR.')
    networks = [trained.find(paper, path) for path in FLAGS.ensemble]
    _run(paper, networks, 'ensemble', workdir.path(FLAGS.workdir, f'{paper.name}-ensemble'))


def _run(paper: Paper, networks: Sequence[Trained], name: str, folder: Path) -> None:
    networks = [trained.with_changes(network, FLAGS.set, MAY_BE_SET) for network in networks]
    first = networks[0].experiment
    members = [{'experiment': network.name, 'origin': network.origin, 'seed': network.experiment.seed,
                'steps': network.step, 'epochs': network.epochs, 'parameters': count(network.params)}
               for network in networks]
    identity = trained.identity(paper, name, FLAGS.set, first, None) | {
        'networks': [network.origin for network in networks]}
    workdir.claim(folder, identity)
    (folder / 'experiment.json').write_text(json.dumps(identity, indent=1))
    mesh = meshes.make(FLAGS.mesh)
    for network in networks:
        say(f'Network: {network.origin}')
    splits: dict[object, Split] = {}
    for network in networks:
        if network.experiment.data not in splits:
            splits[network.experiment.data] = sources.load_one(network.experiment.data, first.evaluation.split,
                                                               FLAGS.data_dir, CACHE)
    split = splits[first.data]
    for other in splits.values():
        require(other.name == split.name, f'The networks are judged on different data, {split.name} and {other.name}: '
                                          'give them one with --set data.source=NAME.')
    require(split.labels.max() < first.model.classes, f'{split.name} has more classes than the {first.model.classes} '
                                                      'outputs of the network: choose other data.')
    began, errors = time.monotonic(), []
    for crops in dict.fromkeys((first.evaluation.crops, 'centre')):
        batches = (evaluate.probabilities(network.task.predict, jax.device_put(network.params, meshes.everywhere(mesh)),
                                          splits[network.experiment.data], network.statistics, network.experiment.data,
                                          first.evaluation, crops, mesh) for network in networks)
        examples = evaluate.expected(split, first.evaluation)
        total = -(-examples // first.evaluation.batch_size)
        with jax.set_mesh(mesh):
            found = evaluate.count(track(_averaged(list(batches)), f'error, {CROPS[crops]}', total, console=console,
                                         transient=True), examples)
        errors.append({'split': first.evaluation.split, 'protocol': crops, 'top1': found.percent(found.top1),
                       'top5': found.percent(found.top5), 'seen': found.seen, 'loss': found.loss})
    published = paper.experiments[first.published]
    data = {'name': split.name, 'validation_name': split.name, 'train_examples': len(split),
            'validation_examples': len(split)}
    results = workdir.about(paper, name, first, diff(first, published), data, mesh) | {
        'members': members, 'errors': errors, 'seconds': time.monotonic() - began}
    report.write(folder, results)
    report.show(results, paper.tables, console, first.published, folder)


def _averaged(batches: Sequence[Iterator]) -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
    """Batches of `evaluate.probabilities` of several networks as one, the probabilities averaged."""
    for batch in zip(*batches, strict=True):
        yield sum(probabilities for probabilities, _, _ in batch) / len(batch), *batch[0][1:]
