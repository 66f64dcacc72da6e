"""Networks that have been trained: by a run, in its workdir or in one small file; or by others, in theirs."""
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lib import checkpoint, compact, importers
from lib.data import sources, statistics
from lib.data.sources import Split
from lib.data.statistics import Statistics
from lib.experiment import Comparison, Data, Experiment, UsageError, diff, fields, override, require
from lib.paper import Paper
from lib.task import Params, Task

IMAGENET = 1000     # outputs: weights of others with so many are ImageNet's


class Trained(NamedTuple):
    """A network with all that is needed to ask it something."""
    name: str                   # of its experiment
    experiment: Experiment
    task: Task
    params: Params              # numpy arrays
    statistics: Statistics
    origin: str                 # one line for a person
    classes: tuple[str, ...] | None     # the names of its outputs; None if they are not known
    step: int | None            # of its training; None if that is not known
    epochs: float | None
    init_from: str | None       # what its training started from, if not from new parameters


def find(paper: Paper, path: str) -> Trained:
    """The network in a workdir or in a file of weights, whichever the path is."""
    place = Path(path).expanduser().absolute()
    if place.is_dir():
        return from_workdir(paper, place)
    return from_weights(paper, place)


def identity(paper: Paper, name: str, assignments: Sequence[str], experiment: Experiment,
             init_from: str | None) -> dict[str, Any]:
    """What experiment.json of a workdir says, so that the run is continued as itself and found again."""
    return json.loads(json.dumps({'paper': paper.name, 'experiment': name, 'set': list(assignments),
                                  'init_from': init_from and str(Path(init_from).expanduser().absolute()),
                                  'fields': fields(experiment)}, default=repr))


def from_workdir(paper: Paper, workdir: str | Path) -> Trained:
    """The latest checkpoint of a run, finished or not; `workdir` may be the folder of one step in its checkpoints.

    Raises:
      UsageError: if it holds no run of this paper, or one that this version cannot read.
    """
    given, workdir = Path(workdir).expanduser().absolute(), run_folder(workdir)
    path = workdir / 'experiment.json'
    try:
        saved = json.loads(path.read_text())
        name, init_from = saved['experiment'], saved['init_from']
        if 'networks' in saved:
            raise UsageError(f'{workdir} holds an evaluation and no network: name the --workdir of a run.')
        written_by, classes = saved['paper'], tuple(saved['classes'])
    except FileNotFoundError as error:
        raise UsageError(f'{workdir} holds no run: name the --workdir of one.') from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f'{path} is damaged or of another version: run the experiment again.') from error
    if written_by != paper.name:
        raise UsageError(f'{workdir} holds a run of {written_by}: name one of {paper.name}.')
    experiment = _same(paper, saved, path)
    facts = statistics.load(workdir / 'statistics.npz')
    found = checkpoint.newest(given if given != workdir else workdir / 'checkpoints')
    step, progress = int(found.name), json.loads((found / 'progress.json').read_text())
    return Trained(name, experiment, paper.build(experiment),
                   checkpoint.read(found, 'average' if experiment.optimizer.averaging else 'params'), facts,
                   f'{paper.name} {name}, seed {experiment.seed}, step {step}: {workdir}',
                   classes, step, progress['epoch'], init_from)


def run_folder(workdir: str | Path) -> Path:
    """The folder of a run, given that or the folder of one of its steps."""
    given = Path(workdir).expanduser().absolute()
    of_step = given.parent.name == 'checkpoints' and given.name.isdigit() and not (given / 'experiment.json').exists()
    return given.parent.parent if of_step else given


def from_weights(paper: Paper, file: str | Path) -> Trained:
    """The network in a file of public weights, without the software that wrote it, or in one of `export`.

    Raises:
      UsageError: if the file cannot be read, or its weights are of no network of this paper.
    """
    path = Path(file).expanduser().absolute()
    ours = compact.read(path)
    if ours is not None:
        return _exported(paper, path, *ours)
    name, experiment, params = paper.convert(importers.read(path))
    facts = _one_mean(experiment.data)
    return Trained(name, experiment, paper.build(experiment), params, facts,
                   f'{experiment.summary}: {path}',
                   sources.imagenet_classes() if experiment.model.classes == IMAGENET else None, None, None, None)


def export(paper: Paper, workdir: str | Path, path: Path) -> Trained:
    """Writes the network of a run as one small file, which `from_weights` reads; of its results.json, if it has one,
    the file keeps the command, commit and errors.

    Raises:
      UsageError: if there is no such run, its parameters do not fit 16-bit numbers, or the file cannot be written.
    """
    network, folder = from_workdir(paper, workdir), run_folder(workdir)
    identity = json.loads((folder / 'experiment.json').read_text())
    results = folder / 'results.json'
    found = json.loads(results.read_text()) if results.exists() else {}
    about = {'step': network.step, 'epochs': network.epochs,
             'run': {key: found[key] for key in ('command', 'commit', 'date', 'machine', 'errors') if key in found}}
    compact.write(path, network.params, network.statistics, identity | about)
    return network


def _exported(paper: Paper, path: Path, params: Params, facts: Statistics, about: dict[str, Any]) -> Trained:
    if about['paper'] != paper.name:
        raise UsageError(f'{path} holds a network of {about["paper"]}: name one of {paper.name}.')
    experiment = _same(paper, about, path)
    return Trained(about['experiment'], experiment, paper.build(experiment), params, facts,
                   f'{paper.name} {about["experiment"]}, seed {experiment.seed}, step {about["step"]}, in 16 bits: '
                   f'{path.name}', tuple(about['classes']), about['step'], about['epochs'], about['init_from'])


def _same(paper: Paper, saved: dict[str, Any], path: Path) -> Experiment:
    """The experiment that a file describes, as long as this code means the same by it."""
    name, assignments = saved['experiment'], saved['set']
    experiment = paper.choose(name, assignments)
    if isinstance(experiment, Comparison):
        raise UsageError(f'{path.parent} holds a comparison of several networks: name the --workdir of one.')
    now = identity(paper, name, assignments, experiment, saved['init_from'])['fields']
    changed = [field for field, value in saved['fields'].items() if field not in now or now[field] != value]
    if changed:
        raise UsageError(f'{path} describes {name} in another version of this code, with another {", ".join(changed)}: '
                         'run the experiment again.')
    return experiment


def _one_mean(data: Data) -> Statistics:
    """What weights of others know of their training set. Images that are not resized are taken to be of the size that
    the network sees."""
    own = data.image_size - 2 * data.border if data.resize is None else data.resize
    return statistics.fixed(data.mean, own + 2 * data.border)


def require_same_classes(network: Trained, split: Split) -> None:
    """Raises UsageError if the labels of the split are not those of the network's outputs, as far as they are known."""
    if network.classes is None:
        fits = len(split.class_names) <= network.experiment.model.classes
    else:
        fits = network.classes == split.class_names
    if not fits:
        known = ', '.join(network.classes[:3]) + ', ...' if network.classes else \
            f'{network.experiment.model.classes} classes'
        theirs = ', '.join(split.class_names[:3])
        raise UsageError(f'{network.origin} tells {known} apart, and {split.name} has {theirs}, ...: choose data of '
                         'the same classes, or continue the training on it with --init_from.')


def differences(paper: Paper, network: Trained) -> dict[str, tuple[Any, Any]]:
    """The departures of a network's recipe from the published one, a start from elsewhere among them."""
    found = diff(network.experiment, paper.experiments[network.experiment.published])
    if network.init_from and not network.experiment.starts_from:
        found['init_from'] = (None, network.init_from)
    return found


def with_changes(network: Trained, assignments: Sequence[str], allowed: Sequence[str]) -> Trained:
    """The network with the assignments of `--set` made in what it is asked, not in what it is.

    Raises:
      UsageError: if an assignment is to a field that does not begin with one of `allowed`.
    """
    for assignment in assignments:
        if not assignment.strip().startswith(tuple(allowed)):
            raise UsageError(f'--set {assignment}: the network is as it was trained; what can be set is '
                             f'{", ".join(name + "*" * name.endswith(".") for name in allowed)}.')
    network = network._replace(experiment=override(network.experiment, assignments))
    data = network.experiment.data
    if network.step is None:        # weights of others: their mean is the same at every pixel, whatever the size
        return network._replace(statistics=_one_mean(data))
    if data.resize is not None:
        return network._replace(statistics=statistics.resized(network.statistics, data.resize + 2 * data.border))
    return network


def beginning(network: Trained, task: Task, experiment: Experiment) -> tuple[Params, list[str], list[str]]:
    """(layers to begin with, names of the layers that are new, names of those that are left out) for a training that
    starts from a network: layers of the same name are taken, of these only `starts_with` if the experiment says so,
    except that the last one may have another shape and is then new, as for other classes.

    Raises:
      UsageError: if the experiment wants another start, a layer of the same name has another shape, or one of
        `starts_with` is missing.
    """
    if experiment.starts_from not in (None, network.name):
        raise UsageError(f'This experiment starts from a run of {experiment.starts_from}: name one with --init_from, '
                         f'which now names {network.origin}.')
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    size = experiment.data.image_size
    outputs = jax.eval_shape(task.activations, shapes, jax.ShapeDtypeStruct((1, size, size, 3), np.float32))
    last = [layer for layer in outputs if layer in shapes][-1]      # pooling may follow it
    chosen = shapes if experiment.starts_with is None else experiment.starts_with
    missing = [layer for layer in experiment.starts_with or () if layer not in shapes or layer not in network.params]
    require(not missing, f'starts_with names {", ".join(missing)}: name layers that are both here and in '
                         f'{network.origin}.')
    taken, new = {}, []
    for layer, wanted in shapes.items():
        if layer not in chosen:
            new.append(layer)
        elif _sizes(network.params.get(layer)) == _sizes(wanted):
            taken[layer] = network.params[layer]
        elif layer == last or layer not in network.params:
            new.append(layer)
        else:
            raise UsageError(f'{layer} has {_words(network.params[layer])} in {network.origin} and {_words(wanted)} '
                             'here: choose the same model and data.image_size, or name the layers to take with --set '
                             'starts_with=[...].')
    return taken, new, [layer for layer in network.params if layer not in chosen]


def _sizes(layer: Mapping[str, Any] | None) -> dict[str, tuple[int, ...]] | None:
    return None if layer is None else {name: tuple(array.shape) for name, array in layer.items()}


def _words(layer: Mapping[str, Any]) -> str:
    return ' and '.join(f'a {name} of {"x".join(map(str, array.shape))}' for name, array in layer.items()
                        if math.prod(array.shape))
