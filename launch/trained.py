"""Networks that have been trained: by a run, in its workdir, or by others, in a file of weights."""
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lib import checkpoint, importers
from lib.data import statistics
from lib.data.statistics import Statistics
from lib.experiment import Comparison, Experiment, UsageError, fields, override
from lib.paper import Paper
from lib.task import Params, Task


class Trained(NamedTuple):
    """A network with all that is needed to ask it something."""
    name: str                   # of its experiment
    experiment: Experiment
    task: Task
    params: Params              # numpy arrays
    statistics: Statistics
    origin: str                 # one line for a person
    step: int | None            # of its training; None if that is not known
    epochs: float | None


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
                                  'init_from': init_from, 'fields': fields(experiment)}, default=repr))


def from_workdir(paper: Paper, workdir: str | Path) -> Trained:
    """The latest checkpoint of a run, finished or not; `workdir` may be the folder of one step in its checkpoints.

    Raises:
      UsageError: if it holds no run of this paper, or one that this version cannot read.
    """
    given = Path(workdir).expanduser().absolute()
    workdir = given.parent.parent if given.parent.name == 'checkpoints' else given
    path = workdir / 'experiment.json'
    try:
        saved = json.loads(path.read_text())
        name, assignments, init_from = saved['experiment'], saved['set'], saved['init_from']
        written_by = saved['paper']
        if 'networks' in saved:
            raise UsageError(f'{workdir} holds an evaluation and no network: name the --workdir of a run.')
    except FileNotFoundError as error:
        raise UsageError(f'{workdir} holds no run: name the --workdir of one.') from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f'{path} is damaged or of another version: run the experiment again.') from error
    if written_by != paper.name:
        raise UsageError(f'{workdir} holds a run of {written_by}: name one of {paper.name}.')
    experiment = paper.choose(name, assignments)
    if isinstance(experiment, Comparison):
        raise UsageError(f'{workdir} holds a comparison of several networks: name the --workdir of one.')
    if identity(paper, name, assignments, experiment, init_from) != saved:
        raise UsageError(f'{path} describes {name} in another version of this code: run the experiment again.')
    facts = statistics.load(workdir / 'statistics.npz')
    found = checkpoint.newest(given if given != workdir else workdir / 'checkpoints')
    step, progress = int(found.name), json.loads((found / 'progress.json').read_text())
    return Trained(name, experiment, paper.build(experiment), checkpoint.read(found), facts,
                   f'{paper.name} {name}, seed {experiment.seed}, step {step}: {workdir}', step, progress['epoch'])


def from_weights(paper: Paper, file: str | Path) -> Trained:
    """The network in a file of public weights, without the software that wrote it.

    Raises:
      UsageError: if the file cannot be read, or its weights are of no network of this paper.
    """
    path = Path(file).expanduser().absolute()
    name, experiment, params = paper.convert(importers.read(path))
    facts = statistics.fixed(experiment.data.mean, experiment.data.resize)
    return Trained(name, experiment, paper.build(experiment), params, facts,
                   f'{experiment.summary}: {path}', None, None)


def with_changes(network: Trained, assignments: Sequence[str], allowed: Sequence[str]) -> Trained:
    """The network with the assignments of `--set` made in what it is asked, not in what it is.

    Raises:
      UsageError: if an assignment is to a field that does not begin with one of `allowed`.
    """
    for assignment in assignments:
        if not assignment.strip().startswith(tuple(allowed)):
            raise UsageError(f'--set {assignment}: the network is as it was trained; what can be set is '
                             f'{", ".join(name + "*" * name.endswith(".") for name in allowed)}.')
    return network._replace(experiment=override(network.experiment, assignments))


def beginning(network: Trained, task: Task, experiment: Experiment) -> tuple[Params, list[str]]:
    """(layers to begin with, names of the layers that are new) for a training that starts from a network: layers of
    the same name are taken, except that the last one may have another shape and is then new, as for other classes.

    Raises:
      UsageError: if the experiment wants another start, or a layer of the same name has another shape.
    """
    if experiment.starts_from not in (None, network.name):
        raise UsageError(f'This experiment starts from a run of {experiment.starts_from}: name one with --init_from, '
                         f'which now names {network.origin}.')
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    size = experiment.data.image_size
    last = list(jax.eval_shape(task.activations, shapes, jax.ShapeDtypeStruct((1, size, size, 3), np.float32)))[-1]
    taken, new = {}, []
    for layer, wanted in shapes.items():
        if _sizes(network.params.get(layer)) == _sizes(wanted):
            taken[layer] = network.params[layer]
        elif layer == last or layer not in network.params:
            new.append(layer)
        else:
            raise UsageError(f'{layer} has {_words(network.params[layer])} in {network.origin} and {_words(wanted)} '
                             'here: choose the same model and data.image_size.')
    return taken, new


def _sizes(layer: Mapping[str, Any] | None) -> dict[str, tuple[int, ...]] | None:
    return None if layer is None else {name: tuple(array.shape) for name, array in layer.items()}


def _words(layer: Mapping[str, Any]) -> str:
    return ' and '.join(f'a {name} of {"x".join(map(str, array.shape))}' for name, array in layer.items()
                        if math.prod(array.shape))
