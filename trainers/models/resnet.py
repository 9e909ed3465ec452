"""ResNet v1.5 (He et al. 2016, arXiv 1512.03385; training details of Goyal et al. 2017)."""

import keras
from keras import layers

from trainers.models.layers import (
    batch_norm,
    convolution,
    images_input,
    logits,
    pad,
    relu,
)

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def resnet(depth, image_shape, classes):
    """ResNet-18, 34, 50, 101 or 152 in the form called v1.5.

    The stride of a bottleneck is on its 3×3 convolution (the paper had it on the first 1×1). γ of
    the last BatchNorm of a block starts at zero, so that a block starts as the identity, and the
    last layer at N(0, 0.01) (Goyal et al. 2017, arXiv 1706.02677, section 5.1).

    Args:
        depth: 18, 34, 50, 101 or 152.
        image_shape: (height, width, channels).
        classes: number of outputs, logits.

    Raises:
        ValueError: the depth is another.

    Example:
        >>> model = resnet(50, (224, 224, 3), 1000)  # 25,557,032 trainable parameters
    """
    if depth not in BLOCKS:
        raise ValueError(f"depth must be one of {sorted(BLOCKS)}; got {depth}")
    block = _basic if depth < 50 else _bottleneck
    images = images_input(image_shape)
    x = relu(batch_norm(convolution(images, 64, 7, 2, name="stem"), name="stem_bn"))
    x = layers.MaxPooling2D(3, 2)(pad(x, 1))
    for stage, blocks in enumerate(BLOCKS[depth]):
        for index in range(blocks):
            strides = 2 if stage and not index else 1
            x = block(x, 64 * 2**stage, strides, f"stage{stage + 1}_block{index + 1}")
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, logits(x, classes), name=f"resnet{depth}")


def _basic(x, channels, strides, name):
    y = relu(_convolution_bn(x, channels, 3, strides, f"{name}_conv1"))
    y = _convolution_bn(y, channels, 3, 1, f"{name}_conv2", zero_gamma=True)
    return relu(layers.add([_shortcut(x, channels, strides, name), y]))


def _bottleneck(x, channels, strides, name):
    y = relu(_convolution_bn(x, channels, 1, 1, f"{name}_conv1"))
    y = relu(_convolution_bn(y, channels, 3, strides, f"{name}_conv2"))
    y = _convolution_bn(y, 4 * channels, 1, 1, f"{name}_conv3", zero_gamma=True)
    return relu(layers.add([_shortcut(x, 4 * channels, strides, name), y]))


def _shortcut(x, channels, strides, name):
    if x.shape[-1] == channels and strides == 1:
        return x
    return _convolution_bn(x, channels, 1, strides, f"{name}_shortcut")


def _convolution_bn(x, channels, size, strides, name, zero_gamma=False):
    x = convolution(x, channels, size, strides, name=name)
    return batch_norm(x, zero_gamma=zero_gamma, name=f"{name}_bn")
