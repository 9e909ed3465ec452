"""Elastic states and callbacks in one process."""

import itertools

import pytest


@pytest.fixture(autouse=True)
def _horovod():
    import tf_lars.horovod as hvd

    hvd.init()


def _model(dropout=0.0):
    import keras

    layers = [keras.layers.Dropout(dropout), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    return model


def _fit(model, callbacks, steps=4, **options):
    import numpy as np

    x = np.ones((400, 2), "float32")
    options = {"batch_size": 2, "verbose": 0, **options}
    model.fit(x, x[:, :1], steps_per_epoch=steps, callbacks=callbacks, **options)


def _callbacks(state, order=(0, 1, 2), **options):
    from tf_lars.horovod import elastic

    made = [
        elastic.CommitStateCallback(state, **options),
        elastic.UpdateBatchStateCallback(state),
        elastic.UpdateEpochStateCallback(state),
    ]
    return [made[i] for i in order]


def _recording_state(model, **attributes):
    from tf_lars.horovod import elastic

    class State(elastic.KerasState):
        def commit(self):
            super().commit()
            commits.append((self.epoch, self.batch, int(self.optimizer.iterations)))

    commits = []
    return State(model, **{"batch": 0, "epoch": 0, **attributes}), commits


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_commits_hold_the_progress_whatever_the_order_of_the_callbacks(order):
    model = _model()
    state, commits = _recording_state(model)
    _fit(model, _callbacks(state, order), epochs=2)
    first, second = [(0, 1, 1), (0, 2, 2), (0, 3, 3)], [(1, 1, 5), (1, 2, 6), (1, 3, 7)]
    assert commits == [*first, (1, 0, 4), *second, (2, 0, 8)]


def test_commits_come_every_so_many_batches_and_at_the_end_of_the_epoch():
    model = _model()
    state, commits = _recording_state(model)
    _fit(model, _callbacks(state, batches_per_commit=3), steps=7, epochs=1)
    assert commits == [(0, 3, 3), (0, 6, 6), (1, 0, 7)]


def test_batches_are_counted_when_several_run_in_one_execution():
    model = _model()
    model.steps_per_execution = 2
    state, commits = _recording_state(model)
    _fit(model, _callbacks(state, batches_per_commit=4), steps=10, epochs=1)
    assert commits == [(0, 4, 4), (0, 8, 8), (1, 0, 10)]


@pytest.mark.parametrize("style", ["fewer epochs", "initial epoch"])
def test_an_epoch_that_was_cut_short_is_finished_with_the_batches_it_lacks(style):
    model = _model()
    state, _ = _recording_state(model, epoch=3, batch=2)
    if style == "fewer epochs":
        _fit(model, _callbacks(state), steps=6, epochs=5 - state.epoch)
    else:
        _fit(model, _callbacks(state), steps=6, initial_epoch=state.epoch, epochs=5)
    assert (state.epoch, state.batch) == (5, 0)
    assert int(model.optimizer.iterations) == (6 - 2) + 6


@pytest.mark.parametrize("stopper_first", [False, True])
def test_early_stopping_still_stops_in_a_shortened_epoch(stopper_first):
    import keras

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    model = _model()
    state, _ = _recording_state(model, batch=2)
    callbacks = [Stop(), *_callbacks(state)] if stopper_first else [*_callbacks(state), Stop()]
    _fit(model, callbacks, steps=6, epochs=3)
    assert int(model.optimizer.iterations) == 4


def test_restore_undoes_everything_since_the_last_commit():
    import numpy as np

    model = _model(dropout=0.5)
    state, _ = _recording_state(model)
    _fit(model, [], epochs=1)
    state.epoch = 5
    state.commit()
    variables = [*model.variables, *model.optimizer.variables]
    saved = [variable.numpy() for variable in variables]
    _fit(model, [], epochs=1)
    state.epoch = 6
    assert not np.array_equal(saved[-1], variables[-1].numpy())
    state.restore()
    assert state.epoch == 5
    assert all(map(np.array_equal, saved, (v.numpy() for v in variables)))


def test_run_returns_what_the_function_returns_and_syncs_first():
    from tf_lars.horovod import elastic

    model = _model()
    state, _ = _recording_state(model)
    assert elastic.run(lambda state, a, b=0: (state.epoch, a, b))(state, 1, b=2) == (0, 1, 2)


def test_hosts_that_changed_restart_the_function_with_the_state_as_it_is(monkeypatch):
    from tf_lars.horovod import elastic

    model = _model()
    state, _ = _recording_state(model)
    events = []
    monkeypatch.setattr(elastic, "_reset", lambda: events.append("reset"))
    state.register_reset_callbacks([lambda: events.append("callback")])

    @elastic.run
    def train(state):
        events.append(f"epoch {state.epoch}")
        if state.epoch == 0:
            state.epoch = 1
            raise elastic.HostsUpdatedInterrupt(skip_sync=False)

    train(state)
    assert events == ["epoch 0", "reset", "callback", "epoch 1"]


@pytest.mark.parametrize("elastic_job", [False, True])
def test_a_lost_worker_leads_back_to_the_last_commit_in_elastic_jobs_only(elastic_job, monkeypatch):
    import tensorflow as tf

    from tf_lars.horovod import elastic

    monkeypatch.setenv("HOROVOD_ELASTIC", "1" if elastic_job else "0")
    monkeypatch.setattr(elastic, "_reset", lambda: None)
    model = _model()
    state, _ = _recording_state(model)
    epochs = []

    @elastic.run
    def train(state):
        epochs.append(state.epoch)
        state.epoch = 1
        if len(epochs) == 1:
            raise tf.errors.UnknownError(None, None, "HorovodGroupedAllreduce failed: closed")

    if elastic_job:
        train(state)
        assert epochs == [0, 0]
    else:
        with pytest.raises(tf.errors.UnknownError):
            train(state)


def test_mistakes_in_the_function_are_raised(monkeypatch):
    from tf_lars.horovod import elastic

    monkeypatch.setenv("HOROVOD_ELASTIC", "1")
    state, _ = _recording_state(_model())
    with pytest.raises(KeyError):
        elastic.run(lambda state: {}["missing"])(state)


def test_states_that_cannot_be_made_are_refused():
    import keras

    from tf_lars.horovod import elastic

    with pytest.raises(ValueError, match="must be built first"):
        elastic.KerasState(keras.Sequential([keras.layers.Dense(1)]))
    with pytest.raises(ValueError, match="optimizer: pass one"):
        elastic.KerasState(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    with pytest.raises(ValueError, match="batches_per_commit is 1 or more, got 0"):
        elastic.CommitStateCallback(None, batches_per_commit=0)
