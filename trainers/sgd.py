"""SGD with weight decay as the published large-batch recipes mean it."""

import keras


@keras.saving.register_keras_serializable("tf_lars")
class L2SGD(keras.optimizers.SGD):
    """Keras's SGD on g + l2·w, for variables with two axes or more.

    The decay passes through the momentum and the learning rate: v = μv − γ(g + l2·w), w += v
    (Goyal et al. 2017, arXiv 1706.02677, section 3, remark 1).

    Args:
        l2: the decay β, not negative.
        **arguments: those of `keras.optimizers.SGD`.

    Raises:
        ValueError: `l2` is negative.

    Example:
        >>> optimizer = L2SGD(0.1, momentum=0.9, l2=1e-4)
    """

    def __init__(self, learning_rate=0.01, l2=0.0, **arguments):
        if not l2 >= 0:
            raise ValueError(f"l2 must not be negative; got {l2!r}")
        super().__init__(learning_rate, **arguments)
        self.l2 = l2

    def update_step(self, gradient, variable, learning_rate):
        if self.l2 and len(variable.shape) > 1:
            decay = keras.ops.cast(self.l2 * keras.ops.convert_to_tensor(variable), gradient.dtype)
            gradient = gradient + decay
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return super().get_config() | {"l2": self.l2}
