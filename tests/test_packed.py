import io
import multiprocessing
import time

import numpy as np
import pytest
from PIL import Image

from lib.data import packed
from lib.experiment import UsageError

EXAMPLES = 2 * packed.CHUNK + 10


def encode(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'PNG')
    return file.getvalue()


def reader(fail_at=None, seen=None, wait=0.0):
    """Example i is a 2x2 image of (i % 256, i // 256, 7) with the label i % 10."""
    def read(examples):
        if seen is not None:
            seen.extend(examples)
        time.sleep(wait)
        records = []
        for i in examples:
            image = encode(np.full((2, 2, 3), (i % 256, i // 256, 7), np.uint8))
            records.append(packed.Record(f'Example {i}', b'nonsense' if i == fail_at else image, i % 10))
        return records
    return lambda: read


def pack(directory, **keywords):
    return packed.pack('toy', EXAMPLES, reader(**keywords), 2, directory)


def check(images, labels):
    assert images.shape == (EXAMPLES, 2, 2, 3)
    i = np.arange(EXAMPLES)
    np.testing.assert_array_equal(images[:, 1, 0], np.stack([i % 256, i // 256, np.full_like(i, 7)], axis=1))
    np.testing.assert_array_equal(labels, i % 10)
    assert labels.dtype == np.int32


def test_every_example_is_in_its_place_and_decoded_once(tmp_path):
    seen = []
    check(*pack(tmp_path, seen=seen))
    assert sorted(seen) == list(range(EXAMPLES))
    check(*packed.pack('toy', EXAMPLES, None, 2, tmp_path))     # nothing is read the second time


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(packed.os, 'cpu_count', lambda: 1)      # so that the chunks come in order
    with pytest.raises(UsageError, match='Example 300 is not a readable image'):
        pack(tmp_path, fail_at=300)
    seen = []
    check(*pack(tmp_path, seen=seen))
    assert sorted(seen) == list(range(packed.CHUNK, EXAMPLES))


def test_a_journal_line_cut_off_does_not_count(tmp_path):
    pack(tmp_path)
    journal = tmp_path / 'journal.jsonl'
    journal.write_text(journal.read_text()[:-20])
    seen = []
    check(*pack(tmp_path, seen=seen))
    assert 0 < len(seen) <= packed.CHUNK
    check(*packed.pack('toy', EXAMPLES, None, 2, tmp_path))


def test_a_flipped_byte_is_found_and_its_chunk_decoded_again(tmp_path):
    pack(tmp_path)
    content = bytearray((tmp_path / 'images.npy').read_bytes())
    content[-1] ^= 1
    (tmp_path / 'images.npy').write_bytes(content)
    seen = []
    check(*pack(tmp_path, seen=seen))
    assert sorted(seen) == list(range(2 * packed.CHUNK, EXAMPLES))


def test_an_array_cut_off_is_decoded_again(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, 'IN_MEMORY', 0)                 # no checksum finds the loss
    pack(tmp_path)
    content = (tmp_path / 'images.npy').read_bytes()
    (tmp_path / 'images.npy').write_bytes(content[:-1])
    check(*pack(tmp_path))


def test_the_images_are_mapped_from_disk_and_read_only(tmp_path):
    for _ in range(2):
        images, _ = pack(tmp_path)
        assert isinstance(images, np.memmap)
        with pytest.raises(ValueError):
            images[0] = 0


def test_a_disk_too_small_is_found_before_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr(packed.shutil, 'disk_usage', lambda path: packed.shutil._ntuple_diskusage(1, 1, 6263))
    with pytest.raises(UsageError, match='need 0.0 GB'):
        packed.pack('toy', EXAMPLES, None, 2, tmp_path)
    monkeypatch.setattr(packed.shutil, 'disk_usage', lambda path: packed.shutil._ntuple_diskusage(1, 1, 6264))
    check(*pack(tmp_path))


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UsageError, match='choose another cache directory'):
        pack(tmp_path / 'file' / 'cache')


def _pack_in_process(directory, queue):
    seen = []
    pack(directory, seen=seen, wait=0.3)
    queue.put(len(seen))


def test_two_processes_do_not_decode_the_same_set_twice(tmp_path):
    context = multiprocessing.get_context('spawn')
    queue = context.Queue()
    processes = [context.Process(target=_pack_in_process, args=(tmp_path, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    counts = sorted(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert counts == [0, EXAMPLES]


def test_shrinking_takes_the_mean_of_the_area():
    """3x3 to 2x2: each output pixel is 1.5 pixels wide, so it has weights 1, 1/2, 1/4."""
    image = np.array([[0, 90, 180], [9, 99, 189], [18, 108, 198]], np.uint8)[..., None].repeat(3, axis=2)
    expected = [[(0 + 90 / 2 + 9 / 2 + 99 / 4) / 2.25, (180 + 90 / 2 + 189 / 2 + 99 / 4) / 2.25],
                [(18 + 108 / 2 + 9 / 2 + 99 / 4) / 2.25, (198 + 108 / 2 + 189 / 2 + 99 / 4) / 2.25]]
    np.testing.assert_array_equal(packed.square(image, 2)[..., 1], np.rint(expected))


def test_shrinking_by_a_whole_factor_takes_block_means():
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    means = image.reshape(4, 3, 4, 3, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(packed.square(image, 4), np.rint(means))


def test_enlarging_is_bicubic():
    """One step from 0 to 200, doubled: Keys' kernel with a = -1/2 at a quarter and three quarters of a pixel."""
    image = np.array([0, 0, 0, 200, 200, 200], np.uint8)[None, :, None].repeat(6, axis=0).repeat(3, axis=2)

    def kernel(x, a=-0.5):
        x = abs(x)
        return (a + 2) * x**3 - (a + 3) * x**2 + 1 if x < 1 else a * (x**3 - 5 * x**2 + 8 * x - 4)

    at = 2.25                               # where the centre of output pixel 5 lies between input pixels 2 and 3
    value = 200 * (kernel(3 - at) + kernel(4 - at - 1e-12))
    assert abs(int(packed.square(image, 12)[6, 5, 0]) - value) <= 1


def test_the_central_square_of_the_shorter_side():
    image = np.arange(10, dtype=np.uint8)[None, :, None].repeat(4, axis=0).repeat(3, axis=2)
    assert packed.square(image, 4)[0, :, 0].tolist() == [3, 4, 5, 6]
    assert packed.square(image.swapaxes(0, 1), 4)[:, 0, 0].tolist() == [3, 4, 5, 6]
