"""An experiment is data: frozen dataclasses that say what is trained, on what, how, and how it is judged.

A paper's recipe is one `Experiment`; an ablation is `dataclasses.replace` of it, or `override` with the words of a
command line (`--set optimizer.learning_rate=0.02`). Code reads these values and never adds a default of its own.
"""
import ast
import collections
import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal


class UsageError(Exception):
    """A mistake that the person at the keyboard can mend. Its message is one sentence that says how; launch scripts
    print it without a traceback and exit with 2."""


def require(condition: bool, sentence: str) -> None:
    """Raises UsageError with the sentence unless the condition holds."""
    if not condition:
        raise UsageError(sentence)


@dataclasses.dataclass(frozen=True)
class Data:
    """What is read, and how it is changed before the network sees it. Pixels are raw RGB values from 0 to 255."""
    source: str                             # 'digits', 'folder:PATH', or a TFDS name: 'cifar10', 'imagenette/160px-v2'
    image_size: int                         # pixels a side, as the network sees them
    train_split: str = 'train'              # TFDS notation in the original order: 'train[:40000]'
    validation_split: str = 'validation'
    resize: int | None = None               # pixels: the shorter side, then the central square; None keeps the size
    mean: Literal['pixel', 'channel'] | tuple[float, float, float] = 'pixel'    # what is subtracted: a mean image of
    # the training set, its one mean a channel, or these three numbers for R, G and B
    pixel_scale: float = 1.0                # centred pixels are divided by this
    random_crop: bool = False               # training crops at random places, otherwise from the centre
    reflect: bool = False                   # training images are mirrored with probability 1/2
    color_noise: float = 0.0                # standard deviation of alpha in the PCA colour noise; 0 for none
    color_noise_scale: Literal['deviation', 'eigenvalue'] = 'deviation'     # what alpha multiplies

    def __post_init__(self):
        given = isinstance(self.mean, tuple) and len(self.mean) == 3 and all(0 <= number <= 255 for number in self.mean)
        require(given or self.mean in ('pixel', 'channel'),
                f'data.mean={self.mean} must be pixel, channel or [R,G,B], three numbers from 0 to 255.')
        require(self.pixel_scale > 0, f'data.pixel_scale={self.pixel_scale} must be positive.')
        require(self.color_noise >= 0, f'data.color_noise={self.color_noise} must not be negative.')


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Stochastic gradient descent with momentum. Decay is per unit of learning rate, as in the papers' update rule."""
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    layer_weight_decay: tuple[tuple[str, float], ...] = ()  # (layer, decay) where it differs from weight_decay
    bias_weight_decay: bool = False
    bias_learning_rate: float = 1.0         # as a multiple of the weights' learning rate
    schedule: Literal['constant', 'plateau', 'steps', 'cosine'] = 'constant'
    drop_factor: float = 10.0               # the learning rate is divided by this
    drops: int = 3                          # 'plateau': at most this often
    patience: int = 5                       # 'plateau': after this many evaluations without a new lowest error
    drop_epochs: tuple[float, ...] = ()     # 'steps': after so many epochs
    fc_batch: int | None = None             # the fully connected layers step every so many examples; None: once a batch
    fc_learning_rate: float = 1.0           # with fc_batch: theirs, as a multiple of the learning rate

    def __post_init__(self):
        require(self.learning_rate > 0, f'optimizer.learning_rate={self.learning_rate} must be positive.')
        require(0 <= self.momentum < 1, f'optimizer.momentum={self.momentum} must be at least 0 and below 1.')
        require(self.drop_factor > 0, f'optimizer.drop_factor={self.drop_factor} must be positive.')
        require(self.patience >= 1, f'optimizer.patience={self.patience} must be at least 1.')
        require(self.fc_batch is None or self.fc_batch >= 1,
                f'optimizer.fc_batch={self.fc_batch} must be at least 1, or none for the whole batch.')


CROPS = {'centre': 'one central crop', 'ten': 'ten crops averaged'}      # the protocols in words


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How error is measured: on every example of the split, exactly once."""
    split: Literal['train', 'validation'] = 'validation'
    crops: Literal['centre', 'ten'] = 'centre'  # of the final figures; during training one central crop is used
    batch_size: int = 128                   # images, before they become crops
    epochs_between: int = 1                 # epochs of training between two evaluations
    examples: int | None = None             # the first so many examples of the split; None for all of them
    stop_below: float | None = None         # %: training ends at the first evaluation with less top-1 error

    def __post_init__(self):
        require(self.batch_size >= 1, f'evaluation.batch_size={self.batch_size} must be at least 1.')
        require(self.epochs_between >= 1, f'evaluation.epochs_between={self.epochs_between} must be at least 1.')
        require(self.examples is None or self.examples >= 1,
                f'evaluation.examples={self.examples} must be at least 1, or none for all.')


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Which steps stay on disk, besides the latest and the best."""
    keep: tuple[int, ...] = ()              # epochs
    minutes: float = 10.0                   # between two saves within an epoch


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One training with its evaluation. `model` is the paper's own frozen dataclass."""
    summary: str                            # one line for --list
    source: str                             # the table row or section of the paper that this reproduces
    published: str                          # the experiment with the recipe as published; differences are from it
    model: Any
    data: Data
    optimizer: Optimizer
    batch_size: int                         # examples a step, over all devices
    epochs: int
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    seed: int = 0
    steps: int | None = None                # ends a run early; None for all the epochs
    starts_from: str | None = None          # the experiment whose parameters --init_from has to give; None for new ones

    def __post_init__(self):
        require(self.batch_size >= 1, f'batch_size={self.batch_size} must be at least 1.')
        require(self.batch_size % (self.optimizer.fc_batch or 1) == 0,
                f'optimizer.fc_batch={self.optimizer.fc_batch} must divide batch_size={self.batch_size}.')
        require(self.epochs >= 1, f'epochs={self.epochs} must be at least 1.')
        require(self.steps is None or self.steps >= 1, f'steps={self.steps} must be at least 1, or none.')
        require(0 <= self.seed < 2**32, f'seed={self.seed} must be at least 0 and below 2^32.')

    def steps_at(self, epochs: float, examples: int) -> int:
        """The number of steps after which every one of `examples` images has been used `epochs` times."""
        return int(-(-epochs * examples // self.batch_size))

    def total_steps(self, examples: int) -> int:
        """The number of steps of the whole run on `examples` training images."""
        steps = self.steps_at(self.epochs, examples)
        return steps if self.steps is None else min(steps, self.steps)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One side of a comparison: a name that may occur several times, and what it changes: ((path, value), ...)."""
    name: str
    changes: tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Experiments that differ in stated fields only. Arms of one name are a grid of which the fastest counts: the one
    that first comes below `base.evaluation.stop_below`."""
    summary: str
    source: str
    base: Experiment
    arms: tuple[Arm, ...]


DESCRIPTION = ('summary', 'source', 'published')
NO_RECIPE = ('evaluation.batch_size', 'checkpoint.keep', 'checkpoint.minutes')      # they move no number


def fields(config: Any, prefix: str = '') -> dict[str, Any]:
    """Every value of a nested dataclass by its dotted path, descriptions left out."""
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= fields(value, f'{prefix}{field.name}.')
        elif prefix or field.name not in DESCRIPTION:
            found[prefix + field.name] = value
    return found


def diff(config: Any, published: Any) -> dict[str, tuple[Any, Any]]:
    """The fields in which `config` departs from `published`: {path: (published value, value)}. A field that one of
    them lacks shows as None there; those that move no number are left out."""
    ours, theirs = fields(config), fields(published)
    return {path: (theirs.get(path), ours.get(path)) for path in theirs | ours
            if theirs.get(path) != ours.get(path) and path not in NO_RECIPE}


def override(config: Any, assignments: list[str]) -> Any:
    """`config` with the assignments of a command line made in it, each 'path=value'.

    Raises:
      UsageError: if a path names no field, or a value has not the field's type.
    """
    changes = {}
    for assignment in assignments:
        path, sign, text = assignment.partition('=')
        if not sign:
            raise UsageError(f'--set {assignment} has no value: write --set field=value.')
        changes[path.strip()] = _parse(text.strip(), _hint(config, path.strip()), path.strip())
    return change_all(config, changes)


def change(config: Any, path: str, value: Any) -> Any:
    """`config` with the field at a dotted path set to a value."""
    return change_all(config, {path: value})


def change_all(config: Any, changes: Mapping[str, Any]) -> Any:
    """`config` with the fields at dotted paths set to values, all at once: what has to fit together is checked only
    then."""
    own, inner = {}, collections.defaultdict(dict)
    for path, value in changes.items():
        name, _, rest = path.partition('.')
        if rest:
            inner[name][rest] = value
        else:
            own[name] = value
    own |= {name: change_all(getattr(config, name), values) for name, values in inner.items()}
    return dataclasses.replace(config, **own)


def _hint(config: Any, path: str) -> Any:
    """The type of the field at a dotted path, which must be one that --set can name."""
    part, names = config, path.split('.')
    for depth, name in enumerate(names):
        known = dataclasses.is_dataclass(part) and name in typing.get_type_hints(type(part))
        if not known or (depth == 0 and name in DESCRIPTION):
            raise UsageError(_unknown(path, config))
        hint, part = typing.get_type_hints(type(part))[name], getattr(part, name)
    if dataclasses.is_dataclass(part):
        raise UsageError(_unknown(path, config))
    return hint


def _unknown(path: str, whole: Any) -> str:
    names = list(fields(whole))
    close = [name for name in names if name.endswith('.' + path) or name.startswith(path + '.')]
    close = close or difflib.get_close_matches(path, names, 1)
    hint = f' Did you mean {close[0]}?' if close else ''
    return f'--set names no field {path!r}.{hint} The fields are: {", ".join(names)}.'


def _parse(text: str, hint: Any, path: str) -> Any:
    for candidate in _readings(text):
        try:
            return _fit(candidate, hint)
        except TypeError:
            continue
    raise UsageError(f'--set {path}={text}: this field takes {describe(hint)}.')


def _readings(text: str) -> list[Any]:
    readings: list[Any] = [text]
    words = {'true': True, 'false': False, 'none': None}
    try:
        readings.insert(0, words[text.lower()] if text.lower() in words else ast.literal_eval(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    return readings


def _fit(value: Any, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value in arguments and type(value) in {type(a) for a in arguments}:
            return value
    elif origin in (types.UnionType, typing.Union):
        for option in arguments:
            try:
                return _fit(value, option)
            except TypeError:
                continue
    elif origin is tuple and isinstance(value, (list, tuple)):
        if arguments[-1] is Ellipsis:
            return tuple(_fit(item, arguments[0]) for item in value)
        if len(value) == len(arguments):
            return tuple(_fit(item, argument) for item, argument in zip(value, arguments))
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif type(value) is hint:
        return value
    raise TypeError


def describe(hint: Any) -> str:
    """A type in words, for a message."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return 'one of ' + ', '.join(map(str, arguments))
    if origin in (types.UnionType, typing.Union):
        return ' or '.join(describe(a) for a in arguments)
    if origin is tuple:
        inside = ', '.join(describe(a) for a in arguments if a is not Ellipsis)
        return f'a list [...] of {inside}' if arguments[-1] is Ellipsis else f'({inside})'
    words = {int: 'a whole number', float: 'a number', bool: 'true or false', str: 'text', type(None): 'none'}
    return words[hint] if hint in words else hint.__name__
