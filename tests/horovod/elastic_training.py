"""A script for elastic jobs: `fit` on batches that are chosen by their number, paced.

All ranks compute on the same batches, so the weights at the end do not depend on who took part
when, and equal those of one process, as long as no update is lost or made twice.
"""

import os
import sys
import time

import keras
import numpy as np
import tensorflow as tf

STEPS, EPOCHS = 8, 4


def make_model(optimizer):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(16, activation="tanh"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((8,)), *layers])
    model.compile(optimizer, "mse")
    return model


def batches(first):
    def batch(step):
        x = tf.random.stateless_normal([16, 8], seed=[step, 7])
        return x, tf.reduce_sum(x, 1, keepdims=True)

    return tf.data.Dataset.range(first, STEPS * EPOCHS).map(batch)


def optimizer():
    return keras.optimizers.SGD(0.05, momentum=0.9)


def weights(model):
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


def main(folder, pause, pause_alone):
    import tf_lars.horovod as hvd
    from tests.workers import report

    hvd.init()
    model = make_model(hvd.DistributedOptimizer(optimizer()))
    if hvd.rank():
        model.set_weights([weight + 1 for weight in model.get_weights()])
    state = hvd.elastic.KerasState(model, batch=0, epoch=0)

    class Pace(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            with open(os.path.join(folder, f"{os.getpid()}"), "a") as file:
                file.write(f"{hvd.rank()} {hvd.size()} {state.epoch} {state.batch}\n")
            time.sleep(pause if hvd.size() > 1 else pause_alone)

    # The commit comes first, as in Horovod's example, though the counters change after it.
    callbacks = [
        hvd.elastic.CommitStateCallback(state),
        hvd.elastic.UpdateBatchStateCallback(state),
        hvd.elastic.UpdateEpochStateCallback(state),
        Pace(),
    ]

    @hvd.elastic.run
    def train(state):
        epochs = EPOCHS - state.epoch
        data = batches(state.epoch * STEPS + state.batch)
        model.fit(data, steps_per_epoch=STEPS, epochs=epochs, callbacks=callbacks, verbose=0)

    train(state)
    iterations = int(model.optimizer.iterations)
    report([iterations, hvd.size(), state.epoch, state.batch, weights(model).tolist()])


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:]))
