"""Wide residual networks for small images (Zagoruyko and Komodakis 2016, arXiv 1605.07146)."""

import keras
from keras import layers

from trainers.models.layers import batch_norm, convolution, images_input, logits, relu


def wide_resnet(depth, width, image_shape, classes):
    """WRN-depth-width: pre-activation blocks of two 3×3 convolutions, 16 to 64 × width channels.

    Args:
        depth: 6n + 4: 16 in Smith et al. 2018, 28 and 40 in the paper.
        width: factor on the channels.
        image_shape: (height, width, channels).
        classes: number of outputs, logits.

    Raises:
        ValueError: the depth is not 6n + 4 or the width not positive.

    Example:
        >>> model = wide_resnet(16, 4, (32, 32, 3), 10)  # 2,748,890 trainable parameters
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth must be 6n + 4, 16 or 28 say; got {depth}")
    if width < 1:
        raise ValueError(f"width must be at least 1; got {width}")
    images = images_input(image_shape)
    x = convolution(images, 16, 3)
    for stage in range(3):
        for block in range((depth - 4) // 6):
            strides = 2 if stage and not block else 1
            x = _block(x, 16 * 2**stage * width, strides)
    x = layers.GlobalAveragePooling2D()(relu(batch_norm(x)))
    return keras.Model(images, logits(x, classes), name=f"wide_resnet{depth}_{width}")


def _block(x, channels, strides):
    activated = relu(batch_norm(x))
    if x.shape[-1] != channels:
        x = convolution(activated, channels, 1, strides)
    y = relu(batch_norm(convolution(activated, channels, 3, strides)))
    return layers.add([x, convolution(y, channels, 3)])
