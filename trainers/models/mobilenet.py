"""MobileNet v1 (Howard et al. 2017, arXiv 1704.04861) and v2 (Sandler et al. 2018, 1801.04381)."""

import keras
from keras import layers

from trainers.models.layers import (
    batch_norm,
    convolution,
    he_normal_fan_out,
    images_input,
    logits,
    relu,
)

# (channels, stride) of each depthwise separable convolution.
V1 = (
    [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    + [(512, 1)] * 5
    + [(1024, 2), (1024, 1)]
)

# (expansion, channels, repeats, first stride) of each group of inverted residuals.
V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v1(image_shape, classes, width=1.0):
    """MobileNet v1: a 3×3 convolution, then 13 depthwise separable ones.

    Args:
        image_shape: (height, width, channels).
        classes: number of outputs, logits.
        width: multiplier of the channels, which are rounded down; 0.25, 0.5, 0.75, 1 in the paper.

    Raises:
        ValueError: the width is not above 0.

    Example:
        >>> model = mobilenet_v1((224, 224, 3), 1000)  # 4,231,976 trainable parameters
    """
    _check_width(width)
    images = images_input(image_shape)
    x = _convolution(images, int(32 * width), 3, 2)
    for channels, strides in V1:
        x = _depthwise(x, strides)
        x = _convolution(x, int(channels * width), 1)
    x = layers.Dropout(0.001)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(images, logits(x, classes), name=_name("mobilenet_v1", width))


def mobilenet_v2(image_shape, classes, width=1.0):
    """MobileNet v2: 17 inverted residuals with linear bottlenecks.

    Args:
        image_shape: (height, width, channels).
        classes: number of outputs, logits.
        width: multiplier of the channels, rounded to multiples of 8; 0.35 to 1.4 in the paper. The
            last 1,280 channels grow with it and do not shrink.

    Raises:
        ValueError: the width is not above 0.

    Example:
        >>> model = mobilenet_v2((224, 224, 3), 1000)  # 3,504,872 trainable parameters
    """
    _check_width(width)
    images = images_input(image_shape)
    x = _convolution(images, _multiple_of_8(32 * width), 3, 2)
    for expansion, channels, repeats, first_stride in V2:
        for index in range(repeats):
            strides = 1 if index else first_stride
            x = _inverted_residual(x, expansion, _multiple_of_8(channels * width), strides)
    x = _convolution(x, _multiple_of_8(1280 * max(width, 1.0)), 1)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(images, logits(x, classes), name=_name("mobilenet_v2", width))


def _inverted_residual(x, expansion, channels, strides):
    y = _convolution(x, expansion * x.shape[-1], 1) if expansion > 1 else x
    y = batch_norm(convolution(_depthwise(y, strides), channels, 1))
    return layers.add([x, y]) if strides == 1 and x.shape[-1] == channels else y


def _convolution(x, channels, size, strides=1):
    return relu(batch_norm(convolution(x, channels, size, strides, same=True)), 6.0)


def _depthwise(x, strides):
    x = layers.DepthwiseConv2D(
        3,
        strides,
        padding="same",
        use_bias=False,
        depthwise_initializer=he_normal_fan_out(),
    )(x)
    return relu(batch_norm(x), 6.0)


def _multiple_of_8(channels):
    """The nearest multiple of 8, at least 8 and never more than a tenth below `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _check_width(width):
    if not width > 0:
        raise ValueError(f"width must be greater than 0; got {width}")


def _name(base, width):
    return base if width == 1 else f"{base}_{width:g}"
