"""An elastic script as people write it for Horovod: `fit` before the job and at every reset.

The first `fit` creates the optimizer's variables; the one at a reset gives the new number of ranks
its learning rate. Each rank draws batches of its own.
"""

import os
import sys
import time

import keras
import numpy as np
import tensorflow as tf

RATE, STEPS, EPOCHS = 0.001, 40, 3


def dataset():
    generator = np.random.default_rng(0)
    x, y = np.float32(generator.normal(size=(256, 8, 8, 1))), generator.integers(0, 4, 256)
    return tf.data.Dataset.from_tensor_slices((x, y)).repeat().shuffle(100).batch(16)


def main(folder, pause):
    import tf_lars.horovod as hvd
    from tests.workers import report

    hvd.init()
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Flatten(),
            keras.layers.Dense(4),
        ]
    )
    model.compile(
        hvd.DistributedOptimizer(keras.optimizers.Adam(RATE * hvd.size())),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    data = dataset()
    model.fit(data, steps_per_epoch=1, epochs=1, verbose=0)
    state = hvd.elastic.KerasState(model, batch=0, epoch=0)

    def on_state_reset():
        model.optimizer.learning_rate.assign(RATE * hvd.size())
        model.fit(data, steps_per_epoch=1, epochs=1, verbose=0)

    state.register_reset_callbacks([on_state_reset])

    class Pace(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            with open(os.path.join(folder, f"{os.getpid()}"), "a") as file:
                file.write(f"{hvd.rank()} {hvd.size()} {state.epoch} {state.batch}\n")
            time.sleep(pause)

    callbacks = [
        hvd.callbacks.MetricAverageCallback(),
        hvd.elastic.UpdateEpochStateCallback(state),
        hvd.elastic.UpdateBatchStateCallback(state),
        hvd.elastic.CommitStateCallback(state),
        Pace(),
    ]

    @hvd.elastic.run
    def train(state):
        steps, epochs = STEPS // hvd.size(), EPOCHS - state.epoch
        model.fit(data, steps_per_epoch=steps, epochs=epochs, callbacks=callbacks, verbose=0)

    train(state)
    rate = float(model.optimizer.learning_rate)
    weights = [weight.tolist() for weight in model.get_weights()]
    report([hvd.size(), state.epoch, state.batch, rate, weights])


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
