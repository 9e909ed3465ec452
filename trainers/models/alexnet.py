"""AlexNet (Krizhevsky et al. 2012) and the two AlexNet-BN of the LARS paper."""

import keras
from keras import initializers, layers

from trainers.models.layers import (
    LocalResponseNormalization,
    batch_norm,
    images_input,
    logits,
    relu,
)

NORMS = ("lrn", "bn_before", "bn_after")


def alexnet(image_shape, classes, norm="lrn"):
    """The one-column AlexNet that Caffe trains, with convolutions 2, 4 and 5 in two groups.

    Weights start at N(0, 0.01), those of fc6 and fc7 at N(0, 0.005); dropout is 0.5; the paper's
    images are 227×227. The original has 60,965,224 parameters.

    Args:
        image_shape: (height, width, channels), 67×67 pixels or more.
        classes: number of outputs, logits.
        norm: "lrn", the original: local response normalisation after the first two ReLUs.
            "bn_before", the LARS paper's AlexNet-BN (arXiv 1708.03888, section 5): no LRN, and
            BatchNorm on the input of convolutions 2 to 5.
            "bn_after": no LRN, and BatchNorm after every convolution, before its ReLU.

    Raises:
        ValueError: `norm` is another, or the images are too small.

    Example:
        >>> model = alexnet((227, 227, 3), 1000)
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}; got {norm!r}")
    images = images_input(image_shape, at_least=67)
    x = _convolution(images, 1, 96, 11, norm, strides=4, padding="valid")
    x = _pool(_lrn(x, norm))
    x = _convolution(x, 2, 256, 5, norm, groups=2, bias=0.1)
    x = _pool(_lrn(x, norm))
    x = _convolution(x, 3, 384, 3, norm)
    x = _convolution(x, 4, 384, 3, norm, groups=2, bias=0.1)
    x = _convolution(x, 5, 256, 3, norm, groups=2, bias=0.1)
    x = layers.Flatten()(_pool(x))
    for name in ("fc6", "fc7"):
        x = layers.Dense(4096, name=name, **_start(0.005, 0.1))(x)
        x = layers.Dropout(0.5)(relu(x))
    name = "alexnet" if norm == "lrn" else f"alexnet_{norm}"
    return keras.Model(images, logits(x, classes), name=name)


def _convolution(x, index, channels, size, norm, *, bias=0.0, padding="same", **options):
    if norm == "bn_before" and index > 1:
        x = batch_norm(x, name=f"bn{index}")
    options |= _start(0.01, bias) | {"padding": padding, "name": f"conv{index}"}
    x = layers.Conv2D(channels, size, **options)(x)
    if norm == "bn_after":
        x = batch_norm(x, name=f"bn{index}")
    return relu(x)


def _lrn(x, norm):
    return LocalResponseNormalization()(x) if norm == "lrn" else x


def _pool(x):
    return layers.MaxPooling2D(3, 2)(x)


def _start(stddev, bias):
    return {
        "kernel_initializer": initializers.RandomNormal(stddev=stddev),
        "bias_initializer": initializers.Constant(bias),
    }
