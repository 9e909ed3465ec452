"""The residual networks for small images of He et al. 2016 (arXiv 1512.03385, section 4.2)."""

import keras
from keras import layers


def resnet_cifar(depth, image_shape, classes):
    """ResNet with 6n + 2 layers: three stages of n blocks with 16, 32 and 64 channels.

    Shortcuts are the paper's option A, which has no parameters: where the size halves, every second
    pixel, and zeros for the new channels. ResNet-20 has 0.27 M parameters, ResNet-110 1.7 M.

    Args:
        depth: 20, 32, 44, 56, 110 in the paper; 6n + 2 with n ≥ 1.
        image_shape: (height, width, channels).
        classes: number of outputs, logits.

    Raises:
        ValueError: the depth is not 6n + 2.

    Example:
        >>> resnet_cifar(20, (32, 32, 3), 10).count_params()
        271098
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 6n + 2, 20 or 32 say; got {depth}")
    images = keras.Input(image_shape, name="images")
    x = _relu(_convolution(images, 16))
    for stage, channels in enumerate((16, 32, 64)):
        for block in range((depth - 2) // 6):
            x = _block(x, channels, strides=2 if stage and not block else 1)
    x = layers.GlobalAveragePooling2D()(x)
    logits = layers.Dense(  # in float32 under every dtype policy
        classes, kernel_initializer="he_normal", dtype="float32", name="logits"
    )(x)
    return keras.Model(images, logits, name=f"resnet{depth}")


def _block(x, channels, strides):
    residual = _relu(_convolution(x, channels, strides))
    residual = _convolution(residual, channels)
    if strides > 1:
        x = layers.AveragePooling2D(1, strides)(x)
    if x.shape[-1] < channels:
        new = channels - x.shape[-1]
        x = keras.ops.pad(x, [(0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)])
    return _relu(layers.add([x, residual]))


def _convolution(x, channels, strides=1):
    x = layers.Conv2D(
        channels,
        3,
        strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
    )(x)
    return layers.BatchNormalization(epsilon=1e-5)(x)


def _relu(x):
    return layers.Activation("relu")(x)
