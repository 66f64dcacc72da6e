"""What a paper is to the launch scripts: its name, experiments, network and tables."""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lib.effects import Effects
from lib.experiment import Comparison, Experiment, UsageError, override, require
from lib.geometry import Geometry
from lib.importers import Saved
from lib.races import Race
from lib.scaling import Scheme
from lib.tables import Table
from lib.task import Params, Task, in_bfloat16, rematerialized

TWO_STEPS = 'two steps in small'        # what tests see of an experiment of which nothing else is said


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a published network counts for one image, as its paper says or as follows from that."""
    network: str                                        # its name, with what it reads: 'AlexNet, 224x224x3'
    parameters: Mapping[str, int]                       # {layer: weights and biases}
    total: int
    sizes: Mapping[str, tuple[int, ...]]                # {layer: height, width and maps of its output, or units}
    multiply_adds: int                                  # of all convolutions and fully connected layers, forward
    receptive_field: int                                # pixels a side that the last maps see, border included

    def departures(self, built: Geometry) -> dict[str, tuple[Any, Any]]:
        """Where a network that was built departs from these counts: {what: (published, built)}, None for what one of
        them has not. Layers of which this knows neither size nor parameters are left out."""
        sizes, parameters = built.sizes, built.parameters
        pairs = {f'{layer}: size': (self.sizes.get(layer), sizes.get(layer)) for layer in self.sizes}
        pairs |= {f'{layer}: parameters': (self.parameters.get(layer), parameters.get(layer))
                  for layer in {**self.parameters, **parameters}}
        pairs |= {name: (getattr(self, name), getattr(built, name))
                  for name in ('total', 'multiply_adds', 'receptive_field')}
        return {what: pair for what, pair in pairs.items() if pair[0] != pair[1]}


@dataclasses.dataclass(frozen=True)
class Paper:
    """One folder of reproductions/.

    Raises:
      ValueError: if its tables or `seen` name an experiment that is not there.
    """
    name: str
    experiments: Mapping[str, Experiment | Comparison]
    network: Callable[[Experiment], Task]                           # in float32
    tables: Sequence[Table | Race | Effects]
    first_layer: str                                                # whose kernels are drawn
    convert: Callable[[Saved], tuple[str, Experiment, Params]]      # weights that others have published
    seen: Mapping[str, str]     # of experiments, what has been seen short of the paper's number, besides TWO_STEPS
    counts: Mapping[str, Counts]    # of the published networks, by their experiment
    lessons: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    # what to know of a layer of this paper only: {experiment: {layer: sentences}}
    scaling: Sequence[Scheme] = ()      # ways to share its training, for the table of what devices exchange

    def __post_init__(self) -> None:
        named = set(self.seen).union(*(table.experiments if isinstance(table, Table) else {table.experiment}
                                       for table in self.tables))
        if unknown := named - set(self.experiments):
            raise ValueError(f'{self.name} has no experiment {", ".join(sorted(unknown))} of its tables or SEEN')

    def evidence(self, name: str) -> str:
        """What has been seen of an experiment short of the paper's number."""
        return self.seen.get(name, TWO_STEPS)

    def build(self, experiment: Experiment) -> Task:
        """The network of an experiment, computed as that says."""
        task = self.network(experiment)
        task = in_bfloat16(task) if experiment.precision == 'bfloat16' else task
        return rematerialized(task) if experiment.rematerialize else task

    def choose(self, name: str, assignments: Sequence[str]) -> Experiment | Comparison:
        """An experiment by name, or an arm of a comparison as NAME/LABEL, with the assignments of `--set` made in it.

        Raises:
          UsageError: if there is no such experiment, or an assignment does not fit.
        """
        name, _, label = name.partition('/')
        if name not in self.experiments:
            raise UsageError(f'{self.name} has no experiment {name!r}. The experiments are: '
                             f'{", ".join(self.experiments)}.')
        chosen = self.experiments[name]
        if not isinstance(chosen, Comparison):
            require(not label, f'{name} is no comparison and has no arm {label!r}.')
            return override(chosen, assignments)
        if not label:
            return dataclasses.replace(chosen, base=override(chosen.base, assignments))
        require(label in chosen.labelled, f'{name} has no arm {label!r}. The arms are: {", ".join(chosen.labelled)}.')
        return override(chosen.experiment(chosen.labelled[label]), assignments)
