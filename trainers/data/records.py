"""TFRecord files read at any place, in any order."""

import concurrent.futures
import functools
import os
import pathlib
import resource
import struct

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from trainers.errors import ConfigError

# A record is its length (8 bytes), a checksum of that (4), the data, and a checksum of them (4).
_HEADER = struct.Struct("<QI")
_TRAILER = 4
_SCANNING = 16


class RecordSource:
    """The examples of a split that tensorflow-datasets has prepared, by number.

    TFRecords are made to be read from end to end. Shuffling them exactly, going on in mid-epoch
    and giving every worker its own part takes reading at any place, so the places are looked up
    once (`index_records`).

    Args:
        files: paths of the shards, in order.
        places: int64 [examples, 3]: the number of the file, the start of the data, their length.

    Raises:
        ConfigError: the system allows fewer open files than there are shards.
    """

    def __init__(self, files, places):
        self.files = [str(file) for file in files]
        self.places = places
        _allow_open_files(len(self.files))
        self._descriptor = functools.cache(lambda number: os.open(self.files[number], os.O_RDONLY))

    def __len__(self):
        return len(self.places)

    def load(self, rows):
        """(bytes [b], labels [b]) for rows [b]."""
        records = tf.numpy_function(self._read, [rows], tf.string, stateful=False)
        features = {
            "image": tf.io.FixedLenFeature([], tf.string),
            "label": tf.io.FixedLenFeature([], tf.int64),
        }
        examples = tf.io.parse_example(tf.ensure_shape(records, rows.shape), features)
        return examples["image"], examples["label"]

    def file_name(self, row):
        """The name of the image file, and the shard that holds it."""
        number, start, _ = self.places[row]
        place = f"record at byte {start} of {self.files[number]}"
        try:
            example = tf.train.Example.FromString(self._read([row])[0])
            (name,) = example.features.feature["file_name"].bytes_list.value
        except (ValueError, OSError, DecodeError):
            return place
        return f"{name.decode()} ({place})"

    def _read(self, rows):
        records = np.empty(len(rows), object)
        for index, (number, start, length) in enumerate(self.places[rows]):
            records[index] = os.pread(self._descriptor(int(number)), int(length), int(start))
        return records


def index_records(files, cache):
    """The places of all records, see RecordSource; looked up once and kept in the file `cache`.

    Reading the headers alone takes a minute or so for ImageNet on a local disk.

    Args:
        files: paths of the shards, in order.
        cache: path of a .npz file, which is made anew if a shard has another size than in it.

    Raises:
        ConfigError: a shard ends within a record.
    """
    cache = pathlib.Path(cache)
    sizes = np.array([os.path.getsize(file) for file in files])
    if cache.exists():
        with np.load(cache) as stored:
            if np.array_equal(stored["sizes"], sizes):
                return stored["places"]
    with concurrent.futures.ThreadPoolExecutor(_SCANNING) as pool:
        shards = list(pool.map(_scan, files))
    numbers = [np.full((len(shard), 1), number) for number, shard in enumerate(shards)]
    places = np.hstack([np.concatenate(numbers), np.concatenate(shards)]).astype(np.int64)
    _keep(cache, sizes=sizes, places=places)
    return places


def _scan(file):
    places, position = [], 0
    with open(file, "rb") as shard:
        descriptor = shard.fileno()
        end = os.fstat(descriptor).st_size
        while position < end:
            header = os.pread(descriptor, _HEADER.size, position)
            if len(header) < _HEADER.size:
                break
            length, _ = _HEADER.unpack(header)
            places.append((position + _HEADER.size, length))
            position += _HEADER.size + length + _TRAILER
    if position != end:
        raise ConfigError(f"{file} ends within a record: prepare the data set again.")
    return np.array(places, np.int64).reshape(-1, 2)


def _keep(cache, **arrays):
    """Writes the index in one step; a folder that cannot be written to only costs time."""
    part = cache.with_name(f"{cache.name}.{os.getpid()}.part.npz")
    try:
        np.savez(part, **arrays)
        part.replace(cache)
    except OSError:
        part.unlink(missing_ok=True)


def _allow_open_files(count):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + 512
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise ConfigError(
            f"{count} shards need {needed} open files and the system allows {hard}: "
            f"raise the limit (ulimit -Hn {needed})."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
