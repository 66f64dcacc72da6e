"""Where images come from: data sets prepared by TFDS, read without TensorFlow, folders of image files, and the digits
of scikit-learn."""
import contextlib
import dataclasses
import errno
import functools
import hashlib
import importlib.resources
import json
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.console import Console

from lib.data import packed
from lib.experiment import Data, UsageError, require

DIGITS_TRAIN = 1437                     # of 1,797; the other 360 are the validation split
FOLDER = 'folder:'
MEMORY = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')   # bytes of this machine
IMAGES = ('.jpg', '.jpeg', '.png')
PART = r'([^\[\]]+)(?:\[(\d*):(\d*)\])?'       # of a split: 'train[:1000]'
# Of classes, where TFDS's files of names were not copied along with a data set.
NAMES = {'cifar10': 'airplane automobile bird cat deer dog frog horse ship truck'.split()}


@dataclasses.dataclass(frozen=True)
class Split:
    """Images and labels of a split, in the order that `load` describes."""
    name: str                           # data set, version and split: 'cifar10 3.0.2 train[:40000]'
    images: np.ndarray                  # uint8 [n, size, size, 3], in memory or an np.memmap
    labels: np.ndarray                  # int32 [n]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def load(data: Data, data_dir: str | None, cache_dir: Path) -> tuple[Split, Split]:
    """The training and the validation split of `data.source`, decoded and resized.

    The source is 'digits', 'folder:PATH', or the name of a TFDS data set in `data_dir` (by default the environment's
    TFDS_DATA_DIR, then ~/tensorflow_datasets): the newest version there, or the one named, 'cifar10:3.0.2'. Grey images
    get three equal channels. Images are resized to `data.resize` as packed.square describes, get their `data.border`,
    and are kept decoded in `cache_dir`/packed. Splits are written as in TFDS, 'train[:40000]' or 'train+extra' for both
    one after the other, and count in the order of the examples' `id` where the data set has one (CIFAR's is the order
    of the original batches), otherwise in the order of the files. Classes that are WordNet ids of ILSVRC-2012 get the
    labels 0 to 999 they have there, and the names of all 1,000 are in words.

    With `data.train_per_class` so many images of each class are drawn from the training split, with
    `data.validation_per_class` at most so many from the validation split. If both are parts of one split, no image is
    in both: those to train on are drawn first or, if all are to be trained on, those of the validation split. Another
    `data.fold` draws others; `load_one` draws the same (the Caltech protocol, section 5.2 of the ZFNet paper).

    A folder holds PATH/SPLIT/CLASS/*.jpg (or .jpeg, .png), or PATH/CLASS/*.jpg; then its one split is 'all'. Classes
    are the folders with images of all splits together, in the order of their names. The images of a split are in a
    random order that is always the same, so 'all[:1000]' is a random part of them.

    Raises:
      UsageError: if the data set is not prepared, not readable or not of labelled images, a split is not in it, or a
        class has too few images.
    """
    train, validation = _load(data, ('train', 'validation'), data_dir, cache_dir)
    return train, validation


def load_one(data: Data, wanted: Literal['train', 'validation'], data_dir: str | None, cache_dir: Path) -> Split:
    """Only the training or only the validation split, as `load` describes; the other one need not be there.

    Raises:
      UsageError: as `load` does.
    """
    split, = _load(data, (wanted,), data_dir, cache_dir)
    return split


def require_held_out(data: Data) -> None:
    """Of a training: that it is not judged by images that it is trained on.

    Raises:
      UsageError: if data.train_split and data.validation_split share images.
    """
    parts = [re.fullmatch(PART, wanted) for wanted in (data.train_split, data.validation_split)]
    if None in parts or data.train_per_class is not None or data.validation_per_class is not None:
        return                          # no parts, which _part refuses; drawn apart by _choose
    (ours, *span), (theirs, *other) = (part.groups() for part in parts)
    (start, stop), (first, last) = ((int(low or 0), float(high or 'inf')) for low, high in (span, other))
    apart = stop <= first or last <= start if ours == theirs else not set(ours.split('+')) & set(theirs.split('+'))
    require(apart, f'data.train_split={data.train_split} and data.validation_split={data.validation_split} share '
                   f'images: hold some out, for example --set data.train_split={ours}[1000:] '
                   f'--set data.validation_split={ours}[:1000].')


def _load(data: Data, which: tuple[str, ...], data_dir: str | None, cache_dir: Path) -> list[Split]:
    if data.resize is not None and data.resize < 1:
        raise UsageError(f'data.resize={data.resize}: give a number of pixels, for example --set data.resize=256.')
    opened = _open(data, data_dir, cache_dir)
    stored = opened.size + 2 * data.border
    if data.image_size > stored:
        raise UsageError(f'data.image_size={data.image_size} cannot be cut from images of {stored} pixels: set '
                         f'data.resize to at least {data.image_size - 2 * data.border}.')
    # All are looked at before any is read: decoding takes hours where a data set is large.
    parts = [_part(opened, getattr(data, f'{name}_split'), f'data.{name}_split') for name in which]
    read = functools.cache(functools.partial(_read, opened))    # both may be parts of one split
    return [_cut(*read(part.split), part, opened, data, name) for name, part in zip(which, parts)]


class _Digits:
    """scikit-learn's 1,797 handwritten digits, 8x8 with values 0 to 16, brought to 0 to 255 on three channels.

    A fixed permutation, not stratified, gives 1,437 to train and 360 to validation; writers occur in both.
    """
    name = 'digits'
    sizes = {'train': DIGITS_TRAIN, 'validation': 1797 - DIGITS_TRAIN}
    class_names = tuple('0123456789')

    def __init__(self, data: Data):
        self.size, self.border = data.resize or 8, data.border

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_digits  # slow to import, and of no use to the other sources
        digits = load_digits()
        order = np.random.RandomState(0).permutation(len(digits.target))    # a stream that NumPy never changes
        order = order[:DIGITS_TRAIN] if split == 'train' else order[DIGITS_TRAIN:]
        images = np.rint(digits.images[order] * (255 / 16)).astype(np.uint8)[..., None].repeat(3, axis=3)
        images = np.stack([packed.square(image, self.size) for image in images])
        return packed.bordered(images, self.border), digits.target[order]


class _Prepared:
    """A data set that TFDS has prepared in the ArrayRecord format. Its builder's code is not needed."""

    def __init__(self, data: Data, data_dir: str | None, cache_dir: Path):
        import tensorflow_datasets as tfds  # half a second, and of no use to the digits
        directory = _directory(data.source, data_dir)
        try:
            self.builder = tfds.builder_from_directory(directory)
        except Exception as error:      # of many kinds, for files that are cut off
            raise UsageError(f'The description of the data set in {directory} cannot be read ({error}): prepare it '
                             'again.') from error
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
        if not isinstance(features['label'], tfds.features.ClassLabel):
            raise UsageError(f'{self.name} cannot be used: its labels are no classes.')
        height, width, _ = features['image'].shape
        if data.resize is None and (height is None or height != width):
            raise UsageError(f'The images of {self.name} are not squares of one size: set what to bring them to, for '
                             f'example --set data.resize=256.')
        self.size, self.border = data.resize or height, data.border
        self.sizes = {split: info.num_examples for split, info in self.builder.info.splits.items()}
        names = features['label'].names
        unnamed = names == [str(number) for number in range(len(names))]
        self.labels, self.class_names = _classes(NAMES.get(self.builder.name, names) if unnamed else names)
        self.cache_dir = cache_dir

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        info = self.builder.info.splits[split]
        identity = json.dumps([self.name, split, info.shard_lengths, info.num_bytes])   # a smaller copy is another set
        images, labels = packed.pack(
            f'{self.name} {split}', self.sizes[split], lambda: self._reader(split), self.size,
            _store(self.cache_dir, f'{self.name} {split}', self, hashlib.sha256(identity.encode()).hexdigest()),
            self.border)
        if labels.min() < 0:
            raise UsageError(f'{self.name} {split} has no labels: choose another split.')
        return images, self.labels[labels]

    def _reader(self, split: str) -> packed.Reader:
        # Every file stays open, 1,024 of ImageNet's training images. Where the limit cannot be raised, `fetch` says so.
        with contextlib.suppress(OSError, ValueError):
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        source = self.builder.as_data_source(split=split, decoders=self.decoders)
        order = list(range(len(source)))

        def fetch(positions: list[int]) -> list[dict[str, Any]]:
            try:
                return source.__getitems__(positions)
            except Exception as error:      # of many kinds, for a file that is missing, cut off or damaged
                if os.strerror(errno.EMFILE) in str(error):
                    raise UsageError(f'{self.name} {split} has more files than may be open at once: allow more with '
                                     '`ulimit -n`, for example `ulimit -n 4096`.') from error
                raise UsageError(f'The files of {self.name} {split} cannot be read ({error}): prepare the data set '
                                 f'again.') from error

        if 'id' in self.builder.info.features:
            ids = [example['id'] for start in range(0, len(order), packed.CHUNK)
                   for example in fetch(order[start:start + packed.CHUNK])]
            order.sort(key=lambda position: (len(ids[position]), ids[position]))

        def read(examples: range) -> list[packed.Record]:
            found = fetch([order[example] for example in examples])
            return [packed.Record(self._describe(split, number, example), example['image'], int(example['label']))
                    for number, example in zip(examples, found)]
        return read

    def _describe(self, split: str, number: int, example: dict[str, Any]) -> str:
        own = example.get('id') or example.get('file_name')
        return f'Example {number} of {self.name} {split}' + (f' ({own.decode()})' if own else '')


class _Folder:
    """Image files by class, as `load` describes. Names are held as bytes: ImageNet has had up to 15 million files."""

    def __init__(self, data: Data, cache_dir: Path):
        self.root = Path(os.path.abspath(os.path.expanduser(data.source.removeprefix(FOLDER))))
        self.name = f'{FOLDER}{self.root.name}'
        if data.source == FOLDER or not self.root.is_dir():
            raise UsageError(f'data.source={data.source} names no folder: write --set data.source={FOLDER}PATH with '
                             f'the PATH of a folder that holds PATH/CLASS/*.jpg or PATH/SPLIT/CLASS/*.jpg.')
        if data.resize is None:
            raise UsageError(f'The images in {self.root} can be of any size: set what to bring them to, for example '
                             f'--set data.resize=256.')
        self.size, self.border, self.cache_dir = data.resize, data.border, cache_dir
        self.folders: dict[str, dict[str, np.ndarray]] = {}     # split: {its folders below the root: names of images}
        for folder, names in _image_folders(self.root).items():
            split = os.path.dirname(folder) or 'all'
            self.folders.setdefault(split, {})[folder] = names
        self.sizes = {split: sum(map(len, folders.values())) for split, folders in self.folders.items()}
        classes = sorted({os.path.basename(folder) for folders in self.folders.values() for folder in folders})
        labels, self.class_names = _classes(classes)
        self.labels = dict(zip(classes, labels))

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        identity = hashlib.sha256()     # not of the root, so that the folder can be moved
        with _readable(self.root), Console(stderr=True).status('Looking for changed images'):
            root = os.fsencode(self.root)
            for path in self._paths(split):
                about = os.stat(os.path.join(root, path))
                identity.update(b'%s\0%d %d\n' % (path, about.st_size, about.st_mtime_ns))
        # The store's labels count the folders of this split: classes that others add do not change it.
        images, own = packed.pack(f'{self.name} {split}', self.sizes[split], lambda: self._reader(split), self.size,
                                  _store(self.cache_dir, f'{FOLDER}{split}', self, identity.hexdigest()), self.border)
        labels = np.array([self.labels[os.path.basename(folder)] for folder in self.folders[split]])
        return images, labels[own]

    def _reader(self, split: str) -> packed.Reader:
        hashes = (hashlib.blake2b(path, digest_size=8).digest() for path in self._paths(split))
        order = np.argsort(np.fromiter(map(int.from_bytes, hashes), np.uint64, self.sizes[split]), kind='stable')
        folders = list(self.folders[split].items())
        starts = np.cumsum([0] + [len(names) for _, names in folders])

        def open_image(place: int) -> packed.Record:
            label = int(np.searchsorted(starts, place, side='right')) - 1
            folder, names = folders[label]
            path = self.root / folder / os.fsdecode(names[place - starts[label]])
            with _readable(path):
                return packed.Record(str(path), path.read_bytes(), label)

        return lambda examples: [open_image(place) for place in order[examples.start:examples.stop]]

    def _paths(self, split: str) -> Iterator[bytes]:
        for folder, names in self.folders[split].items():
            prefix = os.fsencode(folder) + b'/'
            for name in names.tolist():
                yield prefix + name


def _image_folders(root: Path) -> dict[str, np.ndarray]:
    """The sorted names of the images, bytes [n], in every folder that has some, by its path below the root.

    Raises:
      UsageError: unless there are images and all lie in folders at level one, or all at level two.
    """
    found, left = {}, [('', 0)]
    with _readable(root), Console(stderr=True).status('Listing the images'):
        while left:
            folder, level = left.pop()
            names = []
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    if entry.name.startswith('.'):
                        continue
                    if entry.is_dir():
                        if level < 3:       # level 3 is looked at to say what is wrong there
                            left.append((os.path.join(folder, entry.name), level + 1))
                    elif entry.name.lower().endswith(IMAGES):
                        names.append(os.fsencode(entry.name))
            if names:
                found[folder] = np.array(sorted(names))
    found = dict(sorted(found.items()))
    example = {folder.count('/') + bool(folder): os.path.join(folder, os.fsdecode(names[0]))
               for folder, names in found.items()}
    if not found:
        raise UsageError(f'{root} holds no images: it must have them (.jpg, .jpeg or .png) as CLASS/*.jpg or as '
                         f'SPLIT/CLASS/*.jpg.')
    if set(example) not in ({1}, {2}):
        raise UsageError(f'The images in {root} must all lie as CLASS/*.jpg or all as SPLIT/CLASS/*.jpg, not as '
                         f'{" and ".join(example[level] for level in sorted(example))}: move or remove some.')
    return found


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f'{os.fsdecode(error.filename or path)} cannot be read ({error.strerror or error}): '
                         f'make it readable or remove it.') from error


def _open(data: Data, data_dir: str | None, cache_dir: Path) -> _Digits | _Prepared | _Folder:
    if data.source == 'digits':
        return _Digits(data)
    if data.source.startswith(FOLDER):
        return _Folder(data, cache_dir)
    return _Prepared(data, data_dir, cache_dir)


class _Part(NamedTuple):
    """What TFDS notation names."""
    wanted: str                         # as written
    split: str
    start: int
    stop: int


def _part(opened: _Digits | _Prepared | _Folder, wanted: str, field: str) -> _Part:
    match = re.fullmatch(PART, wanted)
    if not match:
        raise UsageError(f'{field}={wanted}: write a split or a part of it by whole numbers, for example train or '
                         f'train[:1000].')
    split, *bounds = match.groups()
    for name in _joined(opened, split):
        if name not in opened.sizes:
            raise UsageError(f'{opened.name} has no split {name!r}: choose one of {", ".join(opened.sizes)}, for '
                             f'example --set {field}={list(opened.sizes)[-1]}.')
    size = sum(opened.sizes[name] for name in _joined(opened, split))
    start, stop = (int(bound) if bound else default for bound, default in zip(bounds, (0, size)))
    if not 0 <= start < stop <= size:
        raise UsageError(f'{field}={wanted} is empty or ends beyond the {size:,} examples of {split}.')
    return _Part(wanted, split, start, stop)


def _joined(opened: _Digits | _Prepared | _Folder, split: str) -> list[str]:
    """The splits that 'train+extra' names, one after the other."""
    return [split] if split in opened.sizes else split.split('+')


def _read(opened: _Digits | _Prepared | _Folder, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a split; several that are joined are copied into memory."""
    found = [opened.read(name) for name in _joined(opened, split)]
    return found[0] if len(found) == 1 else tuple(np.concatenate(arrays) for arrays in zip(*found))


def _cut(images: np.ndarray, labels: np.ndarray, part: _Part, opened: _Digits | _Prepared | _Folder, data: Data,
         which: str) -> Split:
    at, words = _choose(labels, part, opened, data, which)
    if isinstance(at, np.ndarray) and len(at) * images[0].nbytes > MEMORY:
        raise UsageError(f'The {len(at):,} images of data.{which}_split{words} would be copied into memory, '
                         f'{len(at) * images[0].nbytes / 1e9:.0f} GB: choose fewer of each class, or leave out '
                         'data.train_per_class and data.validation_per_class.')
    images = images[at]
    if images.nbytes <= packed.IN_MEMORY:
        images = np.array(images)
    return Split(f'{opened.name} {part.wanted}{words}', images, labels[at].astype(np.int32), opened.class_names)


def _choose(labels: np.ndarray, part: _Part, opened: _Digits | _Prepared | _Folder, data: Data,
            which: str) -> tuple[slice | np.ndarray, str]:
    """Where the images of the training or the validation split (`which`) lie in their split, and how they were drawn,
    in words."""
    limit = getattr(data, f'{which}_per_class')
    first = 'validation' if data.train_per_class is None else 'train'       # the other one gets the rest
    limited_first = getattr(data, f'{first}_per_class')
    wanted_first = getattr(data, f'{first}_split')
    shared = which != first and limited_first is not None and wanted_first.partition('[')[0] == part.split
    joined, of_first = (_joined(opened, name.partition('[')[0]) for name in (part.split, wanted_first))
    if which != first and limited_first is not None and not shared and set(joined) & set(of_first):
        raise UsageError(f'data.{which}_split={part.wanted} and data.{first}_split={wanted_first} share images: name '
                         'the same splits in both, of which images of each class are then drawn for each.')
    if limit is None and not shared:
        return slice(part.start, part.stop), ''
    order = np.random.Generator(np.random.PCG64(data.fold)).permutation(len(labels))
    taken = _draw(order, labels, _part(opened, wanted_first, f'data.{first}_split'), limited_first) if shared else ()
    found = _draw(order[~np.isin(order, taken)], labels, part, limit)
    classes, counts = np.unique(labels[found], return_counts=True)
    if not len(found):
        raise UsageError(f'No image of {opened.name} {part.wanted} is left for data.{which}_split: choose other parts '
                         f'or fewer images of each class.')
    if which == 'train' and limit is not None and counts.min() < limit:
        raise UsageError(f'data.train_per_class={limit}: {opened.name} {part.wanted} has only {counts.min()} images of '
                         f'{opened.class_names[classes[counts.argmin()]]}: set at most that.')
    return found, f', {f"{limit} of each class" if limit else "the rest"}, fold {data.fold}'


def _draw(order: np.ndarray, labels: np.ndarray, part: _Part, limit: int | None) -> np.ndarray:
    """The first so many images of each class in a part of a split, in that order, ascending."""
    order = order[(order >= part.start) & (order < part.stop)]
    own = [order[labels[order] == label][:limit] for label in np.unique(labels[order])]
    return np.sort(np.concatenate([order[:0], *own]))


def _store(cache_dir: Path, name: str, opened: _Prepared | _Folder, identity: str) -> Path:
    """Where the decoded images lie. Images of another identity, size or border lie elsewhere."""
    size = f'{opened.size}' + f' {opened.border}' * bool(opened.border)
    return cache_dir / 'packed' / re.sub(r'[^\w.]+', '-', f'{name} {size} {identity[:8]}')


def _directory(source: str, data_dir: str | None) -> Path:
    """Where the newest version of a data set lies, or the one that 'name:version' asks for."""
    root = Path(data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets').expanduser()
    name, _, version = source.partition(':')
    if not re.fullmatch(r'(\d+\.\d+\.\d+)?', version):
        raise UsageError(f'data.source={source}: after a colon comes a version, as in {name}:1.0.0; a folder is '
                         f'{FOLDER}PATH.')
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
def wordnet_ids() -> list[str]:
    """The WordNet ids of ILSVRC-2012 in the order of their labels, which is that of the ids."""
    file = importlib.resources.files('tensorflow_datasets') / 'datasets' / 'imagenet2012' / 'labels.txt'
    return file.read_text().split()


def _classes(names: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The label of each class, and the names of all labels: ImageNet's where every class is one of its WordNet ids,
    otherwise the classes count from 0 as they come."""
    if not set(names) <= set(wordnet_ids()):
        return np.arange(len(names)), tuple(names)
    return np.array([wordnet_ids().index(name) for name in names]), imagenet_classes()


def imagenet_classes() -> tuple[str, ...]:
    """The names of ILSVRC-2012's 1,000 classes in the order of their labels, each with its synonyms."""
    from tensorflow_datasets.datasets.siscore.labels import IMAGENET_LABELS_LIST  # slow to import
    return tuple(IMAGENET_LABELS_LIST)
