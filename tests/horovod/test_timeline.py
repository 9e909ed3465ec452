"""Horovod's timeline shows what travelled when, under names that say what it was."""

import json
import re

from tests import workers
from tests.horovod import models


def record(first, second):
    """In the ranks: an epoch into each file, where HOROVOD_TIMELINE has named the first."""
    import keras

    import tf_lars.horovod as hvd

    hvd.init()
    x, y = models.data()
    model = models.mlp()
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), "mse")
    model.fit(x, y, verbose=0)
    hvd.stop_timeline()
    hvd.start_timeline(second, mark_cycles=True)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), "critic"), "mse")
    model.fit(x, y, verbose=0)
    hvd.stop_timeline()
    hvd.shutdown()  # writes what is left


def names_and_phases(path):
    """The names of what travelled, and the phases that were recorded."""
    events = [event for event in json.loads(path.read_text()) if event]
    named = [event for event in events if event.get("name") == "process_name"]
    return {event["args"].get("name") for event in named}, {e.get("name") for e in events}


def test_the_timeline_names_the_gradients(tmp_path):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    env = {"HOROVOD_TIMELINE": first}
    workers.run(record, 2, str(first), str(second), env=env, launcher=workers.QUICK_LAUNCHER)
    for path, prefix, more in (
        (first, "tf_lars", set()),
        (second, "critic", {"CYCLE_START"}),
    ):
        names, phases = names_and_phases(path)
        gradients = {name for name in names if name and name.startswith(f"{prefix}.gradients.")}
        assert {re.search(r"one_step_on_data\.\d+_(.*)", name)[1] for name in gradients} == {
            f"{k}of4" for k in (1, 2, 3, 4)
        }
        assert {"NEGOTIATE_ALLREDUCE", "ALLREDUCE"} | more <= phases
