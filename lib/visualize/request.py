"""What a method is asked: a network, a layer and units of it, images; and what is the same for all methods."""
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from lib import backward, geometry, hardware, trained
from lib.data import augment, crops, packed, sources
from lib.data.sources import Split
from lib.data.statistics import Statistics, require_fits
from lib.experiment import Data, UsageError, require
from lib.geometry import Geometry
from lib.trained import Trained
from lib.visualize import examples

IMAGE_FILES = ('.jpg', '.jpeg', '.png')
MOST = 24                   # files of a folder that are all looked at, side by side


class Batch(NamedTuple):
    """Images that are worked on at a time."""
    at: np.ndarray          # int64 [n], numbers in the split
    pixels: np.ndarray      # uint8 [n, S, S, 3]
    labels: np.ndarray      # int64 [n]
    counts: np.ndarray      # bool [n], false for images that only fill the last batch up
    number: int


@dataclasses.dataclass(frozen=True)
class Request:
    """Pixels are those of the central crop, [n, S, S, 3], 0 to 255; what the network reads is made of them by `enter`.

    Raises:
      UsageError: from each method, if what was asked for is not there.
    """
    network: Trained
    first_layer: str
    layer: str | None = None                # as asked for; see `chosen_layer`
    unit: tuple[int, ...] = ()              # as asked for; see `units`
    images: tuple[int, ...] | Path | None = None    # numbers in the evaluation split, or a file or folder
    other: Trained | None = None            # a second network, to compare with
    data_dir: str | None = None
    cache: Path = Path()
    scratch: Path = Path()                  # a folder for what does not fit memory
    checkpoints: Path | None = None         # the folder of all steps of its training; None if there was no run

    @property
    def data(self) -> Data:
        return self.network.experiment.data

    @property
    def size(self) -> int:
        return self.data.image_size

    @property
    def batch_size(self) -> int:
        return self.network.experiment.evaluation.batch_size

    @functools.cached_property
    def params(self):
        return jax.device_put(self.network.params)

    @functools.cached_property
    def geometry(self) -> Geometry:
        return geometry.measure(self.network.task, self.size)

    @property
    def layers(self) -> tuple[str, ...]:
        """In the order of the network; the last one gives the logits."""
        return tuple(layer.name for layer in self.geometry.layers)

    def chosen_layer(self, default: str | None = None) -> str:
        """The layer asked for, or `default`, or the last but one."""
        layer = self.layer or default or self.layers[-2]
        require(layer in self.layers, f'--layer={layer} is not in this network: choose one of '
                                      f'{", ".join(self.layers)}.')
        return layer

    def units(self, layer: str, count: int) -> np.ndarray:
        """int64: the maps or units of a layer that were asked for, or `count` of them at equal distances."""
        there = self.geometry[layer].size[-1]
        for unit in self.unit:
            require(0 <= unit < there, f'--unit={unit} is not in {layer}: choose from 0 to {there - 1}.')
        count = min(count, there)
        return np.array(self.unit or (2 * np.arange(count) + 1) * there // (2 * count), np.int64)

    @functools.cached_property
    def judged(self) -> Split:
        """The images that are searched, judged or chosen from: the evaluation split, or the files asked for."""
        if isinstance(self.images, Path):
            return self._of_files()
        return self._load(self.network.experiment.evaluation.split)

    @functools.cached_property
    def train(self) -> Split:
        return self._load('train')

    def split(self, name: str | None) -> Split:
        """'train' or 'validation'; None for the evaluation split."""
        if name in (None, self.network.experiment.evaluation.split):
            return self.judged
        return self.train if name == 'train' else self._load(name)

    def _load(self, name: str) -> Split:
        split = sources.load_one(self.data, name, self.data_dir, self.cache)
        trained.require_same_classes(self.network, split)
        require_fits(self.network.statistics, split)
        return split

    def examples(self, count: int) -> tuple[Split, np.ndarray]:
        """The images asked for, as a split and their numbers in it, or `count` of the evaluation split, and of a folder
        with more than MOST files."""
        if isinstance(self.images, Path) and len(self.judged) <= MOST:
            return self.judged, np.arange(len(self.judged))
        wanted = self.images if isinstance(self.images, tuple) else ()
        return self.judged, examples(self.judged, wanted, count)

    @functools.cached_property
    def files(self) -> list[Path]:
        """The image files that were asked for, in their order."""
        if not isinstance(self.images, Path):
            return []
        if not self.images.is_dir():
            return [self.images]
        found = sorted(file for file in self.images.rglob('*') if file.suffix.lower() in IMAGE_FILES)
        require(len(found) > 0, f'--images: {self.images} holds no image files ({", ".join(IMAGE_FILES)}): name '
                                'another.')
        return found

    def _of_files(self) -> Split:
        """A file in a folder with the name of a class, or one of ImageNet with its WordNet id, has that label; others
        have -1."""
        shape = (len(self.files), *self.network.statistics.mean.shape)
        require(math.prod(shape) < hardware.host_memory() / 2,      # the other half is for looking at them
                f'--images: the {len(self.files):,} images of {self.images} take {math.prod(shape) / 2**30:.1f} GiB, '
                "more than half of this machine's memory: name a folder with fewer.")
        images = np.empty(shape, np.uint8)
        for image, file in zip(images, self.files):
            square = packed.square(_decoded(file), shape[1] - 2 * self.data.border)
            image[:] = packed.bordered(square[None], self.data.border)[0]
        names = self.network.classes or ()
        known = [[name.partition(',')[0] for name in names]]
        if len(names) == trained.IMAGENET and names == sources.imagenet_classes():
            known.append(sources.wordnet_ids())
        labels = [next((own.index(file.parent.name) for own in known if file.parent.name in own), -1)
                  for file in self.files]
        return Split(self.images.name, images, np.array(labels, np.int32), names)

    def pixels(self, split: Split, at: np.ndarray) -> np.ndarray:
        """uint8 [n, S, S, 3]: the central crops of images of a split."""
        return central(split.images[at], self.size)

    def batches(self, split: Split, at: np.ndarray, doing: str) -> Iterator[Batch]:
        """The images at the numbers `at` of a split, as many at a time as an evaluation takes; `doing` stands before
        the bar of progress."""
        size = min(self.batch_size, len(at))
        for start in track(range(0, len(at), size), doing, console=Console(stderr=True), transient=True):
            places = np.arange(start, start + size)
            part = at[np.minimum(places, len(at) - 1)]
            yield Batch(part, self.pixels(split, part), self.true_classes(split, part), places < len(at), start // size)

    def enter(self, pixels: jax.Array) -> jax.Array:
        """What the network reads of pixels [n, S, S, 3] from 0 to 255, whole or not: float32, differentiable."""
        return augment.centre(pixels, self.cropped, self.data)

    @functools.cached_property
    def cropped(self) -> Statistics:
        """Those of the central crop."""
        mean, = central(self.network.statistics.mean[None], self.size)
        return self.network.statistics._replace(mean=mean)

    def activations(self, layer: str, pixels: jax.Array) -> jax.Array:
        """The outputs of a layer for pixels [n, S, S, 3]; compiled."""
        return _activations(self.network.task.activations, layer, self.data, self.params, self.cropped, pixels)

    def predict(self, pixels: jax.Array) -> jax.Array:
        """Probabilities [n, classes] for pixels [n, S, S, 3]; compiled."""
        return _predict(self.network.task.predict, self.data, self.params, self.cropped, pixels)

    def occurring_classes(self) -> np.ndarray:
        """int64: the classes of the images that are chosen from, which may be fewer than the network's outputs; all of
        these where there are no such images."""
        try:
            numbers = np.arange(len(self.judged))
        except UsageError:
            if self.images is not None:
                raise
            return np.arange(self.geometry.layers[-1].size[-1])
        parts = np.split(numbers, range(self.batch_size, len(numbers), self.batch_size))
        return np.unique(np.concatenate([self.true_classes(self.judged, part) for part in parts]))

    @property
    def has_relus(self) -> bool:
        image = jax.ShapeDtypeStruct((1, self.size, self.size, 3), np.float32)
        return backward.count_relus(self.network.task.activations, self.network.params, image) > 0

    def unit_name(self, layer: str, unit: int) -> str:
        """Of the last layer the name of a class."""
        return self.class_name(unit) if layer == self.layers[-1] else f'unit {unit}'

    def class_name(self, label: int) -> str:
        """The first of several synonyms, or its number."""
        names = self.network.classes or ()
        return names[label].partition(',')[0] if label < len(names) else f'class {label}'

    def true_classes(self, split: Split, at: np.ndarray) -> np.ndarray:
        """int64 [n]: the labels of images or, where there is none, the class that the network finds most likely."""
        labels = split.labels[at].astype(np.int64)
        if (labels < 0).any():
            labels = np.where(labels < 0, np.argmax(self.predict(self.pixels(split, at)), axis=1), labels)
        return labels


def central(images: np.ndarray, size: int) -> np.ndarray:
    """The central crops [n, size, size, 3] of images [n, h, w, 3]."""
    top, left = crops.centre(crops.spare(images, size))
    return images[:, top:top + size, left:left + size]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _activations(activations, layer, data, params, statistics, pixels):
    return activations(params, augment.centre(pixels, statistics, data))[layer]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _predict(predict, data, params, statistics, pixels):
    return predict(params, augment.centre(pixels, statistics, data))


def _decoded(file: Path) -> np.ndarray:
    from PIL import Image, ImageOps
    try:
        with Image.open(file) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
    except Exception as error:      # of many kinds, for a file that is cut off or damaged
        raise UsageError(f'--images: {file} cannot be read as an image ({error}): name another file or '
                         'folder.') from error


class Method(NamedTuple):
    """A way to look. `look(request, options, picture)` writes the picture, a PNG, and returns the numbers behind it, as
    JSON can hold them, and a sentence that says them."""
    look: Callable[[Request, Any, Path], tuple[dict[str, Any], str]]
    takes: frozenset[str]                   # of layer, unit, images, other: the flags that mean something to it
    options: Any = None                     # a frozen dataclass with its parameters, as they are unless set
