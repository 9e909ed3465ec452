"""Keras callbacks for training with Horovod."""

import numbers

import horovod.tensorflow as horovod
import keras
import tensorflow as tf

from tf_lars.horovod.learning_rate import (
    LearningRateScheduleCallback,
    LearningRateWarmupCallback,
)
from tf_lars.horovod.metrics import MetricSnapshot
from tf_lars.horovod.sync_check import CheckInSyncCallback
from tf_lars.horovod.variables import average_variables, broadcast_variables, tf_variable

__all__ = [
    "BatchNormAverageCallback",
    "BestModelCheckpoint",
    "BroadcastGlobalVariablesCallback",
    "CheckInSyncCallback",
    "LearningRateScheduleCallback",
    "LearningRateWarmupCallback",
    "MetricAverageCallback",
    "average_batch_norm_statistics",
]


class BroadcastGlobalVariablesCallback(keras.callbacks.Callback):
    """Gives every rank the root's model and optimizer variables before the first step of `fit`.

    Needed for all ranks to start alike, from random weights or from a checkpoint that the root has
    loaded. States of seed generators stay apart, so that the ranks draw different dropout masks.
    A model without variables yet is built from the data's shapes in front of the first step; one
    that cannot be built so (its `train_step` builds it) is broadcast right after its first step.

    Args:
        root_rank: the rank that sends; the others receive.
        device: TensorFlow device to broadcast on; "" leaves it to TensorFlow.
        local_variables: a variable or a collection of variables that every rank keeps for itself.
        process_set: the ranks that take part.

    Raises:
        ValueError: if `root_rank` is no rank, or `local_variables` holds something else.

    Example:
        >>> hvd.init()
        >>> model.fit(x, y, callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)])
    """

    def __init__(
        self,
        root_rank,
        device="",
        local_variables=None,
        process_set=horovod.global_process_set,
    ):
        super().__init__()
        if not isinstance(root_rank, numbers.Integral) or root_rank < 0:
            raise ValueError(f"root_rank is a rank, 0 or more; got {root_rank!r}")
        self.root_rank, self.device, self.process_set = root_rank, device, process_set
        self.broadcast_done = False
        self._local = set()
        if local_variables is None:
            local_variables = []
        elif isinstance(local_variables, (tf.Variable, keras.Variable)):
            local_variables = [local_variables]
        for variable in local_variables:
            self.register_local_var(variable)

    def register_local_var(self, var):
        """Leaves a variable, `keras.Variable` or `tf.Variable`, out of the broadcast."""
        if not isinstance(var, (tf.Variable, keras.Variable)):
            raise ValueError(f"local_variables takes variables, got {type(var).__name__}: {var!r}")
        self._local.add(id(tf_variable(var)))

    def on_train_begin(self, logs=None):
        if self.root_rank >= horovod.size():
            raise ValueError(f"root_rank {self.root_rank} with only {horovod.size()} ranks")
        self.broadcast_done = False
        if all(layer.built for layer in self.model._flatten_layers()):
            self._build_optimizer_and_broadcast()
        else:
            self._broadcast_at_first_data()

    def _broadcast_at_first_data(self):
        """Puts the broadcast in front of the first step, which knows the shapes of the data."""
        model, step = self.model, self.model.train_function

        def build_broadcast_and_step(iterator):
            model.train_function = step
            x, _, _ = keras.utils.unpack_x_y_sample_weight(iterator.element_spec)
            try:
                model(keras.tree.map_structure(_symbolic, x))
            except Exception:  # built in a way of its own, by its `train_step`, say
                logs = step(iterator)
                self._build_optimizer_and_broadcast()
                return logs
            self._build_optimizer_and_broadcast()
            return step(iterator)

        model.train_function = build_broadcast_and_step

    def _build_optimizer_and_broadcast(self):
        optimizer = self.model.optimizer
        if optimizer is not None and not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        variables = [*self.model.variables, *(optimizer.variables if optimizer else [])]
        shared = [v for v in variables if id(tf_variable(v)) not in self._local]
        with tf.device(self.device):
            broadcast_variables(shared, self.root_rank, self.process_set)
        self.broadcast_done = True


def _symbolic(spec):
    return keras.KerasTensor(spec.shape, spec.dtype.name)


class MetricAverageCallback(keras.callbacks.Callback):
    """Replaces the logs of each epoch, training and validation, by those of all ranks together.

    A mean is the sum over all ranks divided by the count over all ranks, so it is exact when the
    ranks hold different numbers of rows; the same holds for every metric whose state adds up
    (precision, AUC, IoU, …). All ranks get the same bits, so that callbacks which decide by a
    metric (EarlyStopping, ReduceLROnPlateau) decide alike. It stands before them in the list.
    Other numbers in the logs, such as those of a `train_step` of your own, are averaged plainly.

    Args:
        device: TensorFlow device to reduce on; "" leaves it to TensorFlow.
        process_set: the ranks that take part.

    Example:
        >>> model.fit(x, y, callbacks=[hvd.callbacks.MetricAverageCallback()])
    """

    def __init__(self, device="", process_set=horovod.global_process_set):
        super().__init__()
        self.device, self.process_set = device, process_set
        self._in_epoch = False
        self._train = self._validation = None

    def on_epoch_begin(self, epoch, logs=None):
        self._in_epoch = True
        self._train = self._validation = None

    def on_test_begin(self, logs=None):
        # Keras validates with the same metric objects: this is the last moment that they hold the
        # training epoch.
        if self._in_epoch:
            self._train = MetricSnapshot(self.model)

    def on_test_end(self, logs=None):
        if self._in_epoch:
            self._validation = MetricSnapshot(self.model)

    def on_epoch_end(self, epoch, logs=None):
        self._in_epoch = False
        if not logs or horovod.size() == 1 or not self.process_set.included():
            return
        train = self._train or MetricSnapshot(self.model)
        validation = self._validation or train
        val_logs = {key: value for key, value in logs.items() if key.startswith("val_")}
        train_logs = {key: value for key, value in logs.items() if key not in val_logs}
        val_logs = {key.removeprefix("val_"): value for key, value in val_logs.items()}
        with tf.device(self.device):
            name = f"tf_lars.metrics.{self.process_set.process_set_id}"
            logs.update(train.averaged(train_logs, f"{name}.train", self.process_set))
            means = validation.averaged(val_logs, f"{name}.validation", self.process_set)
        logs.update((f"val_{key}", mean) for key, mean in means.items())


def average_batch_norm_statistics(model, process_set=horovod.global_process_set):
    """Gives every rank the mean over the ranks of the moving means and variances of `model`.

    Each rank's batch normalization sees its own rows, so these drift apart although all trained
    weights agree, and what rank 0 evaluates or saves is one rank's. A collective call: every rank.

    Args:
        model: a `keras.Model`; its layers with `moving_mean` and `moving_variance` are averaged.
        process_set: the ranks that take part.
    """
    layers = [layer for layer in model._flatten_layers() if hasattr(layer, "moving_variance")]
    statistics = [v for layer in layers for v in (layer.moving_mean, layer.moving_variance)]
    average_variables(statistics, process_set)


class BatchNormAverageCallback(keras.callbacks.Callback):
    """Averages batch-normalization statistics over the ranks before evaluation and saving.

    It acts before every evaluation and at the end of every epoch, so it stands before callbacks
    that save. Not needed for `hvd.SyncBatchNormalization`, whose statistics agree.

    Args:
        process_set: the ranks that take part.

    Example:
        >>> callbacks = [hvd.callbacks.BatchNormAverageCallback()]
        >>> model.fit(x, y, validation_data=(vx, vy), callbacks=callbacks)
        >>> model.evaluate(vx, vy, callbacks=callbacks)
    """

    def __init__(self, process_set=horovod.global_process_set):
        super().__init__()
        self.process_set = process_set

    def on_test_begin(self, logs=None):
        average_batch_norm_statistics(self.model, self.process_set)

    def on_epoch_end(self, epoch, logs=None):
        average_batch_norm_statistics(self.model, self.process_set)


class BestModelCheckpoint(keras.callbacks.ModelCheckpoint):
    """Saves the best model so far: rank 0 decides and writes, and all ranks wait for it.

    It goes on every rank, after `MetricAverageCallback`, so that the best is that of all ranks.

    Args:
        monitor, verbose, save_weights_only, mode, save_freq: as of `keras.callbacks.
            ModelCheckpoint`.
        filepath: where to save, ending in `.keras` or `.weights.h5`; Horovod's constructor has
            none, so it may also be set as an attribute before training.

    Raises:
        ValueError: if `fit` begins without a `filepath`.
        RuntimeError: on the other ranks when rank 0 could not write.

    Example:
        >>> hvd.callbacks.BestModelCheckpoint(monitor="val_accuracy", filepath="best.keras")
    """

    def __init__(
        self,
        monitor="val_loss",
        verbose=0,
        save_weights_only=False,
        mode="auto",
        save_freq="epoch",
        filepath=None,
    ):
        super().__init__(
            filepath=filepath or ("unset.weights.h5" if save_weights_only else "unset.keras"),
            monitor=monitor,
            verbose=verbose,
            save_best_only=True,
            save_weights_only=save_weights_only,
            mode=mode,
            save_freq=save_freq,
        )
        self.filepath = filepath and self.filepath

    def on_train_begin(self, logs=None):
        if not self.filepath:
            raise ValueError("BestModelCheckpoint needs a filepath: pass it or set the attribute")

    def _save_model(self, epoch, batch, logs):
        error = None
        if horovod.rank() == 0:
            try:
                super()._save_model(epoch, batch, logs)
            except Exception as raised:
                error = raised
        self.best, failure = horovod.broadcast_object(
            (self.best, error and f"{type(error).__name__}: {error}"),
            name="tf_lars.best_model_checkpoint",
        )
        if error is not None:
            raise error
        if failure:
            raise RuntimeError(f"rank 0 could not save {self.filepath}: {failure}")
