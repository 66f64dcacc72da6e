"""Images that a class or a unit likes best, found by following the gradient of its score in the pixels.

x is what an image differs by from the mean image, in pixels. Each step is x <- r(x + step * gradient), with the
gradient of the score less the L2 penalty (Simonyan et al. 2013, section 2), and r the regularisers of Yosinski et al.
(2015, section 3) in the order of their code: decay, blur, pixels of small norm, pixels of small contribution.
"""
import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track
from scipy import ndimage

from lib.data import augment
from lib.experiment import require
from lib.layers import at_least_float32
from lib.visualize import GREY, MARGIN, Sheet, free
from lib.visualize.perturbation import RANGE, room
from lib.visualize.request import Method, Request

COUNT = 8
MIDDLE = 128.0          # pixels, instead of a mean image where the images' contrast is normalised
NOISE = 10.0            # pixels: its standard deviation (Yosinski et al. 2015)
DRAWS = 5               # of noise, each of twice the deviation, until a unit has a gradient
SIDE, GAP, BELOW, COLUMNS = 176, 14, 100, 4
NARROW = 128            # a picture whose pixels span less is drawn with more contrast


@dataclasses.dataclass(frozen=True)
class Setting:
    """How the score is followed. Pixels are 0 to 255, less the mean image."""
    start: Literal['zero', 'noise']     # the mean image, or that and N(0, 10) (Yosinski et al. 2015)
    steps: int
    policy: Literal['constant', 'progress', 'normalised']   # times `step`: the gradient; the gradient / |gradient|^2,
    # which raises a linear score by `step`; the gradient / its root mean square, so that pixels move by so much
    step: float
    greatest: float | None = None       # the factor of the gradient is at most this
    l2: float = 0.0                     # the objective is the score less so much times the sum of squares
    decay: float = 0.0                  # x is multiplied by 1 less this
    blur: float = 0.0                   # standard deviation in pixels of the Gaussian that x is blurred with
    blur_every: int = 1                 # so many steps
    small_norm: float = 0.0             # %: pixels with a smaller norm over the colours than so many become 0
    small_contribution: float = 0.0     # %: pixels with a smaller |sum of x * gradient over the colours| likewise


# Of Yosinski et al. the rows of their Table 1 with the rates of their code, for CaffeNet at 227 pixels; from memory,
# they are called low frequency, high frequency, less sparse and more sparse. Simonyan et al. give neither a rate nor
# the weight of the penalty: these are ours, and so is 'ours', whose steps fit any network.
SETTINGS = {
    'ours': Setting('noise', 200, 'normalised', 2.0, decay=0.01, blur=0.5, blur_every=4),
    'simonyan': Setting('zero', 200, 'normalised', 2.0, l2=1e-5),
    'yosinski1': Setting('noise', 500, 'progress', 2.0, 100.0, blur=0.5, blur_every=4, small_norm=50.0),
    'yosinski2': Setting('noise', 750, 'constant', 100.0, decay=0.3, small_norm=20.0),
    'yosinski3': Setting('noise', 1000, 'constant', 100.0, decay=0.0001, blur=1.0, blur_every=4),
    'yosinski4': Setting('noise', 1000, 'progress', 2.0, 1e8, blur=0.5, blur_every=4, small_contribution=90.0),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """A setting, and what is changed in it: see Setting. 'image' starts from --images."""
    setting: Literal['ours', 'simonyan', 'yosinski1', 'yosinski2', 'yosinski3', 'yosinski4'] = 'ours'
    start: Literal['zero', 'noise', 'image'] | None = None
    steps: int | None = None
    policy: Literal['constant', 'progress', 'normalised'] | None = None
    step: float | None = None
    greatest: float | None = None
    l2: float | None = None
    decay: float | None = None
    blur: float | None = None
    blur_every: int | None = None
    small_norm: float | None = None
    small_contribution: float | None = None
    seed: int = 0                       # of the noise

    def __post_init__(self):
        chosen = self.chosen
        for name in ('steps', 'blur_every'):
            require(getattr(chosen, name) >= 1, f'class_model.{name}={getattr(chosen, name)} must be at least 1.')
        for name in ('step', 'greatest'):
            value = getattr(chosen, name)
            require(value is None or value > 0, f'class_model.{name}={value} must be positive.')
        for name in ('l2', 'blur'):
            require(getattr(chosen, name) >= 0, f'class_model.{name}={getattr(chosen, name)} must not be negative.')
        require(0 <= chosen.decay < 1, f'class_model.decay={chosen.decay} must be at least 0 and below 1.')
        for name in ('small_norm', 'small_contribution'):
            value = getattr(chosen, name)
            require(0 <= value < 100, f'class_model.{name}={value} is in %: it must be at least 0 and below 100.')

    @property
    def chosen(self) -> Setting:
        """The setting with what is changed in it; `start` may be 'image' then."""
        changed = {field.name: getattr(self, field.name) for field in dataclasses.fields(Setting)}
        return dataclasses.replace(SETTINGS[self.setting],
                                   **{name: value for name, value in changed.items() if value is not None})


class Climb(NamedTuple):
    """Of n images."""
    pixels: np.ndarray      # uint8 [n, S, S, 3]
    before: np.ndarray      # [n]: the scores of where it started
    after: np.ndarray       # [n]: of `pixels`
    objective: np.ndarray   # [steps, n]: before each step, the score less the L2 penalty
    moves: np.ndarray       # [n]: the steps in which there was a gradient


def look(request: Request, options: Options, picture: Path) -> tuple[dict[str, Any], str]:
    require(request.images is None or options.chosen.start == 'image',
            '--images are where the ascent begins: set class_model.start=image, or leave them out.')
    layer = request.chosen_layer(request.layers[-1])
    units, starts, x = _start(request, layer, options.chosen, options.seed)
    climb = ascend(request, layer, units, options.chosen, x)
    found = describe(request, options, layer, units, starts, climb)
    draw(request, found, climb.pixels, picture)
    return found, statement(found)


def mean_image(request: Request) -> np.ndarray:
    """float32 [S, S, 3], in pixels: what x is a difference from. The border that images get is black. Where contrast is
    normalised the network's mean is not one of pixels, and this is a grey."""
    mean = request.cropped.mean if request.data.contrast == 'none' else np.full_like(request.cropped.mean, MIDDLE)
    return np.where(free.inside(request), mean, 0).astype(np.float32)


def _start(request: Request, layer: str, setting: Setting, seed: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """The unit of each image, what it begins with, and that less the mean image: x, float32 [n, S, S, 1 or 3].

    Raises:
      UsageError: if images are needed and not given, or a network has no gradient at the mean image.
    """
    mean, units = mean_image(request), _units(request, layer)
    if setting.start == 'image':
        require(request.images is not None, 'class_model.start=image starts from images: name them with --images.')
        split, at = request.examples(1)
        pixels = request.pixels(split, at)
        x = (pixels - mean)[..., :free.channels(request, pixels)]
        return np.tile(units, len(at)), [f'image {number}' for number in at for _ in units], \
            np.repeat(x, len(units), axis=0)
    require(setting.start == 'noise' or request.data.contrast == 'none',
            'This network normalises the contrast of images, of which the mean image has none: choose '
            'class_model.start=noise or image.')
    x = np.zeros((len(units), *mean.shape[:2], free.channels(request)), np.float32)
    if setting.start == 'zero':
        return units, ['mean image'] * len(units), x
    rng, deviation, starts = np.random.default_rng(seed), NOISE, [''] * len(units)
    still = np.ones(len(units), bool)
    for _ in range(DRAWS):
        draw = deviation * rng.standard_normal(x.shape, np.float32) * free.inside(request)
        x = np.where(still[:, None, None, None], draw, x)
        starts = [f'N(0, {deviation:g})' if new else old for new, old in zip(still, starts)]
        still = np.asarray(_step(*_arguments(request, layer, setting), x, units, 0)[2]) == 0
        deviation *= 2
        if not still.any():
            break
    return units, starts, x


def _units(request: Request, layer: str) -> np.ndarray:
    """Those asked for; of the last layer, evenly spaced ones of the classes that occur."""
    if request.unit or layer != request.layers[-1]:
        return request.units(layer, COUNT)
    classes = request.occurring_classes()
    count = min(COUNT, len(classes))
    return classes[(2 * np.arange(count) + 1) * len(classes) // (2 * count)]


def ascend(request: Request, layer: str, units: np.ndarray, setting: Setting, x: np.ndarray) -> Climb:
    """Climbs from mean image + x [n, S, S, 1 or 3], each image for its unit [n] of the layer."""
    arguments, start, objectives, moves = _arguments(request, layer, setting), x, [], np.zeros(len(units), int)
    # One step is compiled, and not the loop: in one, XLA's gradients of convolutions are slow on a CPU.
    for number in track(range(setting.steps), f'Climbing for {len(units)} units', console=Console(stderr=True),
                        transient=True):
        x, objective, norms = _step(*arguments, x, units, number)
        objectives.append(objective)
        moves += np.asarray(norms) > 0
    mean = mean_image(request)
    pixels = np.clip(np.rint(mean + np.asarray(x)), 0, RANGE).astype(np.uint8)
    before, after = (np.asarray(scores(request.activations(layer, images), units), np.float64)
                     for images in (mean + start, pixels))
    return Climb(pixels, before, after, np.stack(jax.device_get(objectives)), moves)


def scores(outputs: jax.Array, units: jax.Array) -> jax.Array:
    """[n]: of each image's outputs [n, units] or [n, height, width, maps] its own unit, at the central place."""
    if outputs.ndim == 4:
        outputs = outputs[:, outputs.shape[1] // 2, outputs.shape[2] // 2]
    return at_least_float32(jnp.take_along_axis(outputs, jnp.asarray(units)[:, None], 1)[:, 0])


def _arguments(request: Request, layer: str, setting: Setting) -> tuple:
    """What `_step` is always given."""
    blurring = blur_matrix(request.size, setting.blur)
    return (request.network.task.activations, layer, request.data, setting, request.params, request.cropped,
            mean_image(request), free.inside(request), blurring)


def blur_matrix(size: int, deviation: float) -> np.ndarray:
    """float32 [size, size], which blurs a column of pixels as scipy.ndimage.gaussian_filter does."""
    return ndimage.gaussian_filter1d(np.eye(size, dtype=np.float32), deviation, axis=0) if deviation else \
        np.eye(size, dtype=np.float32)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _step(activations, layer, data, setting, params, statistics, mean, inside, blurring, x, units, number):
    """(x after step `number`; before it, of each image the objective and the norm of its gradient). An image without a
    gradient stays as it is."""
    channels = x.shape[-1]
    dark, bright = room(mean, channels)
    x = jnp.clip(x, -dark, bright)

    def objective(x):
        found = scores(activations(params, augment.centre(mean + x, statistics, data))[layer], units)
        found -= setting.l2 * 3 / channels * jnp.square(x).sum((1, 2, 3))
        return found.sum(), found

    gradient, reached = jax.grad(objective, has_aux=True)(x)
    gradient *= inside
    norms = jnp.sqrt(jnp.square(gradient).sum((1, 2, 3)))
    then = regularise(setting, x + rate(setting, gradient) * gradient, gradient, blurring, number) * inside
    return jnp.where(norms[:, None, None, None] > 0, then, x), reached, norms


def rate(setting: Setting, gradient: jax.Array) -> jax.Array:
    """[n, 1, 1, 1]: what the gradient of each image is multiplied by; where it is 0 it does not matter."""
    squares = jnp.square(gradient)
    squares = {'constant': 1.0, 'progress': squares.sum((1, 2, 3), keepdims=True),
               'normalised': jnp.sqrt(squares.mean((1, 2, 3), keepdims=True))}[setting.policy]
    found = setting.step / jnp.maximum(squares, jnp.finfo(gradient.dtype).tiny)
    return found if setting.greatest is None else jnp.minimum(found, setting.greatest)


def regularise(setting: Setting, x: jax.Array, gradient: jax.Array, blurring: jax.Array, number: int) -> jax.Array:
    """r of x [n, S, S, c] after a step along `gradient`, with the matrix of `blur_matrix`."""
    x = x * (1 - setting.decay)
    if setting.blur:
        blurred = jnp.einsum('ij,kl,njlc->nikc', blurring, blurring, x, precision='highest')
        x = jnp.where(number % setting.blur_every == 0, blurred, x)
    if setting.small_norm:
        x = _without(x, jnp.sqrt(jnp.square(x).sum(-1)), setting.small_norm)
    if setting.small_contribution:
        x = _without(x, jnp.abs((x * gradient).sum(-1)), setting.small_contribution)
    return x


def _without(x: jax.Array, sizes: jax.Array, percent: float) -> jax.Array:
    """x [n, S, S, c], 0 where the sizes [n, S, S] are below so many percent of an image's."""
    bound = jnp.percentile(sizes, percent, axis=(1, 2), keepdims=True)
    return jnp.where(sizes < bound, 0, x.transpose(3, 0, 1, 2)).transpose(1, 2, 3, 0)


def describe(request: Request, options: Options, layer: str, units: np.ndarray, starts: list[str],
             climb: Climb) -> dict[str, Any]:
    classes = layer == request.layers[-1]
    probabilities = np.asarray(request.predict(climb.pixels)) if classes else None
    found = [{'unit': int(unit), 'name': request.class_name(unit) if classes else f'unit {unit}', 'start': starts[i],
              'before': float(climb.before[i]), 'after': float(climb.after[i]), 'moves': int(climb.moves[i]),
              'probability': float(probabilities[i, unit]) if classes else None,
              'objective': [float(f'{value:.6g}') for value in climb.objective[:, i]]} for i, unit in enumerate(units)]
    columns = ['unit', 'name', 'start', 'score before', 'after', 'probability']
    rows = [[entry['unit'], entry['name'], entry['start'], f'{entry["before"]:.3f}', f'{entry["after"]:.3f}',
             f'{100 * entry["probability"]:.1f} %' if classes else '-'] for entry in found]
    return {'layer': layer, 'units': [int(unit) for unit in units], 'setting': options.setting,
            'chosen': dataclasses.asdict(options.chosen), 'found': found,
            'place': 'centre' if request.geometry[layer].has_places else None,
             'table': {'columns': columns, 'rows': rows}}


def statement(found: dict[str, Any]) -> str:
    entries, layer = found['found'], found['layer']
    risen = [entry for entry in entries if entry['after'] > entry['before']]
    place = ' at the central place' if found['place'] else ''
    said = f'The score{place} of {len(risen)} of {len(entries)} units of {layer} is higher in the image found, ' \
           f'rounded to 8 bits, than where it started: in the mean {_mean(entries, "after"):.2f} after ' \
           f'{_mean(entries, "before"):.2f}, in {found["chosen"]["steps"]} steps.'
    if entries[0]['probability'] is not None:
        said += f' The class has there a probability of {100 * _mean(entries, "probability"):.1f} % in the mean.'
    still = sum(entry['moves'] < found['chosen']['steps'] for entry in entries)
    if still:
        said += f' {still} of them came to, or started from, an image where they have no gradient, and stayed there: ' \
                'choose another start, seed or step.'
    return said


def _mean(entries: list[dict[str, Any]], key: str) -> float:
    return float(np.mean([entry[key] for entry in entries]))


def in_words(found: dict[str, Any]) -> str:
    """The setting, its defaults left out."""
    published = found['setting'].startswith('yosinski')
    values = {field.name: found['chosen'][field.name] for field in dataclasses.fields(Setting)}
    default = {field.name: field.default for field in dataclasses.fields(Setting)}
    shown = ', '.join(f'{name} {value:g}' if isinstance(value, (int, float)) else f'{name} {value}'
                      for name, value in values.items() if value != default[name])
    return f'{found["setting"]}{" (published for CaffeNet at 227 pixels)" * published}: {shown}'


def draw(request: Request, found: dict[str, Any], pixels: np.ndarray, path: Path) -> None:
    """Each image found, and below it the score before and after; what has little contrast is drawn with more."""
    columns, inside = min(COLUMNS, len(pixels)), free.inside(request)[..., 0]
    tall = SIDE + BELOW
    what = 'classes' if found['found'][0]['probability'] is not None else f'units of {found["layer"]}'
    place = 'each for a unit at the central place' if found['place'] else 'each for a unit'
    sheet = Sheet(columns * (SIDE + GAP) - GAP, -(-len(pixels) // columns) * tall, f'What {what} like best',
                  [request.network.origin, in_words(found), f'gradient ascent in the pixels, {place} of '
                                                            f'{found["layer"]}; score before → after'])
    for i, (entry, image) in enumerate(zip(found['found'], pixels)):
        x, y = MARGIN + i % columns * (SIDE + GAP), sheet.top + i // columns * tall
        low, high = int(image[inside].min()), int(image[inside].max())
        factor = RANGE / (high - low) if 0 < high - low < NARROW else 1
        shown = np.clip((image - float(low)) * factor, 0, RANGE).astype(np.uint8) if factor > 1 else image
        sheet.image(x, y, SIDE, SIDE, shown)
        sheet.text(x + SIDE / 2, y + SIDE + 4, entry['name'], SIDE, size=14, weight='bold', ha='center')
        below = [f'{entry["before"]:.1f} → {entry["after"]:.1f}', f'from {entry["start"]}'
                 if entry['probability'] is None else f'probability {100 * entry["probability"]:.1f} %']
        if entry['moves'] < found['chosen']['steps']:
            below.append(f'no gradient after {entry["moves"]} steps')
        if factor > 1:
            below.append(f'drawn with contrast x {factor:.1f}')
        for j, text in enumerate(below):
            sheet.text(x + SIDE / 2, y + SIDE + 22 + 17 * j, text, SIDE, color=GREY if j else 'black', ha='center')
    sheet.save(path)


METHOD = Method(look, takes=frozenset({'layer', 'unit', 'images'}), options=Options())
