"""What a training takes on devices that need not be there: memory, work, exchanges, and the least time of a step.

The training step itself is compiled ahead of time for the devices, from the shapes of its arrays alone. For GPUs there
is no compiler on other machines; there the memory is estimated, and the exchanges are those of the step compiled for as
many CPU devices. All figures are those of one device unless they say otherwise; times in seconds, sizes in bytes.
"""
import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from lib import collectives, geometry, train
from lib import mesh as meshes
from lib.collectives import Collective
from lib.data.statistics import Statistics
from lib.experiment import Data, Experiment, UsageError, change, require
from lib.hardware import Topology
from lib.task import Task


class Memory(NamedTuple):
    """Bytes on a device while a step runs."""
    parameters: int
    optimizer: int              # velocity, and what else the state of the training has
    inputs: int                 # images, labels and the statistics of the data set
    temporaries: int            # activations, gradients, and what the compiler lays out anew
    program: int

    @property
    def peak(self) -> int:
        return sum(self)


class Work(NamedTuple):
    """What a step cannot do without, on a device."""
    operations: float           # floating-point: 2 a multiply-add, forward, and backward to weights and to inputs
    traffic: float              # bytes: the state and the output of every layer, each written once and read once, and
    # the images


@dataclasses.dataclass(frozen=True)
class Plan:
    topology: Topology
    mesh: tuple[int, int]       # sizes of the axes `data` and `model`
    experiment: Experiment
    examples: int | None        # in the training set; None if that is not known
    image_bytes: int            # of an image as it is stored
    memory: Memory
    work: Work
    collectives: tuple[Collective, ...] | None      # forward, backward, of no layer, each in the order of the network;
    # None if the step was not compiled
    refused: str | None         # what the compiler said when the step did not fit
    compiled_operations: float | None       # what it counts, without the products with the zeros around an image, but
    compiled_traffic: float | None          # with everything else; the body of a loop once
    compile_seconds: float | None

    @property
    def fits(self) -> bool:
        return self.refused is None and self.memory.peak <= self.topology.memory

    @property
    def estimated(self) -> bool:
        """The memory is not the compiler's figure."""
        return self.compiled_operations is None

    @property
    def images(self) -> float:
        """Of a step."""
        return self.experiment.batch_size / self.mesh[0]

    @property
    def sent(self) -> float | None:
        """Bytes that a device sends in a step."""
        return None if self.collectives is None else sum(one.sent for one in self.collectives)

    @property
    def limits(self) -> dict[str, float]:
        """The time that a step takes at the least for each thing that it needs, at the peak rates of the device: {} for
        devices of which none are known."""
        rates = self.topology.rates
        if rates is None:
            return {}
        limits = {'compute': self.work.operations / rates.products(self.experiment.precision),
                  'memory': self.work.traffic / rates.bandwidth}
        return limits if self.sent is None else limits | {'interconnect': self.sent / rates.interconnect}

    @property
    def step(self) -> float | None:
        """The least time of a step, if computing, memory and interconnect never wait for each other."""
        return max(self.limits.values(), default=None)

    @property
    def epoch(self) -> float | None:
        return self._seconds(self.experiment.steps_at(1, self.examples)) if self.examples else None

    @property
    def run(self) -> float | None:
        """The least time of the whole recipe, evaluations left out."""
        return self._seconds(self.experiment.total_steps(self.examples)) if self.examples else None

    @property
    def images_per_second(self) -> float | None:
        """What all devices together consume at the least time of a step."""
        return self.step and self.experiment.batch_size / self.step

    def _seconds(self, steps: int) -> float | None:
        return self.step and steps * self.step


def make(task: Task, experiment: Experiment, topology: Topology, devices: Sequence[jax.Device], mesh: tuple[int, int],
         examples: int | None) -> Plan:
    """The plan of an experiment's training.

    Args:
      devices: `hardware.devices` of the topology.
      mesh: sizes of the axes `data` and `model`.
      examples: in the training set, None if that is not known.

    Raises:
      UsageError: if the mesh is not one of all devices, or does not divide the batch or the groups of a convolution.
    """
    data, model = mesh
    text = f'data:{data},model:{model}'
    require(data * model == topology.count, f'--mesh={text} has {data * model} devices and --topology={topology.text} '
                                            f'has {topology.count}: choose a mesh of all of them.')
    part, parts = experiment.optimizer.update_batch, experiment.optimizer.accumulation_steps
    name, batch = ('optimizer.update_batch', part) if part else ('batch_size', experiment.batch_size)
    name, batch = (f'a part of {name}', batch // parts) if parts > 1 else (name, batch)
    most = math.gcd(batch, topology.count)
    require(batch % data == 0, f'--mesh={text} does not divide {name}={batch}: make that a multiple of {data}, as in '
                               f'--set {name}={data}, or split feature maps too, as in --mesh=data:{most},'
                               f'model:{topology.count // most}.')
    state, memory = _held(task, experiment, mesh)
    common = dict(topology=topology, mesh=mesh, experiment=experiment, examples=examples,
                  image_bytes=3 * _stored(experiment.data)**2)
    network = geometry.measure(task, experiment.data.image_size)
    share = experiment.batch_size / topology.count      # images' worth of work that a device does
    outputs = share * sum(layer.output_bytes for layer in network.layers) / (1 + (experiment.precision == 'bfloat16'))
    first = sum(layer.multiply_adds for layer in network.layers if geometry.IMAGE in layer.reads)
    passes = 4 if experiment.rematerialize else 3       # forward, to the weights, to the inputs; forward again
    work = Work(2 * share * (passes * network.multiply_adds - first),
                2 * (memory.parameters + memory.optimizer + outputs) + memory.inputs)
    estimate = memory._replace(temporaries=memory.parameters + int(outputs / parts))
    nothing = dict(refused=None, compiled_operations=None, compiled_traffic=None, compile_seconds=None)
    if topology.platform == 'gpu' and topology.count == 1:
        return Plan(**common, memory=estimate, work=work, collectives=(), **nothing)
    started = time.monotonic()
    try:
        compiled = compile_step(task, experiment, _mesh(devices, mesh), state)
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        refused = str(error).split('RESOURCE_EXHAUSTED: ')[1].splitlines()[0]
        return Plan(**common, memory=estimate, work=work, collectives=None, **nothing | {'refused': refused})
    seconds = time.monotonic() - started
    order = [layer.name for layer in network.layers] + list(network.training_only) + [None]
    found = tuple(sorted(collectives.read(compiled.as_text(), state['params'], topology.count),
                         key=lambda one: (one.layer is None, one.backward, order.index(one.layer))))
    if topology.platform == 'gpu':
        return Plan(**common, memory=estimate, work=work, collectives=found, **nothing)
    sizes, counts = compiled.memory_analysis(), compiled.cost_analysis()
    temporaries = sizes.temp_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    # Arrays are padded to the device's tiles: what that adds to those that come in counts as input.
    inputs = sizes.argument_size_in_bytes - memory.parameters - memory.optimizer
    memory = memory._replace(inputs=inputs, temporaries=temporaries, program=sizes.generated_code_size_in_bytes)
    return Plan(**common, memory=memory, work=work, collectives=found, refused=None,
                compiled_operations=counts['flops'], compiled_traffic=counts['bytes accessed'],
                compile_seconds=seconds)


def alternatives(plan: Plan, task: Task, devices: Sequence[jax.Device]) -> Iterator[Plan]:
    """Plans for the same devices that may fit where one does not, compiled one by one: those with more of the devices
    on `model`, then those that work through the batch in two parts, four and so on, which is the same recipe; or
    through half the batch, a quarter and so on, where the recipe allows no parts. What holds too much before the first
    layer has run is left out."""
    (data, model), batch, optimizer = plan.mesh, plan.experiment.batch_size, plan.experiment.optimizer
    tries = [('batch_size', batch, (data // parts, model * parts)) for parts in _powers_of_two(2, data)
             if data % parts == 0]
    done, whole = optimizer.accumulation_steps, optimizer.fc_batch is None and optimizer.update_batch is None
    for parts in _powers_of_two(2, batch // data // done):
        if batch % (parts * done * data) == 0:
            tries.append(('optimizer.accumulation_steps', parts * done, plan.mesh) if whole else
                         ('batch_size', batch // parts, plan.mesh))
    for field, value, mesh in tries:
        try:
            experiment = change(plan.experiment, field, value)
            _, memory = _held(task, experiment, mesh)
            if memory.peak < plan.topology.memory:
                yield make(task, experiment, plan.topology, devices, mesh, plan.examples)
        except UsageError:
            continue    # this mesh does not divide the batch or the groups


def _powers_of_two(start: int, end: int) -> Iterator[int]:
    while start <= end:
        yield start
        start *= 2


def compile_step(task: Task, experiment: Experiment, mesh: Mesh, state: dict) -> jax.stages.Compiled:
    """The training step for a mesh, compiled from the shapes of its arrays; `state` is what `train.init` would give."""
    side, batch = _stored(experiment.data), experiment.batch_size
    with jax.set_mesh(mesh):
        placed = jax.tree.map(_abstract, state, train.placement(task, experiment, state, mesh))
        facts = jax.tree.map(lambda array: _abstract(array, meshes.everywhere(mesh)), _statistics(experiment.data))
        images, labels = (_abstract(jax.ShapeDtypeStruct(shape, kind), meshes.images(mesh))
                          for shape, kind in (((batch, side, side, 3), jnp.uint8), ((batch,), jnp.int32)))
        lowered = train.make_step(task, experiment).lower(placed, images, labels, facts, np.uint32(0), np.float32(0))
        with _names_in_cache():
            return lowered.compile()


@contextlib.contextmanager
def _names_in_cache() -> Iterator[None]:
    """Programs that differ in the names of their operations only are different ones to the cache of programs."""
    name, before = 'jax_compilation_cache_include_metadata_in_key', \
        jax.config.jax_compilation_cache_include_metadata_in_key
    jax.config.update(name, True)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _held(task: Task, experiment: Experiment, mesh: tuple[int, int]) -> tuple[dict, Memory]:
    """The state of a training, abstract, and the bytes on a device before the first layer has run."""
    abstract = jax.sharding.AbstractMesh(mesh, ('data', 'model'), axis_types=(AxisType.Auto,) * 2)
    state = jax.eval_shape(lambda: train.init(task, experiment, abstract))
    places = train.placement(task, experiment, state, abstract)
    sizes = {name: sum(_bytes(place.shard_shape(array.shape), array.dtype) for array, place in
                       zip(jax.tree.leaves(state[name]), jax.tree.leaves(places[name]))) for name in state}
    images = experiment.batch_size // mesh[0] * (3 * _stored(experiment.data)**2 + np.dtype(np.int32).itemsize)
    inputs = images + sum(_bytes(array.shape, array.dtype) for array in _statistics(experiment.data))
    return state, Memory(sizes.pop('params'), sum(sizes.values()), inputs, 0, 0)


def _abstract(array, place) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=place)


def _mesh(devices: Sequence[jax.Device], shape: tuple[int, int]) -> Mesh:
    return Mesh(np.array(devices).reshape(shape), ('data', 'model'), axis_types=(AxisType.Auto,) * 2)


def _bytes(shape: tuple[int, ...], kind: np.dtype) -> int:
    return math.prod(shape) * np.dtype(kind).itemsize


def _stored(data: Data) -> int:
    """Pixels a side of a stored image. Without data.resize they are those of the data set: here, as many as the network
    sees."""
    return data.resize + 2 * data.border if data.resize else data.image_size


def _statistics(data: Data) -> Statistics:
    side = _stored(data)
    whole = 3 * side**2 * data.whiten
    return Statistics(*(jax.ShapeDtypeStruct(shape, jnp.float32)
                        for shape in ((side, side, 3), (3,), (3, 3), (whole, whole))))
