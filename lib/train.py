"""One training loop for all papers: batch k, its crops and its dropout are pure functions of (seed, k), so a run that
was interrupted anywhere continues at its step, and ends with the same bits where the device adds in a fixed order."""
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lib import mesh as meshes
from lib import optimizers
from lib.checkpoint import Checkpoints
from lib.data import augment, batches
from lib.data.sources import Split
from lib.evaluate import evaluate, require_possible
from lib.experiment import Evaluation, Experiment, UsageError, in_words, require
from lib.task import Params, Task

LOG_EVERY = 20      # steps between two lines of metrics.jsonl


class Interrupted(Exception):
    """Training stopped because it was asked to; everything up to `step` is saved."""

    def __init__(self, step: int):
        super().__init__(f'stopped at step {step}')
        self.step = step


class Diverged(UsageError):
    """The loss is no longer a number. `outcome` has what was measured before, and no parameters."""

    def __init__(self, loss: float, outcome: 'Outcome'):
        super().__init__(f'The loss is {loss} at step {outcome.step}: the training has diverged; start again in '
                         'another --workdir with a smaller --set optimizer.learning_rate.')
        self.outcome = outcome


class Outcome(NamedTuple):
    """The end of a training."""
    params: dict
    step: int
    epoch: float
    evaluations: list[dict]     # during training: step, epoch, split, protocol, top1 and top5 in %, seen, loss
    errors: list[dict]          # of the final parameters, as above, one for each protocol
    seconds: float              # of training and evaluation, over all resumptions
    processes: list[dict]       # what `process` told in each that took a step


def make_step(task: Task, experiment: Experiment) -> Callable:
    """The compiled training step: (state, images uint8, labels, statistics, step number, learning rate) to
    (state, mean loss, that of auxiliary classifiers left out, number of wrong answers). State is {'params',
    'velocity'}, two trees alike, and is donated; so are 'average' with `optimizer.averaging` and 'curvature' with
    `optimizer.curvature`.

    Raises:
      UsageError: if `optimizer.fc_batch` or `optimizer.curvature` is set and the network cannot.
    """
    optimizer = experiment.optimizer
    require(optimizer.fc_batch is None or task.head is not None,
            f'optimizer.fc_batch={optimizer.fc_batch} is for networks that end in fully connected layers without batch '
            'normalisation: leave it at none.')
    require(optimizer.curvature is None or task.curvature is not None,
            f'optimizer.curvature={optimizer.curvature} is for networks that estimate it: leave it at none.')

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, images, labels, statistics, number, learning_rate):
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(experiment.seed), number))
        crops = augment.train(augment_key, images, statistics, experiment.data)
        advance = _whole_batch if optimizer.fc_batch is None else _variable_batch
        advance = advance if optimizer.update_batch is None else _in_parts
        rest = {name: tree for name, tree in state.items() if name not in ('params', 'velocity')}
        state, loss, logits = advance(task, optimizer, state, crops, labels, dropout_key, learning_rate)
        state |= rest
        if optimizer.averaging:
            state['average'] = optimizers.moving_average(optimizer.averaging, number, state['average'], state['params'])
        state = meshes.settle(state, () if optimizer.fc_batch is None else task.head.layers)
        return state, loss, (logits.argmax(-1) != labels).sum()

    return step


def _whole_batch(task, optimizer, state, images, labels, key, learning_rate):
    gradient = jax.value_and_grad(task.loss, has_aux=True)
    if optimizer.accumulation_steps > 1:
        gradient = functools.partial(_accumulated, gradient, optimizer.accumulation_steps)
    (loss, (logits, moved)), gradients = gradient(state['params'], images, labels, key)
    loss = loss if task.own_loss is None else task.own_loss(logits, labels)
    params, velocity = optimizers.update(optimizer, learning_rate, gradients, state['velocity'], state['params'],
                                         state.get('curvature'))
    params |= {layer: params[layer] | values for layer, values in moved.items()}
    return {'params': params, 'velocity': velocity}, loss, logits


def _accumulated(gradient, parts, params, images, labels, key):
    """What `gradient` returns for the whole batch, found for one part of it after the other: means, and all logits. Of
    each device's images every part has as many, so that none is moved."""
    images, labels = (array.reshape(-1, parts, *array.shape[1:]) for array in (images, labels))

    def add(total, part):
        number, key = part
        own = (jax.lax.dynamic_index_in_dim(array, number, 1, keepdims=False) for array in (images, labels))
        (loss, (logits, moved)), gradients = gradient(params, *own, key)
        return jax.tree.map(jnp.add, total, gradients), (loss, logits, moved)

    # XLA:CPU has no fast gradients of convolutions inside a loop.
    total, (losses, logits, moved) = jax.lax.platform_dependent(
        jax.tree.map(jnp.zeros_like, params), (jnp.arange(parts), jax.random.split(key, parts)),
        cpu=functools.partial(jax.lax.scan, add, unroll=True), default=functools.partial(jax.lax.scan, add))
    logits = logits.swapaxes(0, 1).reshape(images.shape[0] * parts, -1)
    mean = jax.tree.map(lambda values: values.mean(0), (losses, moved))
    return (mean[0], (logits, mean[1])), jax.tree.map(lambda gradients: gradients / parts, total)


def _in_parts(task, optimizer, state, images, labels, key, learning_rate):
    """A step of the optimiser for every `update_batch` examples, one after the other."""
    curvature = {name: tree for name, tree in state.items() if name == 'curvature'}

    def advance(state, part):
        state, loss, logits = _whole_batch(task, optimizer, state | curvature, *part, learning_rate)
        return state, (loss, logits)

    pieces = len(images) // optimizer.update_batch
    parts = (array.reshape(pieces, optimizer.update_batch, *array.shape[1:]) for array in (images, labels))
    own = {name: state[name] for name in ('params', 'velocity')}
    state, (losses, logits) = jax.lax.scan(advance, own, (*parts, jax.random.split(key, pieces)))
    return state, losses.mean(), logits.reshape(len(images), -1)


def make_curvature(task: Task, experiment: Experiment) -> Callable:
    """The compiled estimate of the curvature: (params, images uint8, statistics, step number) to a tree like the
    parameters."""
    @jax.jit
    def estimate(params, images, statistics, number):
        key = jax.random.fold_in(jax.random.key(experiment.seed), number)
        return meshes.settle(task.curvature(params, augment.train(key, images, statistics, experiment.data)))

    return estimate


def evaluated(state: dict) -> Params:
    """The parameters of a state that are the result: their moving average, where there is one."""
    return state.get('average', state['params'])


def _variable_batch(task, optimizer, state, images, labels, key, learning_rate):
    """Krizhevsky 2014, "One weird trick", section 4: the fully connected layers take a step every `fc_batch` examples,
    the convolutions one with the mean of all the gradients that come back. On a mesh the devices of `data` share the
    images among them for the convolutions, and the feature maps for the fully connected layers."""
    head, names = task.head, task.head.layers

    def part(tree, of_head):
        return {layer: values for layer, values in tree.items() if (layer in names) == of_head}

    trunk, end = part(state['params'], False), part(state['params'], True)
    features, back = jax.vjp(lambda trunk: head.features(trunk | end, images, key), trunk)
    pieces = len(images) // optimizer.fc_batch

    def advance(carry, piece):
        end, velocity = carry
        features, labels, key = piece
        gradient = jax.value_and_grad(lambda end, features: head.loss(trunk | end, features, labels, key), (0, 1),
                                      has_aux=True)
        (loss, logits), (gradients, returned) = gradient(end, features)
        rate = learning_rate * optimizer.fc_learning_rate
        return optimizers.update(optimizer, rate, gradients, velocity, end), (returned, loss, logits)

    def in_pieces(array):
        return array.reshape(pieces, optimizer.fc_batch, *array.shape[1:])

    with meshes.model_parallel():
        (end, end_velocity), (returned, losses, logits) = jax.lax.scan(
            advance, (end, part(state['velocity'], True)),
            (in_pieces(features), in_pieces(labels), jax.random.split(key, pieces)))
    gradients, = back(returned.reshape(features.shape) / pieces)
    trunk, velocity = optimizers.update(optimizer, learning_rate, gradients, part(state['velocity'], False), trunk)
    state = {'params': trunk | end, 'velocity': velocity | end_velocity}
    return state, losses.mean(), logits.reshape(len(images), -1)


def init(task: Task, experiment: Experiment, mesh, start: Params | None = None) -> dict:
    """The state before the first step, every array on the devices that hold it: new parameters, save those of the
    layers in `start`."""
    def make(key, start):
        params = task.init(key) | start
        state = {'params': params, 'velocity': jax.tree.map(jnp.zeros_like, params)}
        if experiment.optimizer.averaging:
            state['average'] = jax.tree.map(jnp.copy, params)
        if experiment.optimizer.curvature is not None:
            state['curvature'] = jax.tree.map(jnp.zeros_like, params)
        return state

    given = jax.random.key(experiment.seed), start or {}
    return jax.jit(make, out_shardings=placement(task, experiment, jax.eval_shape(make, *given), mesh))(*given)


def placement(task: Task, experiment: Experiment, state: dict, mesh) -> dict:
    """Where each array of the state lies. With `optimizer.fc_batch`, all devices share the fully connected layers."""
    return meshes.placement(state, mesh, () if experiment.optimizer.fc_batch is None else task.head.layers)


def fit(task: Task, experiment: Experiment, train: Split, validation: Split, statistics, mesh, workdir: Path,
        console: Console, stop: Callable[[], bool], start: Params | None = None,
        process: Callable[[], dict] = dict) -> Outcome:
    """Trains until `experiment` says it is over, evaluating, saving and logging to `workdir` on the way.

    Layers in `start` begin with the parameters there, the others with new ones. The error before the first step is
    measured too. `stop()` is asked after every step and batch of an evaluation. `process()` tells of this process what
    JSON can hold; checkpoints keep that of all that took a step.

    Raises:
      Interrupted: if `stop()` became true. The same call continues there.
      UsageError: as `require_trainable`, or if there are more classes than outputs.
      Diverged: if the loss is no longer a number.
    """
    outputs = require_trainable(task, experiment, mesh)
    labels = 1 + int(max(train.labels.max(), validation.labels.max()))
    if labels > outputs:
        raise UsageError(f'{train.name} has labels for {labels} classes and the network {outputs} outputs: set '
                         f'model.classes to at least {labels}.')
    with jax.set_mesh(mesh):
        return _Training(task, experiment, train, validation, statistics, mesh, workdir, console, stop, start,
                         process).run()


def require_trainable(task: Task, experiment: Experiment, mesh: Mesh) -> int:
    """Checks what can be known without data, and gives the number of the network's outputs.

    Raises:
      UsageError: if the mesh does not divide the batch or the groups of a convolution, the network cannot be judged as
        `experiment.evaluation` says, or the optimizer names a layer that is not there.
    """
    if experiment.batch_size % mesh.shape['data'] or experiment.evaluation.batch_size % mesh.shape['data']:
        raise UsageError(f'--mesh has data:{mesh.shape["data"]}, which does not divide batch_size='
                         f'{experiment.batch_size} and evaluation.batch_size={experiment.evaluation.batch_size}.')
    if experiment.optimizer.update_batch and experiment.optimizer.update_batch % mesh.shape['data']:
        raise UsageError(f'--mesh has data:{mesh.shape["data"]}, which does not divide optimizer.update_batch='
                         f'{experiment.optimizer.update_batch}: choose a mesh without it.')
    if experiment.batch_size % (experiment.optimizer.accumulation_steps * mesh.shape['data']):
        raise UsageError(f'--mesh has data:{mesh.shape["data"]}, which does not divide each of the '
                         f'optimizer.accumulation_steps={experiment.optimizer.accumulation_steps} parts of batch_size='
                         f'{experiment.batch_size}: make one of them smaller.')
    require_possible(task, experiment.data, experiment.evaluation)
    layers = jax.eval_shape(task.init, jax.random.key(0))
    for field in ('layer_weight_decay', 'layer_learning_rate'):
        unknown = [layer for layer, _ in getattr(experiment.optimizer, field) if layer not in layers]
        require(not unknown, f'optimizer.{field} names {", ".join(unknown)}; the layers are: {", ".join(layers)}.')
    size = experiment.data.image_size
    images = jax.ShapeDtypeStruct((experiment.evaluation.batch_size, size, size, 3), np.float32)
    with jax.set_mesh(mesh):
        return jax.eval_shape(task.predict, layers, images).shape[1]


class _Training:
    """The state of one call of `fit`: arrays on devices, evaluations so far, and what is on disk."""

    def __init__(self, task, experiment, train, validation, statistics, mesh, workdir, console, stop, start, process):
        self.task, self.experiment, self.train, self.mesh = task, experiment, train, mesh
        self.judged = validation if experiment.evaluation.split == 'validation' else train
        self.statistics = jax.device_put(statistics, meshes.everywhere(mesh))
        self.console, self.stop, self.process = console, stop, process
        self.metrics = workdir / 'metrics.jsonl'
        if self.metrics.exists() and not self.metrics.read_bytes().endswith(b'\n'):
            self.metrics.open('a').write('\n')      # a line torn by a crash takes no other with it
        self.checkpoints = Checkpoints(workdir / 'checkpoints')
        # Several CPU devices share one pool of threads, where two steps in flight can wait for each other for ever.
        self.one_at_a_time = mesh.size > 1 and jax.default_backend() == 'cpu'
        self.started = self.saved_at = time.monotonic()
        state = jax.eval_shape(functools.partial(init, task, experiment, mesh))
        place = placement(task, experiment, state, mesh)
        abstract = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), state, place)
        restored = self.checkpoints.restore(abstract)
        if restored:
            self.step, self.state, progress = restored
            self.evaluations, self.seconds_before = progress['evaluations'], progress['seconds']
            self.processes_before = progress.get('processes', [])
            self.losses, self.wrong = (list(map(kind, values)) for kind, values in zip(
                (np.float32, np.int32), progress.get('unlogged', ((), ()))))
            console.print(f'Continuing at step {self.step}.')
        else:
            self.step, self.state = 0, init(task, experiment, mesh, start)
            self.evaluations, self.seconds_before, self.processes_before = [], 0.0, []
            self.losses, self.wrong = [], []        # of every step since the last line of metrics.jsonl
        self.began_at = self.step
        self.saved_step = self.step if restored else None
        self.total = max(experiment.total_steps(len(train)), self.step)     # a run is not shortened after the fact

    @property
    def epoch(self) -> float:
        return self.step * self.experiment.batch_size / len(self.train)

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    @property
    def processes(self) -> list[dict]:
        return self.processes_before + [self.process()] * (self.step > self.began_at)

    def run(self) -> Outcome:
        columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TextColumn('left'), TimeRemainingColumn(), TextColumn('{task.fields[note]}'))
        with Progress(*columns, console=self.console, transient=True) as bars:
            self.bars = bars
            self.bar = bars.add_task('training step', total=self.total, completed=self.step, note='compiling')
            try:
                self._loop()
                errors = [self.evaluations[-1]]
                evaluation = self.experiment.evaluation
                if evaluation != evaluation.during_training:
                    errors.insert(0, self._evaluate(evaluation))
            finally:
                self.checkpoints.wait()
        return Outcome(evaluated(self.state), self.step, self.epoch, self.evaluations, errors, self.seconds,
                       self.processes)

    def _loop(self):
        experiment, examples = self.experiment, len(self.train)
        every = experiment.evaluation.epochs_between
        regular = {experiment.steps_at(e, examples) for e in range(0, experiment.epochs + 1, every)}
        judge_at = regular | {self.total}
        keep_at = {experiment.steps_at(e, examples) for e in experiment.checkpoint.keep}
        step, estimate = make_step(self.task, experiment), make_curvature(self.task, experiment)
        compiled = None
        estimate_at = {experiment.steps_at(e, examples) for e in range(experiment.epochs)}
        ahead = batches.training(self.train, experiment.seed, experiment.batch_size, self.step)
        since, first = time.monotonic(), self.step
        try:
            while True:
                evaluated = bool(self.evaluations) and self.evaluations[-1]['step'] == self.step
                best = False
                if self.step in judge_at and not evaluated:
                    best = self._judge()
                    self.saved_step = None          # an interruption before this saved the step without what it brought
                    since = time.monotonic()
                over = self.step >= self.total or self._good_enough()
                self._save_if(over or best or self.step in keep_at, self.step in keep_at, best)
                if over:
                    return
                if self.stop():
                    self._interrupt()
                number, images, labels = next(ahead)
                assert number == self.step
                errors = [e['top1'] for e in self.evaluations if e['step'] in regular]
                rate = optimizers.learning_rate(experiment, examples, self.step, errors)
                put = functools.partial(jax.device_put, device=meshes.images(self.mesh))
                if experiment.optimizer.curvature is not None and self.step in estimate_at:
                    some = batches.indices(experiment.seed, self.step, examples, experiment.optimizer.curvature)
                    self.state['curvature'] = estimate(self.state['params'], put(self.train.images[some]),
                                                       self.statistics, np.uint32(self.step))
                arguments = put(images), put(labels), self.statistics, np.uint32(self.step), np.float32(rate)
                compiled = compiled or self._compile(step, *arguments)
                self.state, loss, wrong = compiled(self.state, *arguments)
                if self.one_at_a_time:
                    jax.block_until_ready(self.state)
                self.step += 1
                self.losses.append(loss)
                self.wrong.append(wrong)
                if self.step % LOG_EVERY == 0 or self.step in judge_at:
                    self._log_steps(rate, self.step - first, since)
                    since, first = time.monotonic(), self.step
                self.bars.advance(self.bar)
        finally:
            ahead.close()

    def _compile(self, step, *arguments):
        """The training step for such arguments, after telling what memory it takes, where the compiler knows that."""
        compiled = step.lower(self.state, *arguments).compile()
        memory = compiled.memory_analysis()
        if memory is not None:
            held, needed = (size / 2**20 for size in (memory.argument_size_in_bytes, memory.temp_size_in_bytes))
            self.console.print(
                f'Memory of a training step, per device: {held + needed:.1f} MiB, {held:.1f} of them for parameters, '
                f'their velocity and the batch, {needed:.1f} while it runs.', soft_wrap=True)
        return compiled

    def _log_steps(self, rate, steps, since):
        """Logs what came since the last time; `steps` of it by this process, since the time `since`."""
        images = len(self.losses) * self.experiment.batch_size
        loss = float(sum(jax.device_get(self.losses))) / len(self.losses)
        speed = steps * self.experiment.batch_size / (time.monotonic() - since)     # the line above waits for the steps
        error = 100 * float(sum(jax.device_get(self.wrong))) / images
        self.losses, self.wrong = [], []
        self._log({'kind': 'train', 'step': self.step, 'epoch': self.epoch, 'loss': loss, 'error': error,
                   'learning_rate': rate, 'images_per_second': speed})
        self.bars.update(self.bar, note=f'epoch {self.epoch:.1f}, loss {loss:.3f}, {speed:.0f} images/s')
        if not loss < float('inf'):
            raise Diverged(loss, Outcome({}, self.step, self.epoch, self.evaluations, self.evaluations[-1:],
                                         self.seconds, self.processes))

    def _judge(self) -> bool:
        """Evaluates with one central crop; true if no evaluation after the start had a lower top-1 error."""
        record = self._evaluate(self.experiment.evaluation.during_training)
        before = [e['top1'] for e in self.evaluations if e['step']]
        self.evaluations.append(record)
        return self.step > 0 and record['top1'] < min(before, default=float('inf'))

    def _evaluate(self, evaluation: Evaluation) -> dict:
        words = in_words(evaluation.protocol)
        bar = self.bars.add_task(f'error, {words}', total=len(self.judged), note='')

        def each(seen):
            self.bars.update(bar, completed=seen)
            if self.stop():
                self._interrupt()

        try:
            found = evaluate(self.task, evaluated(self.state), self.judged, self.statistics, self.experiment.data,
                             evaluation, self.mesh, each=each)
        finally:
            self.bars.remove_task(bar)
        record = {'step': self.step, 'epoch': self.epoch, 'split': self.experiment.evaluation.split,
                  'protocol': evaluation.protocol, **found.record()}
        self._log({'kind': 'evaluation', **record})
        self.console.print(f'epoch {self.epoch:6.2f}  step {self.step:7d}  {record["split"]} error, {words}: '
                           f'top-1 {record["top1"]:.2f} %, top-5 {record["top5"]:.2f} %, loss {record["loss"]:.3f}',
                           soft_wrap=True)
        return record

    def _good_enough(self) -> bool:
        target = self.experiment.evaluation.stop_below
        return target is not None and bool(self.evaluations) and self.evaluations[-1]['top1'] < target

    def _save_if(self, wanted: bool, permanent: bool, best: bool):
        due = time.monotonic() - self.saved_at > 60 * self.experiment.checkpoint.minutes
        if (wanted or due) and self.saved_step != self.step:
            self._save(permanent=permanent, best=best)

    def _save(self, **marks):
        unlogged = [[value.item() for value in jax.device_get(values)] for values in (self.losses, self.wrong)]
        progress = {'evaluations': self.evaluations, 'seconds': self.seconds, 'epoch': self.epoch, 'unlogged': unlogged,
                    'processes': self.processes}
        self.checkpoints.save(self.step, self.state, progress, **marks)
        self.saved_at, self.saved_step = time.monotonic(), self.step

    def _interrupt(self):
        if self.saved_step != self.step:
            self._save()
        self.checkpoints.wait()
        raise Interrupted(self.step)

    def _log(self, record: dict):
        with self.metrics.open('a') as file:
            file.write(json.dumps(record) + '\n')
