"""Goyal et al.'s momentum correction for Keras's SGD."""

import keras

from tf_lars.training import requests
from tf_lars.training.state import checked


class MomentumCorrection(keras.callbacks.Callback):
    """Rescales the velocity when the learning rate changes: v ← v·γ_t/γ_{t−1}.

    Keras's SGD keeps the learning rate in its velocity, v = μv − γg, so that after a change of γ
    old gradients go on stepping at the old rate. With the correction the update is that of a
    velocity without it, v = μv + g, w −= γv. `tf_lars.LARS` has it as `momentum_correction=True`.

    Raises:
        ValueError: at the start of `fit`, if the optimizer is not Keras's SGD with momentum, or
            several steps run in one execution, between which a callback is not asked.

    Example:
        >>> model.fit(growing.dataset, callbacks=[growing, MomentumCorrection()])

    Source: Goyal et al. 2017, arXiv 1706.02677, remark 2 and equation 10.
    """

    def __init__(self):
        super().__init__()
        self._last = None

    def on_train_begin(self, logs=None):
        optimizer = requests.innermost(self.model.optimizer)
        if not isinstance(optimizer, keras.optimizers.SGD) or not optimizer.momentum:
            raise ValueError(
                f"MomentumCorrection is for keras.optimizers.SGD with momentum, not "
                f"{type(optimizer).__name__}; LARS takes momentum_correction=True."
            )
        if self.model.steps_per_execution != 1:
            raise ValueError(
                f"MomentumCorrection needs steps_per_execution=1; the model was compiled with "
                f"{self.model.steps_per_execution}."
            )

    def get_state(self):
        """The rate of the last update, as JSON takes it; see `tf_lars.training.state`."""
        return {"last": self._last}

    def set_state(self, state):
        """Goes on from what `get_state` gave.

        Raises:
            ValueError: it is no such state.
        """
        (self._last,) = checked(self, state, ("last",))

    def on_train_batch_begin(self, batch, logs=None):
        optimizer = requests.innermost(self.model.optimizer)
        rate = float(optimizer.learning_rate)
        if optimizer.built and self._last and rate != self._last:
            for velocity in optimizer.momentums:
                velocity.assign(velocity * (rate / self._last))
        self._last = rate
