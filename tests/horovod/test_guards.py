"""Ranks that differ, fail or stall are named; nobody waits for ever."""

import os
import signal
import time

import numpy as np
import pytest

from tests import workers

pair = workers.Job(2)

# A training job that harms itself: argv says how.
HARMED = """
    import os, signal, sys, time
    import keras, numpy as np
    import tf_lars.horovod as hvd
    from tests.workers import report

    hvd.init()
    harm, here = sys.argv[1], hvd.rank() == 1
    units = 5 if harm == "shape" and here else 4
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(units), keras.layers.Dense(1)])
    momentum = 0.5 if harm == "momentum" and here else 0.9
    op = hvd.Sum if harm == "op" and here else hvd.Average
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1, momentum), op=op), "mse")

    class Harm(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 3:
                report(os.getpid(), "pid")
            if batch == 5 and harm == "everywhere":
                raise ValueError("nobody likes this batch")
            if batch == 5 and here:
                if harm == "raise":
                    raise ValueError("rank 1 does not like this batch")
                if harm == "end":
                    sys.exit(0)
                if harm == "sleep":
                    time.sleep(600)

    steps = 10 if harm == "short" and here else 1000 if harm in ("endless", "short") else 20
    data = np.zeros((8 * steps, 5), "float32"), np.zeros((8 * steps, 1), "float32")
    if harm == "endless":
        model.fit(*data, batch_size=1, epochs=10**6, verbose=0, callbacks=[Harm()])
    model.fit(*data, batch_size=8, verbose=0, callbacks=[Harm()])
    hvd.allreduce(0.0)
"""


def harmed(harm, **options):
    finished = workers.run_script(HARMED, 2, harm, timeout=170, check=False, **options)
    assert finished.returncode not in (0, None), finished.output
    return finished.output


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (
            "shape",
            "rank 1 has other variables than rank 0: variable 0 is (5, 5) float32, not (5, 4)",
        ),
        ("momentum", "rank 1 has other optimizer settings than rank 0: momentum is 0.5, not 0.9"),
        ("op", "rank 1 has other optimizer settings than rank 0: op is Sum, not Average"),
        ("everywhere", "ValueError: nobody likes this batch"),
    ],
)
def test_what_all_ranks_find_wrong_is_shown_once(harm, sentence):
    output = harmed(harm)
    assert sentence in output
    assert output.count("Error: ") - output.count("RuntimeError: Horovod detected") == 1, output


def test_a_rank_that_raises_shows_it_and_the_others_stop_with_one_line():
    output = harmed("raise")
    assert output.count("ValueError: rank 1 does not like this batch") == 1
    assert "[0]<stderr>:Traceback" not in output


def test_a_rank_that_ends_early_is_named():
    output = harmed("end")
    assert "rank 0 stops, because rank 1 has ended and takes part no more" in output


def test_a_rank_that_does_not_take_part_ends_the_job_within_the_set_time():
    env = {
        "HOROVOD_STALL_CHECK_TIME_SECONDS": 5,
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": 15,
    }
    output = harmed("sleep", env=env)
    assert "Missing ranks" in output
    assert "rank 0 stops" in output


def wait_for_training(pid, seconds=120):
    """Returns {rank: pid} once every rank has a few steps behind it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pids = workers.worker_pids(pid)
        if len(pids) == 2 and workers.reported(pids[0], "pid", 2):
            return pids
        time.sleep(0.2)
    raise AssertionError("the job did not start to train")


def hurt(rank, signal_number, delay=0.0):
    def meanwhile(pid):
        pids = wait_for_training(pid)
        time.sleep(delay)
        os.kill(pids[rank], signal_number)

    return meanwhile


@pytest.mark.parametrize("rank", [0, 1])
def test_killing_a_rank_ends_the_job_in_under_a_minute_with_a_message(rank):
    killed = []

    def meanwhile(pid):
        hurt(rank, signal.SIGKILL, delay=np.random.default_rng().uniform(0, 2))(pid)
        killed.append(time.monotonic())

    output = harmed("endless", meanwhile=meanwhile)
    assert time.monotonic() - killed[0] < 60
    assert f"Process {rank} exit with status code 137" in output
    assert f"rank {1 - rank} stops, because another rank has died" in output


def test_a_stopped_rank_is_named_before_the_job_ends():
    output = harmed("endless", meanwhile=hurt(1, signal.SIGSTOP))
    assert "tf_lars: rank 1 (host " in output
    assert "has given no sign of life for" in output
    assert "rank 0 stops" in output


@pytest.mark.study
@pytest.mark.parametrize("seed", range(20))
def test_killing_any_rank_of_three_at_any_moment_ends_the_job(seed):
    rng = np.random.default_rng(seed)
    rank, moment, killed = int(rng.integers(3)), rng.uniform(0, 30), []

    def meanwhile(pid):
        time.sleep(moment)
        while rank not in workers.worker_pids(pid):
            time.sleep(0.1)
        os.kill(workers.worker_pids(pid)[rank], signal.SIGKILL)
        killed.append(time.monotonic())

    finished = workers.run_script(
        HARMED, 3, "endless", timeout=150, check=False, meanwhile=meanwhile
    )
    assert finished.returncode not in (0, None)
    seconds = time.monotonic() - killed[0]
    assert seconds < 60
    assert f"Process {rank} exit with status code 137" in finished.output
    print(f"rank {rank} was killed after {moment:.1f} s; the job ended {seconds:.1f} s later")


@pair.check
def test_settings_are_compared_with_rank_0():
    import tf_lars.horovod as hvd

    hvd.check_same_settings({"batch_size": 32, "callable": len})
    with pytest.raises(
        hvd.RanksDifferError, match=r"rank 1 has other flags .*: epochs is 2, not 1"
    ):
        hvd.check_same_settings({"batch_size": 32, "epochs": 1 + hvd.rank()}, what="flags")
    with pytest.raises(hvd.RanksDifferError, match=r"seed is missing \(rank 0: 7\)"):
        hvd.check_same_settings({"seed": 7} if hvd.rank() == 0 else {})


@pair.check
def test_different_numbers_of_steps_and_epochs_are_found_at_once():
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd
    from tests.horovod import models

    x, y = models.data()
    model = models.mlp()
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), "mse")
    for rows, options in ((32 + 8 * hvd.rank(), {}), (32, {"steps_per_epoch": 4 + hvd.rank()})):
        with pytest.raises(hvd.RanksDifferError, match=r"\(rank 0: 4, rank 1: 5\)"):
            model.fit(x[:rows], y[:rows], batch_size=8, verbose=0, **options)
    for options in ({"initial_epoch": 1 - hvd.rank()}, {"epochs": 2 + hvd.rank()}):
        with pytest.raises(hvd.RanksDifferError, match=r"rank 1 has other epochs than rank 0: "):
            model.fit(x, y, **({"epochs": 3, "verbose": 0} | options))
    assert int(model.optimizer.iterations) == 2  # epochs are compared after the first step

    known = tf.data.Dataset.from_tensor_slices((x[:32], y[:32])).batch(8)
    unknown = tf.data.Dataset.from_generator(
        lambda: iter(known), output_signature=known.element_spec
    )
    for data in ((unknown, unknown), (known, unknown)):
        model.fit(data[hvd.rank()], verbose=0)
    assert hvd.check_in_sync(model.trainable_variables)

    os.environ["TF_LARS_CHECK_STEPS"] = "0"  # the script evens them out itself
    model.fit(x[: 32 + 8 * hvd.rank()], y[: 32 + 8 * hvd.rank()], batch_size=8, verbose=0)
    hvd.join()


@pair.check
def test_large_batch_models_that_collect_other_statistics_are_found_when_fit_begins():
    import keras

    import tf_lars
    import tf_lars.horovod as hvd
    from tests.horovod import models
    from tf_lars.training.noise_scale import NoiseScale

    x, y = models.data()
    model = tf_lars.large_batch(models.mlp(), micro_batch_size=4)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), "mse")
    with pytest.raises(hvd.RanksDifferError, match=r"observers is \[\], not \['NoiseScale'\]"):
        model.fit(x, y, batch_size=16, verbose=0, callbacks=[NoiseScale()] * (1 - hvd.rank()))
    source = ("microbatch", "two_batch")[hvd.rank()]
    model = tf_lars.large_batch(models.mlp(), micro_batch_size=4, mean_norms=source)
    model.compile(hvd.DistributedOptimizer(tf_lars.CLARS(0.1)), "mse")
    with pytest.raises(hvd.RanksDifferError, match="mean_norms is two_batch, not microbatch"):
        model.fit(x, y, batch_size=16, verbose=0)


@pair.check
def test_exclusions_are_compared_by_what_they_cover():
    import keras

    import tf_lars
    import tf_lars.horovod as hvd

    def step(excluded):
        kernel, other = (keras.Variable(np.ones((2, 2)), name=n) for n in ("kernel", "other"))
        kernel._path = f"dense_{hvd.rank()}/kernel"  # as where rank 1 has built one layer more
        excluded = [(kernel, other)[excluded]]
        optimizer = hvd.DistributedOptimizer(
            tf_lars.LARS(0.1, weight_decay=0.1, exclude_from_weight_decay=excluded)
        )
        gradients = [keras.ops.ones((2, 2))] * 2
        optimizer.apply(optimizer.reduce_gradients(gradients, [kernel, other]), [kernel, other])

    step(0)
    with pytest.raises(hvd.RanksDifferError, match=r"variable 0\.decays is True, not False"):
        step(hvd.rank())


@pair.check
def test_the_sync_check_names_what_differs_and_ignores_what_may():
    import keras

    import tf_lars.horovod as hvd

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(2, name="first"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
        ]
    )
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)), "mse")
    model.optimizer.build(model.trainable_variables)
    for variable in model.non_trainable_variables:
        variable.assign(variable + hvd.rank())
    report = hvd.check_in_sync(model)
    assert report
    assert str(report) == "the ranks are in sync"

    kernel = model.get_layer("first").kernel
    kernel.assign(kernel + 0.25 * hvd.rank())
    report = hvd.check_in_sync(model)
    assert not report
    ((path, largest, rank),) = report.differences
    assert path.endswith("first/kernel")
    assert (round(largest, 6), rank) == (0.25, 1)
    assert "first/kernel of rank 1 differs by up to 0.25" in str(report)

    if hvd.rank() == 1:
        kernel.assign(np.nan * kernel)
    assert not hvd.check_in_sync([kernel])
    with pytest.raises(hvd.RanksDifferError, match="number of variables is 2, not 1"):
        hvd.check_in_sync([kernel] * (1 + hvd.rank()))


@pair.check
def test_the_sync_callback_stops_training_when_the_ranks_drift_apart():
    import keras

    import tf_lars.horovod as hvd
    from tests.horovod import models

    x, y = models.data()
    x, y = x[hvd.rank() :: 2], y[hvd.rank() :: 2]
    model = models.mlp()
    check = hvd.callbacks.CheckInSyncCallback(every_n_steps=2)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), "mse")
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[check])
    model = models.mlp()
    model.compile(keras.optimizers.SGD(0.1), "mse")  # not distributed: each rank on its own
    check = hvd.callbacks.CheckInSyncCallback(every_n_steps=2)
    with pytest.raises(hvd.RanksDifferError, match="after 2 steps the ranks differ"):
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[check])
    with pytest.raises(ValueError, match="every_n_steps"):
        hvd.callbacks.CheckInSyncCallback(every_n_steps=0)
