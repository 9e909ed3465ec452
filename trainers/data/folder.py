"""Images in folders: train/CLASS/FILE, and test/CLASS/FILE or val/CLASS/FILE."""

import os
import pathlib

import numpy as np

from trainers.errors import ConfigError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_TEST_FOLDERS = ("test", "val", "validation")


class FolderSource:
    """The images of one split, sorted by class and name.

    Args:
        folder: the folder of the split.
        names: the class folders, in the order of their labels.

    Raises:
        ConfigError: a class folder holds no image, or there is one that is not a class.
    """

    def __init__(self, folder, names):
        present = class_names(folder)
        strange = sorted(set(present) - set(names))
        if strange:
            raise ConfigError(f"{folder} has classes that train/ does not have: {_some(strange)}.")
        self.files, labels = [], []
        for label, name in enumerate(names):
            found = _images(folder / name) if name in present else []
            if name in present and not found:
                raise ConfigError(f"{folder / name} holds no image ({', '.join(SUFFIXES)}).")
            self.files += found
            labels += [label] * len(found)
        self.labels = np.array(labels, np.int64)

    def __len__(self):
        return len(self.files)

    def load(self, rows):
        """(bytes [b], labels [b]) for rows [b]; a file that cannot be read counts as empty."""
        import tensorflow as tf

        data = tf.numpy_function(self._read, [rows], tf.string, stateful=False)
        return tf.ensure_shape(data, rows.shape), tf.gather(tf.constant(self.labels), rows)

    def file_name(self, row):
        return self.files[row]

    def _read(self, rows):
        data = np.empty(len(rows), object)
        for index, row in enumerate(rows):
            try:
                data[index] = pathlib.Path(self.files[row]).read_bytes()
            except OSError:
                data[index] = b""
        return data


def split_folders(data_dir):
    """The folders of the two splits.

    Raises:
        ConfigError: one of them is missing.
    """
    root = pathlib.Path(data_dir)
    layout = "an image folder has train/CLASS/FILE and test/CLASS/FILE (or val/)"
    if not root.is_dir():
        raise ConfigError(f"--data_dir={data_dir} is not a folder: {layout}.")
    tests = [root / name for name in _TEST_FOLDERS if (root / name).is_dir()]
    if not (root / "train").is_dir() or not tests:
        has = _some(sorted(os.listdir(root))) or "nothing"
        raise ConfigError(f"--data_dir={data_dir} holds {has}: {layout}.")
    return {"train": root / "train", "test": tests[0]}


def class_names(folder):
    """The names of the class folders, sorted.

    Raises:
        ConfigError: there are fewer than two.
    """
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if len(names) < 2:
        has = f"one class folder, {names[0]}" if names else "no class folders"
        raise ConfigError(f"{folder} has {has}: images lie in {folder}/CLASS/, of two or more.")
    return names


def _images(folder):
    entries = (entry for entry in os.scandir(folder) if entry.name.lower().endswith(SUFFIXES))
    return sorted(entry.path for entry in entries if entry.is_file())


def _some(names):
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
