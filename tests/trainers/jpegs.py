"""Small images of known colours, as files, folders, and ImageNet's tars."""

import io
import tarfile

import numpy as np
from PIL import Image


def jpeg(colour, height=40, width=50, kind="JPEG"):
    """The bytes of an image of one colour (red, green, blue)."""
    data = io.BytesIO()
    pixels = np.full((height, width, 3), colour, np.uint8)
    Image.fromarray(pixels).save(data, kind, quality=95)
    return data.getvalue()


def colour(number):
    """A colour of its own for each number below 64; the red channel tells `number` apart."""
    return (4 * number, 100, 255 - 4 * number)


def image_folder(root, train=(6, 6), test=(3, 2), test_name="test"):
    """Writes `train[c]` and `test[c]` images of the classes class0, class1 …; gives the root."""
    number = 0
    for split, counts in (("train", train), (test_name, test)):
        for label, count in enumerate(counts):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index:03}.jpg").write_bytes(jpeg(colour(number)))
                number += 1
    return root


def imagenet_tars(folder, classes=("n01440764", "n01443537", "n01484850"), each=4, test=7):
    """Writes ILSVRC2012_img_train.tar and _val.tar with small images, as image-net.org has them."""
    folder.mkdir(parents=True)
    number = 0
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as outer:
        for name in classes:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for index in range(each):
                    _add(tar, f"{name}_{index}.JPEG", jpeg(colour(number)))
                    number += 1
            _add(outer, f"{name}.tar", inner.getvalue())
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
        for index in range(1, test + 1):
            _add(tar, f"ILSVRC2012_val_{index:08}.JPEG", jpeg(colour(30 + index)))


def _add(tar, name, data):
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))
