"""Scripts as people wrote them for Horovod's Keras interface, with the import changed and no more.

The patterns are those of Horovod's documentation: fit with callbacks, resuming from rank 0's
checkpoint, `train_on_batch`, a loop with the tape, and the two synthetic benchmarks.
"""

import re
import subprocess
import sys
import textwrap

import pytest

from tests import workers

FIT = """
    import numpy as np
    import tensorflow as tf
    import tf_lars.horovod as hvd

    hvd.init()
    gpus = tf.config.experimental.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if gpus:
        tf.config.experimental.set_visible_devices(gpus[hvd.local_rank()], "GPU")

    rng = np.random.default_rng(hvd.rank())
    images = rng.random((256, 8, 8)).astype("float32")
    labels = (images.mean(axis=(1, 2)) > 0.5).astype("int64")
    dataset = tf.data.Dataset.from_tensor_slices(
        (tf.cast(images[..., tf.newaxis], tf.float32), tf.cast(labels, tf.int64))
    )
    dataset = dataset.repeat().shuffle(100).batch(16)

    model = tf.keras.Sequential([
        tf.keras.layers.Conv2D(4, [3, 3], activation="relu"),
        tf.keras.layers.MaxPooling2D(pool_size=(2, 2)),
        tf.keras.layers.Dropout(0.25),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(2, activation="softmax"),
    ])
    scaled_lr = 0.001 * hvd.size()
    opt = tf.optimizers.Adam(scaled_lr)
    opt = hvd.DistributedOptimizer(
        opt, backward_passes_per_step=1, average_aggregated_gradients=True)
    model.compile(loss=tf.losses.SparseCategoricalCrossentropy(),
                  optimizer=opt,
                  metrics=["accuracy"],
                  experimental_run_tf_function=False)
    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.MetricAverageCallback(),
        hvd.callbacks.LearningRateWarmupCallback(initial_lr=scaled_lr, warmup_epochs=2, verbose=1),
    ]
    if hvd.rank() == 0:
        import tempfile
        callbacks.append(tf.keras.callbacks.ModelCheckpoint(
            tempfile.mkdtemp() + "/checkpoint-{epoch}.keras"))
    verbose = 1 if hvd.rank() == 0 else 0
    model.fit(dataset, steps_per_epoch=20 // hvd.size(), callbacks=callbacks, epochs=3,
              verbose=verbose)
    from tests.workers import report
    report(str(hvd.check_in_sync(model)))
"""

ADVANCED = """
    import os, tempfile
    import numpy as np
    import keras
    import tf_lars.horovod as hvd
    from tests.workers import report

    hvd.init()
    rng = np.random.default_rng(7)
    x = rng.random((240, 6)).astype("float32")
    y = keras.utils.to_categorical((x.sum(axis=1) > 3).astype("int64"), 2)
    x_test, y_test = x[:48], y[:48]
    folder = hvd.broadcast_object(tempfile.mkdtemp(), root_rank=0, name="folder")
    checkpoint_format = os.path.join(folder, "checkpoint-{epoch}.keras")

    def job(epochs):
        resume_from_epoch = 0
        for try_epoch in range(epochs, 0, -1):
            if os.path.exists(checkpoint_format.format(epoch=try_epoch)):
                resume_from_epoch = try_epoch
                break
        resume_from_epoch = int(hvd.broadcast(resume_from_epoch, 0, name="resume_from_epoch"))
        if resume_from_epoch > 0 and hvd.rank() == 0:
            model = hvd.load_model(
                checkpoint_format.format(epoch=resume_from_epoch), compression=hvd.Compression.fp16)
        else:
            model = keras.Sequential([
                keras.layers.Dense(8, activation="relu"),
                keras.layers.Dense(2, activation="softmax")])
            opt = keras.optimizers.SGD(0.05 * hvd.size(), momentum=0.9)
            opt = hvd.DistributedOptimizer(opt, compression=hvd.Compression.fp16)
            model.compile(loss=keras.losses.CategoricalCrossentropy(), optimizer=opt,
                          metrics=["accuracy"])
        callbacks = [
            hvd.callbacks.BroadcastGlobalVariablesCallback(0),
            hvd.callbacks.MetricAverageCallback(),
            hvd.callbacks.LearningRateWarmupCallback(initial_lr=0.05 * hvd.size(), warmup_epochs=1),
            hvd.callbacks.LearningRateScheduleCallback(
                initial_lr=0.05 * hvd.size(), start_epoch=1, end_epoch=3, multiplier=1.0),
            hvd.callbacks.LearningRateScheduleCallback(
                initial_lr=0.05 * hvd.size(), start_epoch=3, multiplier=1e-1),
            keras.callbacks.ReduceLROnPlateau(patience=10),
        ]
        if hvd.rank() == 0:
            callbacks.append(keras.callbacks.ModelCheckpoint(checkpoint_format))
        mine = slice(hvd.rank(), None, hvd.size())
        model.fit(x[mine], y[mine], batch_size=8, callbacks=callbacks, epochs=epochs, verbose=0,
                  initial_epoch=resume_from_epoch, validation_data=(x_test, y_test))
        score = hvd.allreduce(model.evaluate(x_test, y_test, verbose=0)[1])
        return model, float(score)

    first, _ = job(2)
    second, score = job(4)
    report([str(hvd.check_in_sync(second)), int(second.optimizer.iterations), score])
"""

LOOP = """
    import numpy as np
    import tensorflow as tf
    import tf_lars.horovod as hvd
    from tests.workers import report

    hvd.init()
    rng = np.random.default_rng(hvd.rank())
    images = rng.random((64, 5)).astype("float32")
    labels = (images.sum(axis=1) > 2.5).astype("int64")
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).repeat().batch(8)
    model = tf.keras.Sequential([
        tf.keras.layers.Dense(8, activation="relu"),
        tf.keras.layers.Dense(2, activation="softmax")])
    loss = tf.losses.SparseCategoricalCrossentropy()
    opt = tf.optimizers.Adam(0.001 * hvd.size())
    checkpoint = tf.train.Checkpoint(model=model, optimizer=opt)

    @tf.function
    def training_step(images, labels, first_batch):
        with tf.GradientTape() as tape:
            probs = model(images, training=True)
            loss_value = loss(labels, probs)
        tape = hvd.DistributedGradientTape(tape)
        grads = tape.gradient(loss_value, model.trainable_variables)
        opt.apply_gradients(zip(grads, model.trainable_variables))
        if first_batch:
            hvd.broadcast_variables(model.variables, root_rank=0)
            hvd.broadcast_variables(opt.variables(), root_rank=0)
        return loss_value

    for batch, (images, labels) in enumerate(dataset.take(20 // hvd.size())):
        loss_value = training_step(images, labels, batch == 0)
    if hvd.rank() == 0:
        import tempfile
        checkpoint.save(tempfile.mkdtemp())
    report(str(hvd.check_in_sync([*model.variables, *opt.variables])))
"""

BENCHMARK = """
    import timeit
    import numpy as np
    import tensorflow as tf
    import tf_lars.horovod as hvd
    from tensorflow.keras import applications
    from tests.workers import report

    hvd.init()
    model = applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), alpha=0.35)
    opt = tf.optimizers.SGD(0.01)
    data = tf.random.uniform([4, 32, 32, 3])
    target = tf.random.uniform([4, 1], minval=0, maxval=999, dtype=tf.int64)
    dataset = tf.data.Dataset.from_tensor_slices((data, target)).cache().repeat().batch(4)
    opt = hvd.DistributedOptimizer(opt, compression=hvd.Compression.fp16)
    model.compile(loss=tf.losses.SparseCategoricalCrossentropy(), optimizer=opt,
                  experimental_run_tf_function=False)

    class TimingCallback(tf.keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.img_secs = []
        def on_epoch_begin(self, epoch, logs=None):
            self.starttime = timeit.default_timer()
        def on_epoch_end(self, epoch, logs=None):
            self.img_secs.append(4 * 2 / (timeit.default_timer() - self.starttime))

    timing = TimingCallback()
    model.fit(dataset, batch_size=4, steps_per_epoch=2,
              callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0), timing],
              epochs=2, verbose=0)
    report(str(hvd.check_in_sync(model)), "fit")

    model = tf.keras.Sequential([tf.keras.layers.GlobalAveragePooling2D(),
                                 tf.keras.layers.Dense(1000, activation="softmax")])
    opt = tf.optimizers.SGD(0.01, momentum=0.9)

    @tf.function
    def benchmark_step(first_batch):
        with tf.GradientTape() as tape:
            probs = model(data, training=True)
            loss = tf.losses.sparse_categorical_crossentropy(target, probs)
        tape = hvd.DistributedGradientTape(tape, compression=hvd.Compression.fp16)
        gradients = tape.gradient(loss, model.trainable_variables)
        opt.apply_gradients(zip(gradients, model.trainable_variables))
        if first_batch:
            hvd.broadcast_variables(model.variables, root_rank=0)
            hvd.broadcast_variables(opt.variables(), root_rank=0)

    with tf.device("CPU"):
        benchmark_step(first_batch=True)
        timeit.timeit(lambda: benchmark_step(first_batch=False), number=3)
    report(str(hvd.check_in_sync([*model.variables, *opt.variables()])), "tape")
    report(float(opt.lr.numpy()), "rate")
"""

TRAIN_ON_BATCH = """
    import numpy as np
    import keras
    import tf_lars.horovod as hvd
    from tf_lars.horovod import callbacks
    from tests.workers import report

    hvd.init(process_sets=[hvd.ProcessSet([0]), hvd.ProcessSet([1])])
    keras.utils.set_random_seed(hvd.rank())
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), "mse")
    hvd.broadcast_variables(model.variables, root_rank=0)
    rng = np.random.default_rng(hvd.rank())
    for _ in range(5):
        model.train_on_batch(rng.random((8, 4)), rng.random((8, 1)))
    report(str(hvd.check_in_sync(model)))
    hvd.shutdown()
"""

IN_SYNC = "the ranks are in sync"


def run(script, np=2):
    return workers.run_script(script, np, timeout=240)


def test_the_mnist_script_runs_and_the_ranks_agree():
    finished = run(FIT)
    assert finished.results() == [IN_SYNC] * 2
    assert re.search(r"Epoch 3/3", finished.output)


def test_the_advanced_script_resumes_from_rank_0s_checkpoint():
    (first, second) = run(ADVANCED).results()
    assert first[0] == second[0] == IN_SYNC
    assert first[1] == second[1] == 4 * 15
    assert first[2] == second[2] > 0.5


def test_the_loop_with_the_tape_runs_with_three_ranks():
    assert run(LOOP, 3).results() == [IN_SYNC] * 3


def test_both_synthetic_benchmarks_run():
    finished = run(BENCHMARK)
    for loop in ("fit", "tape"):
        assert finished.results(loop) == [IN_SYNC] * 2
    assert finished.results("rate") == [pytest.approx(0.01)] * 2


def test_train_on_batch_with_process_sets_given_to_init():
    assert run(TRAIN_ON_BATCH).results() == [IN_SYNC] * 2


def test_a_script_runs_outside_of_horovodrun_as_one_worker(tmp_path):
    script = TRAIN_ON_BATCH.replace("hvd.ProcessSet([0]), hvd.ProcessSet([1])", "")
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    env = workers.environment({workers.RESULTS: tmp_path})
    done = subprocess.run([sys.executable, path], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
