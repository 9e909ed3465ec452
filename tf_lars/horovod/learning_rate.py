"""Learning-rate callbacks with momentum correction, as in Horovod's Keras interface."""

import warnings

import horovod.tensorflow as horovod
import keras
import tensorflow as tf

from tf_lars.horovod.variables import tf_variable


def _innermost(optimizer):
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def _velocities(optimizer):
    """The velocities that hold the learning rate, v ← μv + γ·(…), and so need the correction."""
    optimizer = _innermost(optimizer)
    if not getattr(optimizer, "momentum", None):
        return []
    if hasattr(optimizer, "momentum_rule"):  # LARS and its relatives
        corrects_itself = getattr(optimizer, "momentum_correction", False)
        if optimizer.momentum_rule != "scaled" or corrects_itself:
            return []
    elif not isinstance(optimizer, (keras.optimizers.SGD, keras.optimizers.RMSprop)):
        warnings.warn(
            f"momentum_correction does nothing for {type(optimizer).__name__}: whether its "
            "velocity holds the learning rate is known for SGD, RMSprop and LARS only",
            stacklevel=2,
        )
        return []
    return [v for v in optimizer.variables if v.name.endswith("_momentum")]


class LearningRateScheduleCallback(keras.callbacks.Callback):
    """Sets the learning rate to `initial_lr * multiplier(epoch)` within a range of epochs.

    Momentum correction (Goyal et al. 2017, arXiv 1706.02677, remark 2): a velocity that holds the
    learning rate, v ← μv + γg, is scaled by γ_new/γ_old when the rate changes. Horovod changed μ
    for one step instead; for SGD that is the same arithmetic, and a compiled step under Keras 3
    would not see the change of μ.

    Args:
        initial_lr: γ at the start of the training.
        multiplier: function of the epoch (an integer with `staircase`, otherwise
            epoch + batch / steps_per_epoch), or a number m for m ** (epoch − start_epoch).
        start_epoch: first epoch in which the callback sets the rate.
        end_epoch: first epoch in which it does not any more; None for no end.
        staircase: set the rate at the start of each epoch; otherwise at the start of each batch.
        momentum_correction: scale the velocities of SGD, RMSprop and LARS along with the rate.
        steps_per_epoch: number of batches in an epoch; None takes what `fit` says.

    Raises:
        ValueError: without `initial_lr`; in `fit` without a known number of steps, or when the
            optimizer's rate is a schedule already.

    Example:
        >>> hvd.callbacks.LearningRateScheduleCallback(0.1, lambda epoch: 0.1 ** (epoch // 30))
    """

    def __init__(
        self,
        initial_lr,
        multiplier,
        start_epoch=0,
        end_epoch=None,
        staircase=True,
        momentum_correction=True,
        steps_per_epoch=None,
    ):
        super().__init__()
        if initial_lr is None:
            raise ValueError("Parameter `initial_lr` is required")
        self.initial_lr = initial_lr
        self.start_epoch, self.end_epoch = start_epoch, end_epoch
        self.staircase = staircase
        self.momentum_correction = momentum_correction
        self.steps_per_epoch = steps_per_epoch
        self.current_epoch = None
        self._scale_velocities = None
        self.multiplier = multiplier
        if not callable(multiplier):
            self.multiplier = lambda epoch: multiplier ** (epoch - start_epoch)

    def on_train_begin(self, logs=None):
        optimizer = _innermost(self.model.optimizer)
        if not isinstance(optimizer._learning_rate, keras.Variable):
            raise ValueError(
                f"{type(self).__name__} sets the learning rate, but the optimizer's is "
                f"{optimizer._learning_rate!r}: give the optimizer a number"
            )
        if not self.staircase and not self.steps_per_epoch:
            self.steps_per_epoch = (self.params or {}).get("steps")
            if not self.steps_per_epoch:
                raise ValueError(
                    "Could not autodetect the number of steps per epoch: pass steps_per_epoch to "
                    f"{type(self).__name__}() or to fit()"
                )

    def on_epoch_begin(self, epoch, logs=None):
        self.current_epoch = epoch

    def on_batch_begin(self, batch, logs=None):
        ended = self.end_epoch is not None and self.current_epoch >= self.end_epoch
        if self.current_epoch < self.start_epoch or ended:
            return
        if not self.staircase:
            self._adjust(self.current_epoch + batch / self.steps_per_epoch)
        elif batch == 0:
            self._adjust(self.current_epoch)

    def _adjust(self, epoch):
        optimizer = self.model.optimizer
        old, new = float(optimizer.learning_rate), float(self.initial_lr * self.multiplier(epoch))
        optimizer.learning_rate = new
        if self.momentum_correction and optimizer.built and old > 0 and new != old:
            if self._scale_velocities is None:
                self._scale_velocities = _scaling_of(_velocities(optimizer))
            self._scale_velocities(tf.constant(new / old))

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["lr"] = float(self.model.optimizer.learning_rate)


def _scaling_of(variables):
    """One compiled call that multiplies all the variables by a factor."""
    variables = [tf_variable(variable) for variable in variables]

    @tf.function
    def scale(factor):
        for variable in variables:
            variable.assign(variable * tf.cast(factor, variable.dtype))

    return scale


class LearningRateWarmupCallback(LearningRateScheduleCallback):
    """Raises the learning rate from `initial_lr / size` to `initial_lr`, a little every batch.

    With N ranks and W warm-up epochs, at epoch e = epoch + (batch + 1) / steps_per_epoch:
    γ = initial_lr / N · (e · (N − 1) / W + 1) (Goyal et al. 2017, arXiv 1706.02677, section 2.2).

    Args:
        initial_lr: γ after the warm-up, that is already scaled by the number of ranks.
        warmup_epochs: W.
        momentum_correction: scale the velocities along (see `LearningRateScheduleCallback`).
        steps_per_epoch: number of batches in an epoch; None takes what `fit` says.
        verbose: 1 prints a line on rank 0 when the warm-up ends.

    Raises:
        ValueError: as `LearningRateScheduleCallback`, and for a negative `warmup_epochs`.

    Example:
        >>> rate = 0.1 * hvd.size()
        >>> hvd.callbacks.LearningRateWarmupCallback(initial_lr=rate, warmup_epochs=3, verbose=1)
    """

    def __init__(
        self,
        initial_lr,
        warmup_epochs=5,
        momentum_correction=True,
        steps_per_epoch=None,
        verbose=0,
    ):
        if warmup_epochs < 0:
            raise ValueError(f"warmup_epochs is 0 or more, got {warmup_epochs!r}")

        def multiplier(epoch):
            # One batch ahead, so that an epoch ends at a round number.
            epoch += 1 / self.steps_per_epoch
            size = horovod.size()
            return (epoch * (size - 1) / warmup_epochs + 1) / size

        super().__init__(
            initial_lr,
            multiplier,
            end_epoch=warmup_epochs,
            staircase=False,
            momentum_correction=momentum_correction,
            steps_per_epoch=steps_per_epoch,
        )
        self.verbose = verbose

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if epoch == self.end_epoch - 1 and self.verbose > 0 and horovod.rank() == 0:
            rate = float(self.model.optimizer.learning_rate)
            print(f"\nEpoch {epoch + 1}: finished gradual learning rate warmup to {rate:g}.")
