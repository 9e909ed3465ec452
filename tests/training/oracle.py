"""Gradients of single rows and of parts of a batch, computed the slow and obvious way."""

import keras
import numpy as np
import tensorflow as tf


def gradient(model, x, y):
    """The gradient of the mean loss of the rows given, as a list of arrays."""
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True), training=True)
    return [np.array(tf.convert_to_tensor(g)) for g in tape.gradient(loss, trainable(model))]


def trainable(model):
    return [v.value if isinstance(v, keras.Variable) else v for v in model.trainable_variables]


def part_norms(model, x, y, size):
    """‖g_n‖ of each part of `size` rows, an array [parts, K]."""
    starts = range(0, len(x), size)
    return np.array(
        [
            [np.linalg.norm(g) for g in gradient(model, x[s : s + size], y[s : s + size])]
            for s in starts
        ]
    )


def norms(gradients):
    return np.array([np.linalg.norm(g) for g in gradients])


class Recorder(keras.callbacks.Callback):
    """An observer that keeps the statistics of the last step in variables."""

    def __init__(self, count):
        super().__init__()
        fields = ("squared_norm", "mean_norm", "mean_squared_norm", "mean_worker_norm")
        scalars = ("batch", "parts", "workers")
        self.values = {name: tf.Variable(tf.zeros([count])) for name in fields}
        self.values |= {name: tf.Variable(0.0) for name in scalars}

    def observe(self, statistics):
        for name, variable in self.values.items():
            variable.assign(getattr(statistics, name))

    def __getitem__(self, name):
        return self.values[name].numpy()
