"""An experiment is data: frozen dataclasses that say what is trained, on what, how, and how it is judged.

A paper's recipe is one `Experiment`; an ablation is `dataclasses.replace` of it, or `override` with the words of a
command line (`--set optimizer.learning_rate=0.02`). Code reads these values and never adds a default of its own.
"""
import ast
import collections
import dataclasses
import difflib
import re
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
    """What is read, and how it is changed before the network sees it. Pixels are raw RGB values from 0 to 255.

    In this order: an image is resized and gets its border when it is stored; then its colours are jittered, its mean or
    contrast is taken away, it is whitened, deformed, padded, cropped, mirrored and gets its colour noise.
    """
    source: str                             # 'digits', 'folder:PATH', or a TFDS name: 'cifar10', 'imagenette/160px-v2'
    image_size: int                         # pixels a side, as the network sees them
    train_split: str = 'train'              # TFDS notation in the original order: 'train[:40000]'
    validation_split: str = 'validation'
    train_per_class: int | None = None      # only so many images of each class, drawn by `fold`; None for all
    validation_per_class: int | None = None     # at most so many of each, none of which is trained on
    fold: int = 0                           # another one draws other images
    resize: int | None = None               # pixels: the shorter side, then the central square; None keeps the size
    border: int = 0                         # black pixels around the stored image, on all sides
    mean: Literal['pixel', 'channel'] | tuple[float, float, float] = 'pixel'    # what is subtracted: a mean image of
    # the training set, its one mean a channel, or these three numbers for R, G and B
    pixel_scale: float = 1.0                # centred pixels are divided by this
    contrast: Literal['none', 'global', 'local'] = 'none'   # of an image: its own mean is subtracted instead, and it is
    # scaled to norm 55 ('global'), or both are done in a window around each pixel ('local')
    whiten: bool = False                    # then its pixels are decorrelated over the training set (ZCA)
    affine: tuple[float, float, float, float] | None = None     # training images are deformed: the greatest translation
    # in pixels, change of scale, squeeze and shear
    padding: int = 0                        # pixels of zeros around the image in training, before it is cropped
    crop: Literal['centre', 'random', 'corners', 'scaled', 'area'] = 'centre'   # of training images: at the centre; at
    # any place; at the centre or a corner; at any place and a random scale; of random area and shape
    crop_scales: tuple[int, int] = (256, 512)   # 'scaled': the least and greatest side to which the image is resized
    reflect: bool = False                   # training images are mirrored with probability 1/2
    color_noise: float = 0.0                # standard deviation of alpha in the PCA colour noise; 0 for none
    color_noise_scale: Literal['deviation', 'eigenvalue'] = 'deviation'     # what alpha multiplies
    color_jitter: float = 0.0               # greatest change of brightness, contrast and saturation in training

    def __post_init__(self):
        given = isinstance(self.mean, tuple) and len(self.mean) == 3 and all(0 <= number <= 255 for number in self.mean)
        require(given or self.mean in ('pixel', 'channel'),
                f'data.mean={self.mean} must be pixel, channel or [R,G,B], three numbers from 0 to 255.')
        require(self.pixel_scale > 0, f'data.pixel_scale={self.pixel_scale} must be positive.')
        require(self.color_noise >= 0, f'data.color_noise={self.color_noise} must not be negative.')
        require(0 <= self.color_jitter < 1, f'data.color_jitter={self.color_jitter} must be at least 0 and below 1.')
        require(min(self.border, self.padding) >= 0, 'data.border and data.padding must not be negative.')
        require(0 < self.crop_scales[0] <= self.crop_scales[1],
                f'data.crop_scales={list(self.crop_scales)} must be two positive numbers, the smaller first.')
        require(min(self.train_per_class or 1, self.validation_per_class or 1) >= 1,
                'data.train_per_class and data.validation_per_class must be at least 1, or none.')
        require(self.fold >= 0, f'data.fold={self.fold} must not be negative.')
        require(self.affine is None or min(self.affine) >= 0 and max(self.affine[1:3]) < 1,
                f'data.affine={self.affine and list(self.affine)} must not be negative, and its change of scale and '
                'squeeze are parts of 1, below it.')


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Stochastic gradient descent with momentum. Decay is per unit of learning rate, as in the papers' update rule."""
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    layer_weight_decay: tuple[tuple[str, float], ...] = ()  # (layer, decay) where it differs from weight_decay
    bias_weight_decay: bool = False
    bias_learning_rate: float = 1.0         # as a multiple of the weights' learning rate
    layer_learning_rate: tuple[tuple[str, float], ...] = ()     # (layer, multiple of the rate); 0 leaves it as it is
    schedule: Literal['constant', 'plateau', 'steps', 'listed', 'cosine', 'square_root'] = 'constant'
    drop_factor: float = 10.0               # the learning rate is divided by this
    drops: int = 3                          # 'plateau': at most this often
    patience: int = 5                       # 'plateau': after this many evaluations without a new lowest error
    drop_epochs: tuple[float, ...] = ()     # 'steps': after so many epochs
    rates: tuple[tuple[float, float], ...] = ()     # 'listed': (epochs, multiple of the rate that holds from then on)
    fc_batch: int | None = None             # the fully connected layers step every so many examples; None: once a batch
    fc_learning_rate: float = 1.0           # with fc_batch: theirs, as a multiple of the learning rate
    update_batch: int | None = None         # all layers step every so many examples of a batch; None: once a batch
    accumulation_steps: int = 1             # a batch is worked through in so many equal parts, to save memory, and the
    # optimizer steps once with the mean of their gradients
    curvature: int | None = None            # before each epoch, so many examples give each parameter a rate of its own:
    damping: float = 0.02                   # rate / (damping + the loss's second derivative); None: the rate itself
    max_filter_rms: float | None = None     # a convolution's filter with a greater root mean square is scaled to this
    averaging: float = 0.0                  # decay of the moving average of parameters that is evaluated; 0 for none

    def __post_init__(self):
        require(self.learning_rate > 0, f'optimizer.learning_rate={self.learning_rate} must be positive.')
        require(0 <= self.momentum < 1, f'optimizer.momentum={self.momentum} must be at least 0 and below 1.')
        require(self.drop_factor > 0, f'optimizer.drop_factor={self.drop_factor} must be positive.')
        require(self.patience >= 1, f'optimizer.patience={self.patience} must be at least 1.')
        for name in ('fc_batch', 'update_batch', 'curvature'):
            value = getattr(self, name)
            require(value is None or value >= 1, f'optimizer.{name}={value} must be at least 1, or none.')
        require(self.fc_batch is None or self.update_batch is None,
                'optimizer.fc_batch and optimizer.update_batch exclude each other: set one to none.')
        require(self.accumulation_steps >= 1,
                f'optimizer.accumulation_steps={self.accumulation_steps} must be at least 1.')
        require(self.accumulation_steps == 1 or self.fc_batch is None and self.update_batch is None,
                'optimizer.accumulation_steps is for one step a batch, which optimizer.fc_batch and '
                'optimizer.update_batch change: set it to 1, or those to none.')
        require(self.schedule != 'listed' or bool(self.rates) and self.rates[0][0] == 0,
                'optimizer.rates must begin with the multiple for epoch 0, as in [(0,1),(30,0.1)].')
        require(list(self.rates) == sorted(self.rates, key=lambda rate: rate[0]),
                'optimizer.rates must be in the order of their epochs, as in [(0,1),(30,0.1)].')
        require(self.damping > 0, f'optimizer.damping={self.damping} must be positive.')
        require(self.max_filter_rms is None or self.max_filter_rms > 0,
                f'optimizer.max_filter_rms={self.max_filter_rms} must be positive, or none.')
        require(0 <= self.averaging < 1, f'optimizer.averaging={self.averaging} must be at least 0 and below 1.')


CROPS = {                                   # ways to look at a test image, in words
    'centre': 'one central crop',
    'ten': 'ten crops averaged',
    'twelve': 'twelve crops averaged',      # corners, centre and the whole square made smaller, and reflections
    'fifty': 'a grid of 50 crops averaged',     # 5 x 5 places and their reflections
    'dense': 'densely, with reflection',    # the fully connected layers everywhere on the image
    'dense_and_fifty': 'densely and on a grid of 50 crops',
}
Crops = Literal['centre', 'ten', 'twelve', 'fifty', 'dense', 'dense_and_fifty']


def in_words(protocol: str) -> str:
    """A protocol of a test in words: its crops, and the sizes that images were resized to if they were."""
    crops, _, scales = protocol.partition('@')
    return CROPS[crops] + f' at {scales.replace("+", ", ")} pixels' * bool(scales)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How error is measured: on every example of the split, exactly once."""
    split: Literal['train', 'validation'] = 'validation'
    crops: Crops = 'centre'                 # of the final figures; during training one central crop is used
    scales: tuple[int, ...] = ()            # with them: images are resized to these sides, and all are averaged
    batch_size: int = 128                   # images, before they become crops
    epochs_between: int = 1                 # epochs of training between two evaluations
    examples: int | None = None             # the first so many examples of the split; None for all of them
    stop_below: float | None = None         # %: training ends at the first evaluation with less top-1 error

    def __post_init__(self):
        require(self.batch_size >= 1, f'evaluation.batch_size={self.batch_size} must be at least 1.')
        require(self.epochs_between >= 1, f'evaluation.epochs_between={self.epochs_between} must be at least 1.')
        require(self.examples is None or self.examples >= 1,
                f'evaluation.examples={self.examples} must be at least 1, or none for all.')
        require(min(self.scales, default=1) >= 1, f'evaluation.scales={list(self.scales)} must be positive.')

    @property
    def protocol(self) -> str:
        """Crops and scales as results.json names them: 'ten', 'dense@256+384+512'."""
        return self.crops + '@' * bool(self.scales) + '+'.join(map(str, self.scales))

    @property
    def during_training(self) -> 'Evaluation':
        """The same with one central crop."""
        return dataclasses.replace(self, crops='centre', scales=())


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
    starts_with: tuple[str, ...] | None = None      # the layers that --init_from gives; None for all that are there
    precision: Literal['float32', 'bfloat16'] = 'float32'   # of products and of what layers put out; parameters,
    # their updates and all sums are float32
    rematerialize: bool = False             # only the outputs of pooling are kept for the backward pass, which computes
    # the rest again, a third more work: less memory, unless one stage of the network has most of it

    def __post_init__(self):
        require(self.batch_size >= 1, f'batch_size={self.batch_size} must be at least 1.')
        for name in ('fc_batch', 'update_batch', 'accumulation_steps'):
            part = getattr(self.optimizer, name)
            require(self.batch_size % (part or 1) == 0,
                    f'optimizer.{name}={part} must divide batch_size={self.batch_size}.')
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
    changes: tuple[tuple[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Experiments that differ in stated fields only, trained one after another from the same seed.

    With `base.evaluation.stop_below` they race: arms of one name are a grid of learning rates of which the fastest
    counts, the one that first comes below that error. Without, every arm is trained to its end and has its own name.

    Raises:
      UsageError: if two arms cannot be told apart, or one changes a field that is not there, or to what that does not
        take.
    """
    summary: str
    source: str
    base: Experiment
    arms: tuple[Arm, ...]
    splits: tuple[str, ...] = ()            # of the same data: every arm is measured on them at its end as well
    in_training: bool = False               # and on the images that it was trained on

    def __post_init__(self):
        for name, path, value in ((arm.name, *change) for arm in self.arms for change in arm.changes):
            hint = _hint(self.base, path)
            try:
                fits = _fit(value, hint) == value
            except TypeError:
                fits = False
            require(fits, f'{self.summary}: arm {name} has {path}={value!r}, which takes {describe(hint)}.')
        require(len(self.labelled) == len(self.arms), f'{self.summary}: two of the arms have the same name.')

    @property
    def labelled(self) -> dict[str, Arm]:
        """The arms by a name of their own: that of the arm, in a race with its learning rate."""
        race = self.base.evaluation.stop_below is not None
        return {f'{arm.name}-{self.experiment(arm).optimizer.learning_rate:g}' if race else arm.name: arm
                for arm in self.arms}

    def experiment(self, arm: Arm) -> Experiment:
        """What the arm trains."""
        return change_all(self.base, dict(arm.changes))

    def note(self, name: str) -> str:
        """What a command says that shows the base of a comparison of this name."""
        return (f'This is what the arms of {name} change. To see an arm: --experiment={name}/ARM, of '
                f'{", ".join(self.labelled)}.')


DESCRIPTION = ('summary', 'source', 'published')
# They move no number, or as much as chance does.
NO_RECIPE = ('evaluation.batch_size', 'checkpoint.keep', 'checkpoint.minutes', 'seed', 'rematerialize')


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


def variant(base: Experiment, summary: str, source: str, published: str = 'paper', **changes) -> Experiment:
    """`base` with the fields at dotted paths changed; dots are written as two underscores. A recipe that others, or the
    paper elsewhere, have published is `published` under its own name."""
    named = dataclasses.replace(base, summary=summary, source=source, published=published)
    return change_all(named, {path.replace('__', '.'): value for path, value in changes.items()})


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
    return f'There is no field {path!r}.{hint} The fields are: {", ".join(names)}.'


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
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        if re.fullmatch(r'\[[\w,\s]+\]', text):           # names without quotes
            readings.append([name.strip() for name in text[1:-1].split(',')])
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
    elif type(value) is hint or dataclasses.is_dataclass(hint) and isinstance(value, hint):
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
