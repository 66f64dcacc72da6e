"""A data set decoded once: its images as uint8 squares in one file on disk, in the original order.

The paper's own preprocessing (shorter side to 256 pixels, central square) is done here and never again. Threads decode,
since Pillow lets go of the interpreter lock. A journal has one line for every chunk of images that is safely on disk,
so that an interrupted run goes on where it stopped; the store is complete when every chunk has its line.
"""
import concurrent.futures
import fcntl
import io
import json
import os
import shutil
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lib.experiment import UsageError

CHUNK = 256                 # images that are read, decoded and written together
IN_MEMORY = 2**30           # bytes: stores up to this size are checked when opened and held in memory


class Record(NamedTuple):
    """One example as it lies in the data set: `name` is for messages, `image` an encoded file (JPEG, PNG)."""
    name: str
    image: bytes
    label: int


Reader = Callable[[range], list[Record]]


def pack(name: str, examples: int, open_reader: Callable[[], Reader], size: int,
         directory: Path, border: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [examples, size, size, 3] and labels int32 [examples], decoded into `directory` if not there yet.
    A `border` of so many black pixels comes on all their sides.

    Images up to `IN_MEMORY` bytes are checked against the journal's checksums, and decoded again where they differ;
    larger stores are not. The images are a read-only np.memmap. `open_reader` is called only if something is missing;
    the function that it returns is called from several threads, each time for a range of examples.

    Raises:
      UsageError: if an image cannot be decoded, the disk is too small or the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with open(directory / 'journal.jsonl', 'a+') as journal:
            _lock(journal, name)
            images = _open(directory / 'images.npy', (examples, size + 2 * border, size + 2 * border, 3), journal)
            labels = _finished(journal, images)
            chunks = [range(examples)[start:start + CHUNK] for start in range(0, examples, CHUNK)]
            if missing := [chunk for chunk in chunks if chunk.start not in labels]:
                _check_disk(name, images, missing, directory)
                labels |= _decode(name, images, missing, open_reader(), journal, border)
    except OSError as error:
        raise UsageError(f'The decoded images of {name} cannot be kept in {directory} ({error.strerror or error}): '
                         f'make room there or choose another cache directory.') from error
    return images, np.concatenate([labels[chunk.start] for chunk in chunks]).astype(np.int32)


def square(pixels: np.ndarray, size: int) -> np.ndarray:
    """The central square of uint8 [height, width, 3], resampled to uint8 [size, size, 3].

    This is "rescale the shorter side, crop the centre" (section 2 of the AlexNet paper), which does not say how to
    resample: as in cuda-convnet2, the mean of the area that a pixel covers when shrinking, bicubic when enlarging
    (Pillow's, with a = -0.5). Pillow's BOX is not that mean: it gives every source pixel whole to one output pixel.
    """
    height, width, _ = pixels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels = pixels[top:top + side, left:left + side]
    if side < size:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((size, size), Image.Resampling.BICUBIC))
    if side > size:
        rows = _area_means(pixels, size)
        return np.rint(_area_means(rows.swapaxes(0, 1), size).swapaxes(0, 1)).astype(np.uint8, order='C')
    return pixels


def bordered(images: np.ndarray, border: int) -> np.ndarray:
    """uint8 [n, size, size, 3] with so many black pixels around each, on all sides."""
    return np.pad(images, ((0, 0), (border, border), (border, border), (0, 0)))


def _area_means(values: np.ndarray, size: int) -> np.ndarray:
    """[n, ...] -> float32 [size, ...]: means over equal stretches of the first axis, parts of an element counted."""
    n = len(values)
    edges = np.arange(size + 1) * (n / size)
    whole = np.minimum(edges.astype(int), n - 1)
    part = (edges - whole).astype(np.float32)[:, None, None]
    sums = np.concatenate([np.zeros_like(values[:1], np.float32), np.cumsum(values, axis=0, dtype=np.float32)])
    return np.diff(sums[whole] + part * values[whole], axis=0) * np.float32(size / n)


def _decode_image(record: Record) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(record.image)) as image:
            if image.mode[0] not in 'IF':
                return np.asarray(image.convert('RGB'))
    except Exception as error:      # Pillow raises many kinds for a broken file, and all mean the same here
        raise UsageError(f'{record.name} is not a readable image ({error}): replace it, or prepare the data set '
                         'again.') from error
    raise UsageError(f'{record.name} has more than 8 bits a value, of which most would be lost: bring it to 8 bits.')


def _lock(journal: IO[str], name: str) -> None:
    """Waits until no other process writes the store; the lock ends when the journal is closed."""
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f'Waiting for another process that is decoding {name}.', file=sys.stderr)
        fcntl.flock(journal, fcntl.LOCK_EX)


def _open(path: Path, shape: tuple[int, ...], journal: IO[str]) -> np.memmap:
    """The array on disk; a new one, with the journal emptied, if there is none of this shape."""
    try:
        images = np.load(path, mmap_mode='r')
        if images.shape == shape and images.dtype == np.uint8:
            return images
    except (FileNotFoundError, ValueError, EOFError):
        pass
    journal.truncate(0)
    path.unlink(missing_ok=True)
    np.lib.format.open_memmap(path, 'w+', np.uint8, shape)      # a sparse file: it takes no room until it is written
    return np.load(path, mmap_mode='r')


def _finished(journal: IO[str], images: np.memmap) -> dict[int, np.ndarray]:
    """The labels of every chunk that is on disk, by its first example. A line cut off by a crash does not count."""
    labels = {}
    journal.seek(0)
    for line in journal:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        first, found = entry['first'], np.array(entry['labels'])
        if images.nbytes > IN_MEMORY or _checksum(images[first:first + len(found)], found) == entry['crc32']:
            labels[first] = found
    return labels


def _checksum(pixels: np.ndarray, labels: np.ndarray) -> int:
    return zlib.crc32(labels.astype('<i8'), zlib.crc32(np.ascontiguousarray(pixels)))


def _check_disk(name: str, images: np.memmap, missing: list[range], directory: Path) -> None:
    needed = sum(map(len, missing)) * images[0].nbytes
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise UsageError(f'The decoded images of {name} need {needed / 1e9:.1f} GB in {directory}, where '
                         f'{free / 1e9:.1f} GB are free: make room there or choose another cache directory.')
    print(f'Decoding {name} once: {len(images):,} images, {needed / 1e9:.2f} GB to write to {directory}.',
          file=sys.stderr)


def _decode(name: str, images: np.memmap, missing: list[range], read: Reader,
            journal: IO[str], border: int) -> dict[int, np.ndarray]:
    """Decodes the missing chunks into the file; returns their labels by their first example."""
    size = images.shape[1] - 2 * border

    def write(chunk: range) -> tuple[int, np.ndarray, int]:
        records = read(chunk)
        pixels = bordered(np.stack([square(_decode_image(record), size) for record in records]), border)
        labels = np.array([record.label for record in records])
        # A write to the mapped array would end the process, not raise, on a full disk.
        with open(images.filename, 'r+b') as file:
            file.seek(images.offset + chunk.start * images[0].nbytes)
            file.write(pixels)
            file.flush()
            os.fsync(file.fileno())
        return chunk.start, labels, _checksum(pixels, labels)

    labels = {}
    columns = ('{task.description}', BarColumn(), TextColumn('{task.completed:,.0f} of {task.total:,.0f} images'),
               TextColumn('{task.fields[rate]}'), TimeRemainingColumn())
    with (Progress(*columns, console=Console(stderr=True)) as progress,
          concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool):
        bar = progress.add_task(name, total=sum(map(len, missing)), rate='')
        start, decoded = time.monotonic(), 0
        futures = [pool.submit(write, chunk) for chunk in missing]
        try:
            for future in concurrent.futures.as_completed(futures):
                first, labels[first], checksum = future.result()
                line = json.dumps({'first': first, 'crc32': checksum, 'labels': labels[first].tolist()})
                journal.write(f'\n{line}\n')    # begins a new line, should the last one have been cut off
                journal.flush()
                decoded += len(labels[first])
                rate = decoded / (time.monotonic() - start)
                progress.update(bar, advance=len(labels[first]), rate=f'{rate:,.0f} a second')
        finally:
            pool.shutdown(cancel_futures=True)
    return labels
