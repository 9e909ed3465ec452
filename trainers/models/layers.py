"""The pieces that the networks share, in Keras 3 layers only, so that they build on any backend.

No layer has a regulariser: weight decay belongs to the optimizer.
"""

import keras
from keras import initializers, layers, ops

# The one place for BatchNorm's constants; a run sets the momentum of a built model's layers itself.
BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}


def he_normal_fan_out():
    """N(0, 2 / fan-out), which keeps the variance of gradients (He et al. 2015, section 2.2)."""
    return initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def images_input(image_shape, at_least=1):
    """The input of a network.

    Raises:
        ValueError: the shape is not (height, width, channels) or smaller than `at_least` pixels.
    """
    if len(image_shape) != 3 or min(image_shape) < 1 or min(image_shape[:2]) < at_least:
        raise ValueError(
            f"image_shape must be (height, width, channels) with at least {at_least}×{at_least} "
            f"pixels for this network; got {tuple(image_shape)}"
        )
    return keras.Input(image_shape, name="images")


def convolution(x, channels, size, strides=1, *, same=False, name=None):
    """A convolution without bias that pads (size − 1) / 2 on every side, whatever the stride.

    `same` leaves the padding to TensorFlow's rule, which pads less above and to the left of an even
    image under a stride.
    """
    if strides > 1 and size > 1 and not same:
        x = pad(x, (size - 1) // 2)
        padding = "valid"
    else:
        padding = "same"
    return layers.Conv2D(
        channels,
        size,
        strides,
        padding=padding,
        use_bias=False,
        kernel_initializer=he_normal_fan_out(),
        name=name,
    )(x)


def pad(x, pixels):
    return layers.ZeroPadding2D(pixels)(x)


def batch_norm(x, *, zero_gamma=False, name=None):
    gamma = "zeros" if zero_gamma else "ones"
    return layers.BatchNormalization(gamma_initializer=gamma, name=name, **BATCH_NORM)(x)


def relu(x, max_value=None):
    return layers.ReLU(max_value)(x)


def logits(x, classes, stddev=0.01, **options):
    """The last layer, in float32 under every dtype policy: a loss in half precision loses bits."""
    options = {"kernel_initializer": initializers.RandomNormal(stddev=stddev)} | options
    return layers.Dense(classes, dtype="float32", name="logits", **options)(x)


@keras.saving.register_keras_serializable("tf_lars")
class LocalResponseNormalization(layers.Layer):
    """Divides each value by a power of the energy of the neighbouring channels.

    y_c = x_c / (bias + alpha/size · Σ x²)^beta, the sum over the `size` channels around c, those
    outside counting as zero (Krizhevsky et al. 2012, section 3.3; the division of alpha by the size
    and bias 1 are Caffe's, which the LARS paper trained with).

    Args:
        size: number of channels in the sum, odd.
        alpha, beta, bias: the constants of the formula.

    Raises:
        ValueError: `size` is not an odd positive integer.

    Example:
        >>> LocalResponseNormalization()(keras.ops.ones((1, 4, 4, 16))).shape
        (1, 4, 4, 16)
    """

    def __init__(self, size=5, alpha=1e-4, beta=0.75, bias=1.0, **arguments):
        super().__init__(**arguments)
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size must be odd and positive; got {size}")
        self.size, self.alpha, self.beta, self.bias = size, alpha, beta, bias

    def call(self, inputs):
        channels, half = inputs.shape[-1], self.size // 2
        # Squares overflow half precision.
        squares = ops.square(ops.cast(inputs, "float32"))
        squares = ops.pad(squares, [(0, 0), (0, 0), (0, 0), (half, half)])
        energy = sum(squares[..., start : start + channels] for start in range(self.size))
        scale = ops.power(self.bias + self.alpha / self.size * energy, -self.beta)
        return inputs * ops.cast(scale, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        constants = {name: getattr(self, name) for name in ("size", "alpha", "beta", "bias")}
        return super().get_config() | constants
