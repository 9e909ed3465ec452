"""ImageNet, and any images in folders: large images that are decoded as they are needed."""

import functools

from trainers.data.preparing import Unprepared, prepare_once
from trainers.errors import ConfigError

_SPLITS = {"train": "train", "test": "validation"}


def _large_images(
    name,
    open_sources,
    data_dir=None,
    image_size=224,
    eval_image_size=None,
    crop="inception",
    rand_augment=0.0,
    max_corrupt_images=100,
):
    """A data set of large images; `open_sources(data_dir, workers)` gives (classes, sources)."""

    def load(workers):
        from trainers.data.decode import CROPS
        from trainers.data.encoded import EncodedDataSet
        from trainers.data.mixing import RandAugment

        classes, sources = open_sources(data_dir, workers)
        return EncodedDataSet(
            name=name,
            classes=classes,
            sources=sources,
            crop=CROPS[crop],
            image_size=image_size,
            eval_image_size=eval_image_size or image_size,
            max_corrupt_images=max_corrupt_images,
            augment=RandAugment(rand_augment) if rand_augment else None,
        )

    return Unprepared(load)


def _open_imagenet(data_dir, workers):
    from trainers.data.prepared import prepared_builder
    from trainers.data.records import RecordSource, index_records

    def places(builder, split):
        files = _files(builder, _SPLITS[split])
        return files, index_records(files, builder.data_path / f"{split}_places.npz")

    builder = prepared_builder("imagenet2012", data_dir, workers)
    _check(builder)
    # One worker looks the records up, the others find what it has written.
    prepare_once(workers, lambda: False, lambda: [places(builder, split) for split in _SPLITS])
    sources = {split: RecordSource(*places(builder, split)) for split in _SPLITS}
    return builder.info.features["label"].num_classes, sources


def _check(builder):
    missing = [split for split in _SPLITS.values() if split not in builder.info.splits]
    if missing:
        raise ConfigError(
            f"{builder.data_path} was prepared without {' and '.join(missing)}: put both "
            "tars into place, remove the folder and start again."
        )
    if builder.info.file_format.value != "tfrecord":
        raise ConfigError(
            f"{builder.data_path} was prepared as {builder.info.file_format.value}; "
            "only tfrecord, which is tensorflow-datasets' default, can be read."
        )


def _files(builder, split):
    return [str(file) for file in builder.info.splits[split].filepaths]


def _open_folder(data_dir, workers):
    from trainers.data.folder import FolderSource, class_names, split_folders

    if data_dir is None:
        raise ConfigError("--dataset=image_folder needs --data_dir, the folder that holds train/.")
    folders = split_folders(data_dir)
    names = class_names(folders["train"])
    sources = {split: FolderSource(folder, names) for split, folder in folders.items()}
    return len(names), sources


# 1,281,167 images to train on and 50,000 to test on, as tensorflow-datasets prepares them.
imagenet2012 = functools.partial(_large_images, "imagenet2012", _open_imagenet)

# DATA_DIR/train/CLASS/FILE, and DATA_DIR/test/CLASS/FILE or val/.
image_folder = functools.partial(_large_images, "image_folder", _open_folder)
