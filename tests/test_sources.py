"""Sources are tested on small data sets in the format of TFDS and small folders, written here, and on the real ones
where they are."""
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from lib.data import sources
from lib.experiment import Data, UsageError

IMAGENETTE = {0: 'tench', 217: 'English springer', 482: 'cassette player', 491: 'chain saw', 497: 'church',
              566: 'French horn', 569: 'garbage truck', 571: 'gas pump', 574: 'golf ball', 701: 'parachute'}


def encode(image, file_format='PNG'):
    file = io.BytesIO()
    Image.fromarray(image).save(file, file_format)
    return file.getvalue()


def prepare(root, name, splits, shape, class_names=None, version='1.0.0', file_format='array_record'):
    """Writes a data set as `tfds build` does. `splits`: {split: [{'image': bytes, 'label': int, 'id': bytes}, ...]}."""
    directory = Path(root, name, version)
    directory.mkdir(parents=True)
    label = tfds.features.ClassLabel(names=class_names) if class_names else tfds.features.ClassLabel(num_classes=10)
    features = {'image': tfds.features.Image(shape=shape), 'label': label}
    if 'id' in next(iter(splits.values()))[0]:
        features['id'] = tfds.features.Text()
    tfds.features.FeaturesDict(features).save_config(directory)
    for split, examples in splits.items():
        path = directory / f'{name.split("/")[0]}-{split}.{file_format}-00000-of-00001'
        writer = ArrayRecordWriter(str(path), 'group_size:1')
        for example in examples:
            message = tf_example_pb2.Example()
            for key, value in example.items():
                feature = message.features.feature[key]
                if isinstance(value, bytes):
                    feature.bytes_list.value.append(value)
                else:
                    feature.int64_list.value.append(value)
            writer.write(message.SerializeToString())
        writer.close()
    info = {'name': name.split('/')[0], 'version': version, 'fileFormat': file_format, 'splits': [
        {'name': split, 'shardLengths': [str(len(examples))],
         'numBytes': str(sum(len(example['image']) for example in examples)),
         'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'} for split, examples in splits.items()]}
    (directory / 'dataset_info.json').write_text(json.dumps(info))


def grey(value, shape=(4, 4, 3)):
    return encode(np.full(shape, value, np.uint8))


@pytest.fixture
def shuffled(tmp_path):
    """A data directory with 'toy': image i has the value i and the id train_i, and lies in another place."""
    order = [7, 2, 11, 0, 4, 9, 1, 10, 3, 8, 6, 5]
    prepare(tmp_path, 'toy', {
        'train': [{'image': grey(i), 'label': i % 10, 'id': f'train_{i}'.encode()} for i in order],
        'test': [{'image': grey(99), 'label': 3, 'id': b'test_0'}]}, (4, 4, 3))
    return tmp_path


def load(root, cache, source='toy', **changes):
    data = Data(source, **{'image_size': 4, 'train_split': 'train', 'validation_split': 'test'} | changes)
    return sources.load(data, root and str(root), cache)


def test_splits_count_in_the_order_of_the_ids(shuffled, tmp_path):
    train, validation = load(shuffled, tmp_path, train_split='train[:8]', validation_split='train[8:11]')
    assert train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert train.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert validation.images[:, 3, 3, 2].tolist() == [8, 9, 10]
    assert (train.name, len(train)) == ('toy 1.0.0 train[:8]', 8)
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int32)


def test_splits_are_joined_one_after_the_other(shuffled, tmp_path):
    joined, _ = load(shuffled, tmp_path, train_split='test+train')
    assert joined.images[:, 0, 0, 0].tolist() == [99, *range(12)] and joined.labels[:3].tolist() == [3, 0, 1]
    assert joined.name == 'toy 1.0.0 test+train'
    part, validation = load(shuffled, tmp_path, train_split='train+test[11:]', validation_split='train+test[:2]')
    assert part.images[:, 0, 0, 0].tolist() == [11, 99] and validation.images[:, 0, 0, 0].tolist() == [0, 1]
    with pytest.raises(UsageError, match="no split 'extra': choose one of"):
        load(shuffled, tmp_path, train_split='train+extra')


def test_without_ids_the_order_is_that_of_the_files(tmp_path):
    prepare(tmp_path, 'toy', {'train': [{'image': grey(v), 'label': v} for v in (5, 3, 8)]}, (4, 4, 3))
    train, validation = load(tmp_path, tmp_path, train_split='train[:2]', validation_split='train[2:]')
    assert train.images[:, 0, 0, 0].tolist() == [5, 3]
    assert validation.labels.tolist() == [8]


def test_the_newest_version_is_read_unless_one_is_named(tmp_path):
    for version, value in (('9.0.0', 9), ('10.0.0', 10)):
        prepare(tmp_path, 'toy', {'train': [{'image': grey(value), 'label': 0}]}, (4, 4, 3), version=version)
    newest, _ = load(tmp_path, tmp_path, validation_split='train')
    named, _ = load(tmp_path, tmp_path, 'toy:9.0.0', validation_split='train')
    assert (newest.name, newest.images.max()) == ('toy 10.0.0 train', 10)
    assert (named.name, named.images.max()) == ('toy 9.0.0 train', 9)


def test_the_directory_of_the_environment_is_the_default(shuffled, tmp_path, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(shuffled))
    assert len(load(None, tmp_path)[0]) == 12


def test_grey_images_get_three_equal_channels(tmp_path):
    image = np.arange(16, dtype=np.uint8).reshape(4, 4)
    prepare(tmp_path, 'toy', {'train': [{'image': encode(image), 'label': 0}]}, (4, 4, 1))
    train, _ = load(tmp_path, tmp_path, validation_split='train')
    np.testing.assert_array_equal(train.images[0], np.stack([image] * 3, axis=2))


def test_photographs_of_all_sizes_become_squares_and_their_classes_imagenet_s(tmp_path):
    examples = [{'image': encode(np.full(shape, 80, np.uint8), 'JPEG'), 'label': label}
                for shape, label in (((30, 50, 3), 1), ((64, 20, 3), 0), ((17, 17, 3), 1))]
    prepare(tmp_path, 'photographs', {'train': examples}, (None, None, 3), ['n02102040', 'n01443537'])
    train, _ = load(tmp_path, tmp_path, 'photographs', resize=16, validation_split='train')
    assert train.images.shape == (3, 16, 16, 3)
    assert np.abs(train.images.astype(int) - 80).max() <= 1
    assert train.labels.tolist() == [1, 217, 1]
    assert len(train.class_names) == 1000
    assert train.class_names[217] == 'English springer, English springer spaniel'
    assert train.class_names[1] == 'goldfish, Carassius auratus'


def test_other_class_names_stay_as_they_are(tmp_path):
    prepare(tmp_path, 'toy', {'train': [{'image': grey(1), 'label': 1}]}, (4, 4, 3), ['ship', 'n02102040'])
    train, _ = load(tmp_path, tmp_path, validation_split='train')
    assert train.class_names == ('ship', 'n02102040')
    assert train.labels.tolist() == [1]


@pytest.mark.parametrize('name, given, expected', [
    ('cifar10', None, 'ship'), ('cifar10', [f'own {number}' for number in range(10)], 'own 8'), ('toy', None, '8')])
def test_classes_of_cifar_10_have_their_names_where_the_file_of_names_is_missing(tmp_path, name, given, expected):
    prepare(tmp_path, name, {'train': [{'image': grey(1), 'label': 1}]}, (4, 4, 3), given)
    train, _ = load(tmp_path, tmp_path, name, validation_split='train')
    assert len(train.class_names) == 10 and train.class_names[8] == expected


def test_a_data_set_of_the_same_name_but_other_content_is_decoded_anew(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    prepare(tmp_path / 'a', 'toy', {'train': [{'image': grey(1), 'label': 0}]}, (4, 4, 3))
    prepare(tmp_path / 'b', 'toy', {'train': [{'image': encode(noise), 'label': 0}]}, (4, 4, 3))
    load(tmp_path / 'a', tmp_path, validation_split='train')
    train, _ = load(tmp_path / 'b', tmp_path, validation_split='train')
    np.testing.assert_array_equal(train.images, noise[None])


@pytest.mark.parametrize('changes, words', [
    ({'validation_split': 'validation'}, ["no split 'validation'", 'train, test', '--set data.validation_split=test']),
    ({'train_split': 'train[:50%]'}, ['data.train_split=train[:50%]', 'whole numbers']),
    ({'train_split': 'train[5:5]'}, ['data.train_split=train[5:5] is empty']),
    ({'train_split': 'train[:13]'}, ['data.train_split=train[:13]', 'beyond the 12']),
    ({'resize': 0}, ['data.resize=0']),
    ({'image_size': 5}, ['data.image_size=5', 'data.resize']),
    ({'source': 'other'}, ['other is not prepared in', 'requirements-prepare.txt', '`tfds build other --data_dir=',
                           '--file_format=array_record`']),
    ({'source': 'toy:2.0.0'}, ['toy:2.0.0 is not prepared in']),
    ({'source': 'files:/photos'}, ['after a colon comes a version', 'folder:PATH']),
    ({'fold': -1}, ['data.fold=-1']),
    ({'affine': (2.0, 10.0, 0.0, 0.0)}, ['data.affine=[2.0, 10.0, 0.0, 0.0]']),
    ({'source': 'imagenet2012'}, ['--manual_dir=DIR`', 'ILSVRC2012_img_train.tar'])])
def test_a_mistake_is_answered_by_one_sentence_before_anything_is_decoded(shuffled, tmp_path, changes, words):
    with pytest.raises(UsageError) as error:
        load(shuffled, tmp_path / 'cache', **changes)
    assert all(word in str(error.value) for word in words), error.value
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'cache').exists()


def test_photographs_need_a_size(tmp_path):
    prepare(tmp_path, 'toy', {'train': [{'image': grey(1), 'label': 0}]}, (None, None, 3))
    with pytest.raises(UsageError, match='--set data.resize=256'):
        load(tmp_path, tmp_path, validation_split='train')


def test_tfrecord_is_named_with_the_way_out(tmp_path):
    prepare(tmp_path, 'toy', {'train': [{'image': grey(1), 'label': 0}]}, (4, 4, 3), file_format='tfrecord')
    with pytest.raises(UsageError, match='tfrecord format.*tfds convert_format --dataset_version_dir='):
        load(tmp_path, tmp_path, validation_split='train')


def test_examples_without_labels_are_refused(tmp_path):
    prepare(tmp_path, 'toy', {'test': [{'image': grey(1), 'label': -1}]}, (4, 4, 3))
    with pytest.raises(UsageError, match='toy 1.0.0 test has no labels'):
        load(tmp_path, tmp_path, train_split='test')


def test_a_broken_image_is_named(tmp_path):
    examples = [{'image': grey(1), 'label': 0, 'id': b'train_0'},
                {'image': grey(2)[:-30], 'label': 0, 'id': b'train_1'}]
    prepare(tmp_path, 'toy', {'train': examples}, (4, 4, 3))
    with pytest.raises(UsageError, match=r'Example 1 of toy 1.0.0 train \(train_1\) is not a readable image'):
        load(tmp_path, tmp_path, validation_split='train')


@pytest.mark.parametrize('damage', ['missing', 'cut'])
def test_a_damaged_file_is_a_usage_error(shuffled, tmp_path, damage):
    path, = shuffled.glob('toy/1.0.0/*train.array_record*')
    content = path.read_bytes()
    path.unlink()
    if damage == 'cut':
        path.write_bytes(content[:-1000])
    with pytest.raises(UsageError, match='The files of toy 1.0.0 train cannot be read'):
        load(shuffled, tmp_path)


@pytest.fixture
def few_files():
    """A function that lets this process open only so many files, until the test ends."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda count: resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_as_many_files_may_be_open_as_the_system_allows(tmp_path, few_files):
    prepare(tmp_path, 'toy', {'train': [{'image': grey(1), 'label': 0}]}, (4, 4, 3))
    opened = sources._open(Data('toy', image_size=4), str(tmp_path), tmp_path)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    few_files(500)
    read = opened._reader('train')
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    few_files(3)
    with pytest.raises(UsageError, match='toy 1.0.0 train has more files than may be open at once.* `ulimit -n 4096`'):
        read(range(1))


def test_the_digits(tmp_path):
    train, validation = load(None, tmp_path, 'digits', image_size=8, validation_split='validation')
    assert (len(train), len(validation)) == (1437, 360)
    assert train.images.shape == (1437, 8, 8, 3)
    assert (train.images.min(), train.images.max()) == (0, 255)
    assert set(np.unique(train.images)) == set(np.rint(np.arange(17) * 255 / 16).astype(int))
    both = np.concatenate([train.images, validation.images])
    assert len(np.unique(both.reshape(1797, -1), axis=0)) == 1797      # no digit is in both, none is lost
    assert np.bincount(np.concatenate([train.labels, validation.labels])).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert train.class_names == tuple('0123456789')
    again, _ = load(None, tmp_path, 'digits', image_size=8, validation_split='validation')
    np.testing.assert_array_equal(again.images, train.images)


def test_the_digits_enlarged(tmp_path):
    data = {'image_size': 20, 'resize': 24, 'validation_split': 'validation[:10]'}
    train, validation = load(None, tmp_path, 'digits', **data)
    assert train.images.shape == (1437, 24, 24, 3)
    assert (validation.name, len(validation)) == ('digits validation[:10]', 10)


@pytest.mark.parametrize('kind', ['digits', 'toy', 'folder'])
def test_a_border_is_black_pixels_around_every_image(tmp_path, kind):
    values = np.random.default_rng(0).integers(1, 256, (3, 8, 8, 3), dtype=np.uint8)
    examples = [{'image': encode(image), 'label': label} for label, image in enumerate(values)]
    prepare(tmp_path, 'toy', {'train': examples}, (8, 8, 3))
    for label, image in enumerate(values):
        (tmp_path / 'few' / str(label)).mkdir(parents=True)
        (tmp_path / 'few' / str(label) / '0.png').write_bytes(encode(image))
    source, split = {'digits': ('digits', 'train'), 'toy': ('toy', 'train'),
                     'folder': (f'folder:{tmp_path / "few"}', 'all')}[kind]
    splits = {'resize': 8, 'image_size': 8, 'train_split': split, 'validation_split': split}
    plain, _ = load(tmp_path, tmp_path, source, **splits)
    load(tmp_path, tmp_path, source, **splits | {'resize': 12})     # of the same size without a border
    train, _ = load(tmp_path, tmp_path, source, **splits | {'border': 2, 'image_size': 12})
    assert train.images.shape == (len(plain), 12, 12, 3)
    np.testing.assert_array_equal(train.images[:, 2:-2, 2:-2], plain.images)
    assert train.images.sum() == plain.images.sum()
    np.testing.assert_array_equal(train.labels, plain.labels)
    with pytest.raises(UsageError, match='images of 12 pixels: set data.resize to at least 9'):
        load(tmp_path, tmp_path, source, **splits | {'border': 2, 'image_size': 13})


def folder(root, *names):
    """Image files under `root`; the k-th is grey of value k and of its own size, in the format its name says."""
    for value, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(grey(value, (8 + value, 20, 3)) if path.suffix.lower() == '.png' else
                         encode(np.full((20, 8 + value, 3), value, np.uint8), 'JPEG'))
    return f'folder:{root}'


def pairs(split):
    return sorted(zip(split.images[:, 0, 0, 0].tolist(), split.labels.tolist()))


FEW = ('train/b/0.PNG', 'train/a/1.jpeg', 'train/c/2.jpg', 'validation/b/3.JPEG', 'validation/d/4.Jpg')


def test_a_folder_of_splits(tmp_path):
    source = folder(tmp_path / 'few', *FEW, 'train/a/.5.jpg', '.hidden/a/6.jpg')
    for name in ('.DS_Store', 'train/.DS_Store', 'train/a/.DS_Store', 'train/a/notes.txt', 'README'):
        (tmp_path / 'few' / name).touch()
    (tmp_path / 'few' / 'train' / 'empty').mkdir()
    train, validation = load(None, tmp_path, source, resize=8, validation_split='validation')
    assert train.class_names == validation.class_names == ('a', 'b', 'c', 'd')
    assert pairs(train) == [(0, 1), (1, 0), (2, 2)]
    assert pairs(validation) == [(3, 1), (4, 3)]
    assert (train.name, train.images.shape, train.labels.dtype) == ('folder:few train', (3, 8, 8, 3), np.int32)


MANY = tuple(f'{kind}/{number}.png' for kind in ('cat', 'dog', 'owl') for number in range(10))


def test_a_folder_without_splits_is_one_in_a_random_order(tmp_path):
    source = folder(tmp_path / 'pets', *MANY)
    train, validation = load(None, tmp_path, source, resize=8, train_split='all[5:]', validation_split='all[:5]')
    order = sorted(MANY, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())
    found = np.concatenate([validation.images, train.images])[:, 0, 0, 0].tolist()
    assert found == [MANY.index(name) for name in order]
    assert validation.labels.tolist() == [MANY.index(name) // 10 for name in order[:5]]
    assert set(validation.labels.tolist()) == {0, 1, 2}


def test_splits_of_a_folder_are_in_a_random_order_too(tmp_path):
    source = folder(tmp_path / 'pets', *(f'test/{name}' for name in MANY))
    train, _ = load(None, tmp_path, source, resize=8, train_split='test[:10]')
    assert set(train.labels.tolist()) == {0, 1, 2}


def test_a_moved_folder_is_not_decoded_again(tmp_path, capsys):
    splits = {'resize': 8, 'validation_split': 'train'}
    first, _ = load(None, tmp_path, folder(tmp_path / 'few', *FEW), **splits)
    assert capsys.readouterr().err.count('Decoding folder:few train once') == 1
    (tmp_path / 'few').rename(tmp_path / 'moved')
    again, _ = load(None, tmp_path, f'folder:{tmp_path}/moved', **splits)
    assert 'Decoding' not in capsys.readouterr().err
    np.testing.assert_array_equal(again.images, first.images)
    np.testing.assert_array_equal(again.labels, first.labels)


@pytest.mark.parametrize('change', ['size', 'time', 'name', 'class', 'more'])
def test_changed_files_are_decoded_again(tmp_path, capsys, change):
    splits = {'resize': 8, 'validation_split': 'train'}
    source, path = folder(tmp_path / 'few', *FEW), tmp_path / 'few/train/a/1.jpeg'
    load(None, tmp_path, source, **splits)
    if change == 'size':
        path.write_bytes(encode(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8), 'JPEG'))
    elif change == 'time':          # as many bytes as before: who knows which
        path.write_bytes(path.read_bytes())
    elif change == 'name':
        path.rename(path.with_name('5.jpeg'))
    elif change == 'class':
        path.parent.rename(path.parent.with_name('e'))
    else:
        path.with_name('5.jpeg').write_bytes(path.read_bytes())
    train, _ = load(None, tmp_path, source, **splits)
    assert capsys.readouterr().err.count('Decoding') == 2
    expected = {'class': [(0, 0), (1, 3), (2, 1)], 'name': [(0, 1), (1, 0), (2, 2)],
                'more': [(0, 1), (1, 0), (1, 0), (2, 2)]}
    assert change in ('size', 'time') or pairs(train) == expected[change]


def test_a_class_that_another_split_adds_changes_labels_without_decoding(tmp_path, capsys):
    splits = {'resize': 8, 'validation_split': 'train'}
    source = folder(tmp_path / 'few', *FEW)
    load(None, tmp_path, source, **splits)
    folder(tmp_path / 'few', 'validation/aa/0.jpg')
    train, _ = load(None, tmp_path, source, **splits)
    assert pairs(train) == [(0, 2), (1, 0), (2, 3)]
    assert capsys.readouterr().err.count('Decoding') == 1


def test_the_order_in_which_a_disk_lists_files_does_not_matter(tmp_path, monkeypatch, capsys):
    source = folder(tmp_path / 'pets', *MANY)
    scandir = os.scandir
    for backwards in (False, True):
        monkeypatch.setattr(os, 'scandir', lambda path, backwards=backwards: contextlib.nullcontext(
            sorted(scandir(path), key=lambda entry: entry.name, reverse=backwards)))
        load(None, tmp_path, source, resize=8, train_split='all', validation_split='all')
    assert capsys.readouterr().err.count('Decoding') == 1


def test_two_parts_of_one_split_are_opened_once(tmp_path, monkeypatch):
    source, opened, pack = folder(tmp_path / 'pets', *MANY), [], sources.packed.pack
    monkeypatch.setattr(sources.packed, 'pack', lambda name, *rest: opened.append(name) or pack(name, *rest))
    load(None, tmp_path, source, resize=8, train_split='all[5:]', validation_split='all[:5]')
    assert opened == ['folder:pets all']


def test_folders_named_by_wordnet_ids_get_the_labels_of_imagenet(tmp_path):
    source = folder(tmp_path / 'ids', 'n02102040/0.png', 'n01440764/1.png')
    train, _ = load(None, tmp_path, source, resize=8, train_split='all', validation_split='all')
    assert pairs(train) == [(0, 217), (1, 0)]
    assert (len(train.class_names), train.class_names[0]) == (1000, 'tench, Tinca tinca')


def test_other_wordnet_ids_are_classes_like_any_other(tmp_path):
    source = folder(tmp_path / 'ids', 'n02102040/0.png', 'n01440764/1.png', 'n00001740/2.png')
    train, _ = load(None, tmp_path, source, resize=8, train_split='all', validation_split='all')
    assert pairs(train) == [(0, 2), (1, 1), (2, 0)]
    assert train.class_names == ('n00001740', 'n01440764', 'n02102040')


def test_the_home_directory_is_expanded(tmp_path, monkeypatch):
    folder(tmp_path / 'home' / 'pets', *MANY)
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    train, _ = load(None, tmp_path, 'folder:~/pets', resize=8, train_split='all', validation_split='all')
    assert len(train) == 30


@pytest.mark.parametrize('names, changes, words', [
    ((), {}, ['few holds no images', 'CLASS/*.jpg']),
    (('a/b/c/d/0.jpg',), {}, ['few holds no images']),
    (('0.jpg',), {}, ['all lie as', 'not as 0.jpg:']),
    (('a/b/c/0.jpg',), {}, ['not as a/b/c/0.jpg:']),
    (('train/a/0.jpg', 'validation/1.jpg'), {}, ['not as validation/1.jpg and train/a/0.jpg:']),
    (('a/0.jpg', '1.jpg'), {}, ['not as 1.jpg and a/0.jpg:']),
    (FEW, {'resize': None}, ['any size', '--set data.resize=256']),
    (FEW, {}, ["folder:few has no split 'test'", 'train, validation', '--set data.validation_split=validation']),
    (FEW, {'source': 'folder:'}, ['names no folder', '--set data.source=folder:PATH']),
    (FEW, {'source': 'folder:/nowhere'}, ['folder:/nowhere names no folder'])])
def test_a_folder_that_cannot_be_used_is_answered_by_one_sentence(tmp_path, names, changes, words):
    (tmp_path / 'few').mkdir()
    source = folder(tmp_path / 'few', *names)
    with pytest.raises(UsageError) as error:
        load(None, tmp_path / 'cache', **{'source': source, 'resize': 8} | changes)
    assert all(word in str(error.value) for word in words), error.value
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'cache').exists()


@pytest.mark.parametrize('damage, words', [('cut', 'is not a readable image'), ('link', 'cannot be read')])
def test_an_unreadable_file_is_named_by_its_path(tmp_path, damage, words):
    source, path = folder(tmp_path / 'few', *FEW), tmp_path / 'few/train/a/1.jpeg'
    content = path.read_bytes()
    path.unlink()
    if damage == 'cut':
        path.write_bytes(content[:-50])
    else:
        path.symlink_to('nowhere')
    with pytest.raises(UsageError, match=f'{path} {words}'):
        load(None, tmp_path, source, resize=8, validation_split='train')


def test_images_drawn_by_class_have_to_fit_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'MEMORY', 9 * 8 * 8 * 3 - 1)
    with pytest.raises(UsageError, match='The 9 images of data.train_split, 3 of each class, fold 0 would be copied'):
        sources.load(caltech(tmp_path), None, tmp_path)


def test_sixteen_bits_are_refused_and_not_cut_off(tmp_path):
    (tmp_path / 'xray' / 'a').mkdir(parents=True)
    Image.fromarray(np.full((8, 8), 1000, np.uint16)).save(tmp_path / 'xray' / 'a' / '0.png')
    with pytest.raises(UsageError, match='0.png has more than 8 bits a value'):
        load(None, tmp_path, f'folder:{tmp_path}/xray', train_split='all', validation_split='all', resize=8)


@pytest.mark.parametrize('change, words', [('cut off', 'cannot be read'), ('text', 'its labels are no classes')])
def test_a_data_set_that_is_none_of_classes_is_refused(tmp_path, change, words):
    prepare(tmp_path, 'toy', {'train': [{'image': grey(1), 'label': 0}]}, (4, 4, 3))
    if change == 'cut off':
        (tmp_path / 'toy' / '1.0.0' / 'dataset_info.json').write_text('{"name":')
    else:
        features = tfds.features.FeaturesDict({'image': tfds.features.Image(shape=(4, 4, 3)),
                                               'label': tfds.features.Text()})
        features.save_config(tmp_path / 'toy' / '1.0.0')
    with pytest.raises(UsageError, match=words):
        load(tmp_path, tmp_path, validation_split='train')


def test_a_file_that_goes_away_while_decoding_is_named(tmp_path, monkeypatch):
    source, path = folder(tmp_path / 'few', *FEW), tmp_path / 'few/train/a/1.jpeg'
    pack = sources.packed.pack
    monkeypatch.setattr(sources.packed, 'pack', lambda *arguments: path.unlink() or pack(*arguments))
    with pytest.raises(UsageError, match=f'{path} cannot be read'):
        load(None, tmp_path, source, resize=8, validation_split='validation')


@pytest.mark.parametrize('wanted, other', [('train', 'validation'), ('validation', 'train')])
def test_one_split_is_read_without_the_other(tmp_path, capsys, wanted, other):
    source = folder(tmp_path / 'few', *FEW)
    for path in (tmp_path / 'few' / other).rglob('*.*'):
        path.write_bytes(b'broken')
    data = Data(source, 4, resize=8, **{f'{other}_split': 'nothing'})
    split = sources.load_one(data, wanted, None, tmp_path)
    assert pairs(split) == {'train': [(0, 1), (1, 0), (2, 2)], 'validation': [(3, 1), (4, 3)]}[wanted]
    assert (split.name, split.class_names) == (f'folder:few {wanted}', ('a', 'b', 'c', 'd'))
    assert capsys.readouterr().err.count('Decoding') == 1


def test_one_split_of_a_prepared_data_set(shuffled, tmp_path):
    data = Data('toy', 4, train_split='train[2:5]', validation_split='test')
    for wanted, expected in zip(('train', 'validation'), sources.load(data, str(shuffled), tmp_path)):
        found = sources.load_one(data, wanted, str(shuffled), tmp_path)
        assert (found.name, found.class_names) == (expected.name, expected.class_names)
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.labels, expected.labels)


def caltech(root, **changes):
    """Images by class, of 10, 6 and 8: the data set and what 'folder' experiments say of it."""
    names = [f'{kind}/{number}.png' for kind, count in (('cat', 10), ('dog', 6), ('owl', 8)) for number in range(count)]
    return Data(folder(root / 'caltech', *names), 8, **{'train_split': 'all', 'validation_split': 'all', 'resize': 8,
                                                        'train_per_class': 3, 'validation_per_class': 4} | changes)


def values(split):
    return split.images[:, 0, 0, 0].tolist()


def counted(split):
    return np.bincount(split.labels, minlength=3).tolist()


def test_so_many_images_of_each_class_are_drawn_and_none_is_judged_that_was_trained_on(tmp_path):
    train, validation = sources.load(caltech(tmp_path), None, tmp_path)
    assert (counted(train), counted(validation)) == ([3, 3, 3], [4, 3, 4])
    assert not set(values(train)) & set(values(validation))
    whole, _ = sources.load(caltech(tmp_path, train_per_class=None, validation_per_class=None), None, tmp_path)
    at = [values(whole).index(value) for value in values(train)]
    assert at == sorted(at) and whole.labels[at].tolist() == train.labels.tolist()      # in the order of the split
    assert train.name == 'folder:caltech all, 3 of each class, fold 0'
    assert validation.name == 'folder:caltech all, 4 of each class, fold 0'


def test_folds_draw_others_and_everything_is_drawn_some_time(tmp_path):
    drawn = [tuple(values(sources.load(caltech(tmp_path, fold=fold), None, tmp_path)[0])) for fold in range(20)]
    assert len(set(drawn)) == 20
    assert set().union(*drawn) == set(range(24))
    assert tuple(values(sources.load(caltech(tmp_path, fold=7), None, tmp_path)[0])) == drawn[7]


@pytest.mark.parametrize('limits, counts', [
    ((3, 4), ([3, 3, 3], [4, 3, 4])), ((3, None), ([3, 3, 3], [7, 3, 5])), ((None, 4), ([6, 2, 4], [4, 4, 4])),
    ((None, None), ([10, 6, 8], [10, 6, 8]))])
def test_one_split_alone_is_the_one_of_both(tmp_path, limits, counts):
    data = caltech(tmp_path, train_per_class=limits[0], validation_per_class=limits[1], fold=1)
    for wanted, expected, count in zip(('train', 'validation'), sources.load(data, None, tmp_path), counts):
        found = sources.load_one(data, wanted, None, tmp_path)
        assert (found.name, values(found)) == (expected.name, values(expected))
        assert counted(found) == count


def test_parts_and_other_splits_are_drawn_from_too(shuffled, tmp_path):
    """Image i of 'toy' has the label i % 10, so that 0 and 10, 1 and 11 are of a class."""
    part = {'train_per_class': 1, 'validation_per_class': 5}
    train, validation = load(shuffled, tmp_path, train_split='train[1:12]', validation_split='train[:10]', **part)
    assert {1, 11} & set(values(train)) and sorted(set(values(train)) - {1, 11}) == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert values(validation) == ([0] if 1 in values(train) else [0, 1])
    train, validation = load(shuffled, tmp_path, validation_split='test', **part)
    assert (len(train), values(validation)) == (10, [99])
    with pytest.raises(UsageError, match='data.validation_split=test and data.train_split=train.test share images'):
        load(shuffled, tmp_path, train_split='train+test', validation_split='test', **part)
    data = Data('toy', 4, train_split='nothing', validation_split='train', **part)
    assert len(sources.load_one(data, 'validation', str(shuffled), tmp_path)) == 12


@pytest.mark.parametrize('changes, words', [
    ({'train_per_class': 7}, ['data.train_per_class=7', 'folder:caltech all has only 6 images of dog']),
    ({'train_split': 'all[:1]', 'validation_split': 'all[:1]', 'train_per_class': 1},
     ['No image of folder:caltech all[:1] is left for data.validation_split'])])
def test_a_class_with_too_few_images_is_named(tmp_path, changes, words):
    with pytest.raises(UsageError) as error:
        sources.load(caltech(tmp_path, **changes), None, tmp_path)
    assert all(word in str(error.value) for word in words), error.value


def test_tensorflow_is_not_imported(shuffled, tmp_path):
    """In a process where importing it fails even if it is installed, and whoever catches that is found out."""
    trap = tmp_path / 'trap' / 'tensorflow'
    trap.mkdir(parents=True)
    (trap / '__init__.py').write_text('import os\nos._exit(7)\n')
    code = ('import sys; from pathlib import Path; from lib.data import sources; from lib.experiment import Data\n'
            'train, _ = sources.load(Data("toy", 4, validation_split="test"), sys.argv[1], Path(sys.argv[2]))\n'
            'assert len(train) == 12\n'
            'assert len(sources._classes(["n01440764"])[1]) == 1000\n'
            'assert "tensorflow" not in sys.modules')
    root = Path(__file__).parent.parent
    environment = os.environ | {'PYTHONPATH': os.pathsep.join([str(trap.parent), str(root)])}
    result = subprocess.run([sys.executable, '-c', code, str(shuffled), str(tmp_path / 'cache')], env=environment,
                            capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr or 'tensorflow was imported'


@pytest.mark.slow
def test_cifar_10(data_dir, tmp_path, capsys):
    splits = {'image_size': 32, 'validation_split': 'test[:100]'}
    train, _ = load(data_dir, tmp_path, 'cifar10', **splits)
    means = train.images.mean(axis=(0, 1, 2), dtype=np.float64)
    np.testing.assert_allclose(means, [125.307, 122.950, 113.865], atol=5e-4)
    assert train.labels[:5].tolist() == [6, 9, 9, 4, 1]                 # as data_batch_1 begins
    assert 'Decoding cifar10 3.0.2 train once' in capsys.readouterr().err
    again, _ = load(data_dir, tmp_path, 'cifar10', **splits)
    assert 'Decoding' not in capsys.readouterr().err
    np.testing.assert_array_equal(again.images, train.images)


def test_imagenette(data_dir, tmp_path):
    _, validation = load(data_dir, tmp_path, 'imagenette/160px-v2', resize=64, train_split='validation',
                         validation_split='validation')
    assert set(validation.labels.tolist()) == set(IMAGENETTE)
    assert np.unique(validation.labels, return_counts=True)[1].tolist() == [100] * 10
    assert validation.images.shape == (1000, 64, 64, 3)
    assert {label: validation.class_names[label].partition(',')[0] for label in IMAGENETTE} == IMAGENETTE


@pytest.mark.parametrize('train, validation, apart', [
    ('all', 'all', False), ('all[10:]', 'all', False), ('all[:10]', 'all[9:]', False), ('all[:10]', 'all[10:]', True),
    ('all[10:]', 'all[:10]', True), ('train', 'test', True), ('train+extra', 'extra', False),
    ('train+extra', 'test', True), ('train+extra[:5]', 'train+extra[5:]', True), ('a[b', 'a', True)])
def test_no_training_is_judged_by_images_that_it_is_trained_on(train, validation, apart):
    data = Data('photos', image_size=4, train_split=train, validation_split=validation)
    if apart:
        sources.require_held_out(data)
    else:
        with pytest.raises(UsageError, match=r'share images: hold some out, for example --set data.train_split='):
            sources.require_held_out(data)
        sources.require_held_out(dataclasses.replace(data, train_per_class=5))      # which draws them apart
