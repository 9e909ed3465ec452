"""Densely connected networks (Huang et al. 2017, arXiv 1608.06993)."""

import keras
from keras import layers

from trainers.models.layers import batch_norm, convolution, images_input, logits, pad, relu

BLOCKS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}


def densenet(depth, image_shape, classes):
    """DenseNet-BC for ImageNet, growth rate 32.

    Args:
        depth: 121, 169 or 201.
        image_shape: (height, width, channels), 32×32 pixels or more.
        classes: number of outputs, logits.

    Raises:
        ValueError: the depth is another, or the images are too small.

    Example:
        >>> model = densenet(121, (224, 224, 3), 1000)  # 7,978,856 trainable parameters
    """
    if depth not in BLOCKS:
        raise ValueError(f"depth must be one of {sorted(BLOCKS)}; got {depth}")
    images = images_input(image_shape, at_least=32)
    x = relu(batch_norm(convolution(images, 64, 7, 2)))
    x = layers.MaxPooling2D(3, 2)(pad(x, 1))
    x = _dense_blocks(x, BLOCKS[depth], growth=32)
    return keras.Model(images, logits(x, classes), name=f"densenet{depth}")


def densenet_cifar(depth, growth, image_shape, classes):
    """DenseNet-BC for small images: three blocks of (depth − 4) / 6 layers.

    Args:
        depth: 6n + 4; 100, 190 or 250 in the paper.
        growth: channels that a layer adds; 12, 40 or 24 in the paper.
        image_shape: (height, width, channels).
        classes: number of outputs, logits.

    Raises:
        ValueError: the depth is not 6n + 4 or the growth not positive.

    Example:
        >>> model = densenet_cifar(100, 12, (32, 32, 3), 10)  # 769,162 trainable parameters
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth must be 6n + 4, 100 say; got {depth}")
    if growth < 1:
        raise ValueError(f"growth must be at least 1; got {growth}")
    images = images_input(image_shape, at_least=4)
    x = convolution(images, 2 * growth, 3)
    x = _dense_blocks(x, [(depth - 4) // 6] * 3, growth)
    return keras.Model(images, logits(x, classes), name=f"densenet_bc{depth}_{growth}")


def _dense_blocks(x, blocks, growth):
    """Dense blocks with a transition, which halves channels and size, between each two."""
    for index, count in enumerate(blocks):
        if index:
            x = convolution(relu(batch_norm(x)), x.shape[-1] // 2, 1)
            x = layers.AveragePooling2D(2)(x)
        for _ in range(count):
            x = layers.concatenate([x, _bottleneck(x, growth)])
    return layers.GlobalAveragePooling2D()(relu(batch_norm(x)))


def _bottleneck(x, growth):
    x = convolution(relu(batch_norm(x)), 4 * growth, 1)
    return convolution(relu(batch_norm(x)), growth, 3)
