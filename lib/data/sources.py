"""Where images come from: data sets prepared by TFDS, read without TensorFlow, and the digits of scikit-learn."""
import dataclasses
import functools
import hashlib
import importlib.resources
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from lib.data import packed
from lib.experiment import Data, UsageError

DIGITS_TRAIN = 1437                     # of 1,797; the other 360 are the validation split


@dataclasses.dataclass(frozen=True)
class Split:
    """Images and labels of a split, in the original order of the data set."""
    name: str                           # data set, version and split: 'cifar10 3.0.2 train[:40000]'
    images: np.ndarray                  # uint8 [n, size, size, 3], in memory or an np.memmap
    labels: np.ndarray                  # int32 [n]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def load(data: Data, data_dir: str | None, cache_dir: Path) -> tuple[Split, Split]:
    """The training and the validation split of `data.source`, decoded and resized.

    The source is 'digits' or the name of a TFDS data set in `data_dir` (by default the environment's TFDS_DATA_DIR,
    then ~/tensorflow_datasets): the newest version there, or the one named, 'cifar10:3.0.2'. Grey images get three
    equal channels. Images are resized to `data.resize` as packed.square describes, and kept decoded in
    `cache_dir`/packed. Splits are written as in TFDS, 'train[:40000]', and count in the order of the examples' `id`
    where the data set has one (CIFAR's is the order of the original batches), otherwise in the order of the files.
    Classes that are WordNet ids of ImageNet get the labels 0 to 999 they have there, and all 1,000 class names.

    Raises:
      UsageError: if the data set is not prepared, not readable or not of labelled images, or a split is not in it.
    """
    if data.resize is not None and data.resize < 1:
        raise UsageError(f'data.resize={data.resize}: give a number of pixels, for example --set data.resize=256.')
    opened = _Digits(data) if data.source == 'digits' else _Prepared(data, data_dir, cache_dir)
    if data.image_size > opened.size:
        raise UsageError(f'data.image_size={data.image_size} cannot be cut from images of {opened.size} pixels: set '
                         f'data.resize to at least that.')
    # Both are looked at before either is read: decoding takes hours where a data set is large.
    parts = [_part(opened, data.train_split, 'data.train_split'),
             _part(opened, data.validation_split, 'data.validation_split')]
    train, validation = (_read(opened, wanted, *part)
                         for wanted, part in zip((data.train_split, data.validation_split), parts))
    return train, validation


class _Digits:
    """scikit-learn's 1,797 handwritten digits, 8x8 with values 0 to 16, brought to 0 to 255 on three channels.

    A fixed permutation, not stratified, gives 1,437 to train and 360 to validation; writers occur in both.
    """
    name = 'digits'
    sizes = {'train': DIGITS_TRAIN, 'validation': 1797 - DIGITS_TRAIN}
    class_names = tuple('0123456789')

    def __init__(self, data: Data):
        self.size = data.resize or 8

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_digits  # slow to import, and of no use to the other sources
        digits = load_digits()
        order = np.random.RandomState(0).permutation(len(digits.target))    # a stream that NumPy never changes
        order = order[:DIGITS_TRAIN] if split == 'train' else order[DIGITS_TRAIN:]
        images = np.rint(digits.images[order] * (255 / 16)).astype(np.uint8)[..., None].repeat(3, axis=3)
        return np.stack([packed.square(image, self.size) for image in images]), digits.target[order]


class _Prepared:
    """A data set that TFDS has prepared in the ArrayRecord format. Its builder's code is not needed."""

    def __init__(self, data: Data, data_dir: str | None, cache_dir: Path):
        import tensorflow_datasets as tfds  # half a second, and of no use to the digits
        directory = _directory(data.source, data_dir)
        self.builder = tfds.builder_from_directory(directory)
        self.name = f'{data.source.partition(":")[0]} {directory.name}'
        self.decoders = {'image': tfds.decode.SkipDecoding()}
        if 'array_record' not in {file_format.value for file_format in self.builder.info.available_file_formats()}:
            raise UsageError(
                f'{directory} is in the {self.builder.info.file_format.value} format, which only TensorFlow reads: run '
                f'`pip install -r requirements-prepare.txt` and `tfds convert_format --dataset_version_dir={directory} '
                f'--out_file_format=array_record`.')
        features = self.builder.info.features
        if not {'image', 'label'} <= set(features) or features['image'].np_dtype != np.uint8:
            raise UsageError(f'{self.name} cannot be used: it has no 8-bit images with labels, only '
                             f'{", ".join(features)}.')
        height, width, _ = features['image'].shape
        if data.resize is None and (height is None or height != width):
            raise UsageError(f'The images of {self.name} are not squares of one size: set what to bring them to, for '
                             f'example --set data.resize=256.')
        self.size = data.resize or height
        self.sizes = {split: info.num_examples for split, info in self.builder.info.splits.items()}
        names = features['label'].names
        self.labels = _imagenet_labels(names)
        self.class_names = tuple(names if self.labels is None else _imagenet_classes())
        self.cache_dir = cache_dir

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        info = self.builder.info.splits[split]
        identity = json.dumps([self.name, split, info.shard_lengths, info.num_bytes])   # a smaller copy is another set
        folder = f'{self.name} {split} {self.size} {hashlib.sha256(identity.encode()).hexdigest()[:8]}'
        images, labels = packed.pack(
            f'{self.name} {split}', self.sizes[split], lambda: self._reader(split), self.size,
            self.cache_dir / 'packed' / re.sub(r'[^\w.]+', '-', folder))
        if labels.min() < 0:
            raise UsageError(f'{self.name} {split} has no labels: choose another split.')
        return images, labels if self.labels is None else self.labels[labels]

    def _reader(self, split: str) -> packed.Reader:
        source = self.builder.as_data_source(split=split, decoders=self.decoders)
        order = list(range(len(source)))

        def fetch(positions: list[int]) -> list[dict[str, Any]]:
            try:
                return source.__getitems__(positions)
            except Exception as error:      # of many kinds, for a file that is missing, cut off or damaged
                raise UsageError(f'The files of {self.name} {split} cannot be read ({error}): prepare the data set '
                                 f'again.') from error

        if 'id' in self.builder.info.features:
            ids = [fetch([position])[0]['id'] for position in order]
            order.sort(key=lambda position: (len(ids[position]), ids[position]))

        def read(examples: range) -> list[packed.Record]:
            found = fetch([order[example] for example in examples])
            return [packed.Record(self._describe(split, number, example), example['image'], int(example['label']))
                    for number, example in zip(examples, found)]
        return read

    def _describe(self, split: str, number: int, example: dict[str, Any]) -> str:
        own = example.get('id') or example.get('file_name')
        return f'Example {number} of {self.name} {split}' + (f' ({own.decode()})' if own else '')


def _part(opened: _Digits | _Prepared, wanted: str, field: str) -> tuple[str, int, int]:
    """(split, first example, end) that TFDS notation names."""
    match = re.fullmatch(r'([^\[\]]+)(?:\[(\d*):(\d*)\])?', wanted)
    if not match:
        raise UsageError(f'{field}={wanted}: write a split or a part of it by whole numbers, for example train or '
                         f'train[:1000].')
    split, *bounds = match.groups()
    if split not in opened.sizes:
        raise UsageError(f'{opened.name} has no split {split!r}: choose one of {", ".join(opened.sizes)}, for example '
                         f'--set {field}={list(opened.sizes)[-1]}.')
    size = opened.sizes[split]
    start, stop = (int(bound) if bound else default for bound, default in zip(bounds, (0, size)))
    if not 0 <= start < stop <= size:
        raise UsageError(f'{field}={wanted} is empty or ends beyond the {size:,} examples of {split}.')
    return split, start, stop


def _read(opened: _Digits | _Prepared, wanted: str, split: str, start: int, stop: int) -> Split:
    images, labels = opened.read(split)
    images = images[start:stop]
    if images.nbytes <= packed.IN_MEMORY:
        images = np.array(images)
    return Split(f'{opened.name} {wanted}', images, labels[start:stop].astype(np.int32), opened.class_names)


def _directory(source: str, data_dir: str | None) -> Path:
    """Where the newest version of a data set lies, or the one that 'name:version' asks for."""
    root = Path(data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets').expanduser()
    name, _, version = source.partition(':')
    found = [path.parent for path in (root / name).glob(f'{version or "*.*.*"}/dataset_info.json')
             if re.fullmatch(r'\d+\.\d+\.\d+', path.parent.name)]
    if not found:
        manual = ' --manual_dir=DIR' * name.startswith('imagenet2012')
        tars = ' with ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar in DIR' * bool(manual)
        raise UsageError(
            f'{source} is not prepared in {root}: name the directory that holds it with --data_dir, or prepare it with '
            f'`pip install -r requirements-prepare.txt` and `tfds build {source} --data_dir={root} '
            f'--file_format=array_record{manual}`{tars}.')
    return max(found, key=lambda path: tuple(map(int, path.name.split('.'))))


@functools.cache
def _imagenet_classes() -> list[str]:
    """The WordNet ids of ILSVRC-2012 in the order of their labels, which is that of the ids."""
    file = importlib.resources.files('tensorflow_datasets') / 'datasets' / 'imagenet2012' / 'labels.txt'
    return file.read_text().split()


def _imagenet_labels(names: list[str]) -> np.ndarray | None:
    """The ImageNet label of each class, or None unless every name is one of ImageNet's WordNet ids."""
    if not set(names) <= set(_imagenet_classes()):
        return None
    return np.array([_imagenet_classes().index(name) for name in names])
