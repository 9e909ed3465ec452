"""The helper that starts horovodrun jobs: results by rank, failures shown, nothing left running."""

import os
import time

import psutil
import pytest

from tests import workers


def sum_of_ranks(offset):
    import tensorflow as tf
    from horovod.tensorflow import allreduce

    import tf_lars.horovod as hvd

    hvd.init()
    total = allreduce(tf.constant(float(hvd.rank() + offset)), op=hvd.Sum)
    return {"total": float(total), "rank": hvd.rank()}


def test_function_results_come_back_in_the_order_of_the_ranks():
    assert workers.run(sum_of_ranks, 3, 10) == [{"total": 33.0, "rank": r} for r in range(3)]


def test_a_failing_rank_fails_the_test_and_shows_what_every_rank_printed():
    source = """
        import os, sys
        print("hello from", os.environ["HOROVOD_RANK"])
        sys.exit(int(os.environ["HOROVOD_RANK"]))
    """
    with pytest.raises(pytest.fail.Exception) as failure:
        workers.run_script(source)
    assert "hello from 0" in str(failure.value)
    assert "hello from 1" in str(failure.value)


def test_a_job_over_its_time_limit_is_killed_with_all_its_processes():
    source = """
        import os, time
        from tests.workers import report
        report(os.getpid())
        time.sleep(600)
    """
    began = time.monotonic()
    finished = workers.run_script(source, timeout=12, check=False)
    assert finished.returncode is None
    assert time.monotonic() - began < 40
    pids = finished.results()
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert not any(psutil.pid_exists(pid) for pid in pids)


job = workers.Job(2)


@job.check
def test_a_check_runs_on_every_rank():
    import tf_lars.horovod as hvd

    assert hvd.size() == 2
