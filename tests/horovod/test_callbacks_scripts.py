"""Scripts as people wrote them for Horovod's Keras interface, with only the import changed."""

from tests import workers

# After Horovod's examples/keras/keras_mnist_advanced.py and keras_imagenet_resnet50.py: layers
# without input shapes, generators, callbacks, checkpoints on rank 0, and resuming from them with
# `load_model` on rank 0 alone.
SCRIPT = """
import os
import sys

import keras
import numpy as np
from keras.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten

import tf_lars.horovod as hvd
from tests.workers import report

hvd.init()
folder, epochs, batch_size = sys.argv[1], int(sys.argv[2]), 16
checkpoint_format = os.path.join(folder, "checkpoint-{epoch}.keras")

resume_from_epoch = 0
if hvd.rank() == 0:
    for try_epoch in range(epochs, 0, -1):
        if os.path.exists(checkpoint_format.format(epoch=try_epoch)):
            resume_from_epoch = try_epoch
            break
resume_from_epoch = int(hvd.broadcast(resume_from_epoch, 0, name="resume_from_epoch"))

generator = np.random.default_rng(hvd.rank())
def flow():
    while True:
        y = generator.integers(0, 4, batch_size)
        x = generator.normal(size=(batch_size, 8, 8, 1)) + y[:, None, None, None]
        yield x.astype("float32"), keras.utils.to_categorical(y, 4)

scaled_lr = 0.02 * hvd.size()
if resume_from_epoch > 0 and hvd.rank() == 0:
    path = checkpoint_format.format(epoch=resume_from_epoch)
    model = hvd.load_model(path, compression=hvd.Compression.fp16)
else:
    model = keras.Sequential([
        Conv2D(4, (3, 3), activation="relu"),
        BatchNormalization(momentum=0.9),
        Flatten(),
        Dropout(0.25),
        Dense(4, activation="softmax"),
    ])
    if resume_from_epoch > 0:
        model.build((None, 8, 8, 1))
    opt = keras.optimizers.SGD(learning_rate=scaled_lr, momentum=0.9)
    opt = hvd.DistributedOptimizer(opt, compression=hvd.Compression.fp16)
    model.compile(loss="categorical_crossentropy", optimizer=opt, metrics=["accuracy"])

callbacks = [
    hvd.callbacks.BroadcastGlobalVariablesCallback(0),
    hvd.callbacks.MetricAverageCallback(),
    hvd.callbacks.LearningRateWarmupCallback(warmup_epochs=2, initial_lr=scaled_lr, verbose=1),
    hvd.callbacks.LearningRateScheduleCallback(
        start_epoch=2, end_epoch=4, multiplier=1.0, initial_lr=scaled_lr),
    hvd.callbacks.LearningRateScheduleCallback(
        start_epoch=4, multiplier=lambda epoch: 0.1, initial_lr=scaled_lr),
    keras.callbacks.ReduceLROnPlateau(patience=10, verbose=1),
]
if hvd.rank() == 0:
    callbacks.append(keras.callbacks.ModelCheckpoint(checkpoint_format))
    callbacks.append(keras.callbacks.TensorBoard(os.path.join(folder, "logs")))
history = model.fit(
    flow(),
    steps_per_epoch=8,
    callbacks=callbacks,
    epochs=epochs,
    initial_epoch=resume_from_epoch,
    verbose=0,
    validation_data=flow(),
    validation_steps=3 * (2 + hvd.rank()),
)
score = hvd.allreduce(model.evaluate(flow(), steps=4, verbose=0))
report([
    resume_from_epoch, history.history, [float(number) for number in score],
    str(hvd.check_in_sync(model)), int(model.optimizer.iterations),
])
"""


def test_examples_with_callbacks_and_checkpoints_train_and_resume(tmp_path):
    first = workers.run_script(SCRIPT, 2, tmp_path, 3)
    second = workers.run_script(SCRIPT, 2, tmp_path, 5)
    for job, resumed, epochs in ((first, 0, 3), (second, 3, 2)):
        one, other = job.results()
        assert one == other
        resume_from_epoch, history, score, in_sync, iterations = one
        assert (resume_from_epoch, len(history["loss"])) == (resumed, epochs)
        assert in_sync == "the ranks are in sync"
        assert iterations == 8 * (resumed + epochs)
        assert len(score) == 2
    first_history, second_history = first.results()[0][1], second.results()[0][1]
    assert second_history["loss"][-1] < 0.7 * first_history["loss"][0]
    rates = first_history["lr"] + second_history["lr"]
    assert [round(rate, 6) for rate in rates] == [0.03, 0.04, 0.04, 0.04, 0.004]
    assert "Epoch 2: finished gradual learning rate warmup to 0.04." in first.output
