"""Learning-rate callbacks: the rates they set, and momentum correction."""

import pytest

from tests import workers

job = workers.Job(2)


def _model(optimizer, steps_per_execution=1):
    import keras
    import numpy as np

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.set_weights([np.arange(6.0).reshape(3, 2) / 6, np.zeros(2)])
    model.compile(optimizer, "mse", steps_per_execution=steps_per_execution)
    return model


def _data(rows=16):
    import numpy as np

    generator = np.random.default_rng(0)
    return generator.normal(size=(rows, 3)), generator.normal(size=(rows, 2))


def _fit(model, callbacks, epochs=2, **options):
    """Fits 4 batches an epoch and returns the rate of every batch."""
    import keras

    rates = []

    class Rates(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            rates.append(float(model.optimizer.learning_rate))

    options = {"batch_size": 4, "shuffle": False, "verbose": 0, "epochs": epochs, **options}
    history = model.fit(*_data(), callbacks=[*callbacks, Rates()], **options)
    return rates, history.history


@job.check
def test_warm_up_raises_the_rate_from_one_ranks_to_all_ranks():
    import keras
    import numpy as np

    import tf_lars.horovod as hvd

    callback = hvd.callbacks.LearningRateWarmupCallback(initial_lr=0.8, warmup_epochs=2)
    rates, logs = _fit(_model(keras.optimizers.SGD(0.8, momentum=0.9)), [callback], epochs=3)
    n = hvd.size()
    warm_up = [0.8 / n * ((k + 1) / 4 * (n - 1) / 2 + 1) for k in range(8)]
    assert np.allclose(rates, warm_up + [0.8] * 4)
    assert np.allclose(logs["lr"], [warm_up[3], 0.8, 0.8])


@job.check
def test_warm_up_says_once_that_it_has_ended():
    import contextlib
    import io

    import keras

    import tf_lars.horovod as hvd

    text = io.StringIO()
    callback = hvd.callbacks.LearningRateWarmupCallback(0.4, warmup_epochs=1, verbose=1)
    with contextlib.redirect_stdout(text):
        _fit(_model(keras.optimizers.SGD(0.4)), [callback])
    line = "Epoch 1: finished gradual learning rate warmup to 0.4."
    assert text.getvalue().count(line) == (1 if hvd.rank() == 0 else 0)


def _corrected_by_hand(rates, nesterov=False):
    """SGD with momentum whose velocity is scaled by γ_t/γ_{t−1}, in numpy."""
    import numpy as np

    x, y = _data()
    weights, velocity, previous = np.arange(6.0).reshape(3, 2) / 6, 0, None
    bias, bias_velocity = np.zeros(2), 0
    for step, rate in enumerate(rates):
        rows = slice(step % 4 * 4, step % 4 * 4 + 4)
        error = 2 * (x[rows] @ weights + bias - y[rows]) / y[rows].size
        factor = rate / previous if previous else 1
        previous = rate
        gradients = x[rows].T @ error, error.sum(0)
        velocity = 0.9 * factor * velocity - rate * gradients[0]
        bias_velocity = 0.9 * factor * bias_velocity - rate * gradients[1]
        weights = weights + (0.9 * velocity - rate * gradients[0] if nesterov else velocity)
        bias = bias + (0.9 * bias_velocity - rate * gradients[1] if nesterov else bias_velocity)
    return weights


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}])
def test_momentum_correction_scales_the_velocity_by_the_change_of_the_rate(nesterov, options):
    import keras
    import numpy as np

    from tf_lars.horovod import callbacks

    schedule = callbacks.LearningRateScheduleCallback(
        0.1, lambda epoch: 1 + epoch, staircase=False, steps_per_epoch=4
    )
    model = _model(keras.optimizers.SGD(0.1, momentum=0.9, nesterov=nesterov))
    model.run_eagerly = options.get("run_eagerly", False)
    rates, _ = _fit(model, [schedule])
    assert np.allclose(rates, [0.1 * (1 + k / 4) for k in range(8)])
    by_hand = _corrected_by_hand(rates, nesterov)
    assert np.allclose(model.get_weights()[0], by_hand, rtol=1e-5)

    plain = _model(keras.optimizers.SGD(0.1, momentum=0.9, nesterov=nesterov))
    schedule.momentum_correction = False
    _fit(plain, [schedule])
    assert not np.allclose(plain.get_weights()[0], by_hand, rtol=1e-3)


def test_momentum_correction_of_a_loss_scaled_optimizer_reaches_the_inner_one():
    import keras
    import numpy as np

    from tf_lars.horovod import callbacks

    schedule = callbacks.LearningRateScheduleCallback(0.1, 0.5)
    model = _model(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)))
    rates, _ = _fit(model, [schedule], epochs=3)
    assert np.allclose(rates, [0.1] * 4 + [0.05] * 4 + [0.025] * 4)
    assert np.allclose(model.get_weights()[0], _corrected_by_hand(rates), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({"momentum_rule": "scaled"}, 0.5),
        ({"momentum_rule": "scaled", "momentum_correction": True}, 1.0),
        ({"momentum_rule": "trust_scaled"}, 1.0),
        ({"momentum_rule": "unscaled"}, 1.0),
        ({"momentum_rule": "update_norm"}, 1.0),
    ],
)
def test_velocities_of_lars_are_scaled_only_where_they_hold_the_rate(options, factor):
    import numpy as np

    from tf_lars import LARS
    from tf_lars.horovod import callbacks

    model = _model(LARS(0.1, **options))
    _fit(model, [], epochs=1)
    velocities = [v for v in model.optimizer.variables if v.name.endswith("_momentum")]
    before = [v.numpy() for v in velocities]
    schedule = callbacks.LearningRateScheduleCallback(0.1, lambda epoch: 0.5)
    schedule.set_model(model)
    schedule.on_train_begin()
    schedule.on_epoch_begin(0)
    schedule.on_batch_begin(0)
    assert len(before) == 2 and np.any(before[0])
    for variable, value in zip(velocities, before, strict=True):
        assert np.allclose(variable.numpy(), factor * value)


def test_constant_multipliers_decay_exponentially_within_their_epochs():
    import keras
    import numpy as np

    from tf_lars.horovod import callbacks

    schedules = [
        callbacks.LearningRateScheduleCallback(0.4, 0.5, start_epoch=1, end_epoch=3),
        callbacks.LearningRateScheduleCallback(0.4, lambda epoch: 1 / epoch, start_epoch=4),
    ]
    _, logs = _fit(_model(keras.optimizers.Adam(0.4)), schedules, epochs=6)
    assert np.allclose(logs["lr"], [0.4, 0.4, 0.2, 0.2, 0.1, 0.08])


def test_several_steps_in_one_execution_keep_the_rate_of_their_first():
    import keras
    import numpy as np

    from tf_lars.horovod import callbacks

    schedule = callbacks.LearningRateScheduleCallback(1.0, lambda e: 1 + e, staircase=False)
    model = _model(keras.optimizers.SGD(1.0), steps_per_execution=2)
    rates, _ = _fit(model, [schedule], epochs=1)
    assert np.allclose(rates, [1.0, 1.5])


def test_an_unknown_optimizer_with_momentum_is_left_alone_with_a_warning():
    import keras

    from tf_lars.horovod import callbacks

    class Mine(keras.optimizers.Adam):
        momentum = 0.9

    schedule = callbacks.LearningRateScheduleCallback(0.1, 0.5)
    with pytest.warns(UserWarning, match="momentum_correction does nothing for Mine"):
        _fit(_model(Mine(0.1)), [schedule])


def test_mistakes_are_refused_with_a_sentence():
    import keras

    from tf_lars.horovod import callbacks

    with pytest.raises(ValueError, match="`initial_lr` is required"):
        callbacks.LearningRateScheduleCallback(None, 0.5)
    with pytest.raises(ValueError, match=r"warmup_epochs is 0 or more, got -1"):
        callbacks.LearningRateWarmupCallback(0.1, warmup_epochs=-1)
    decay = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    with pytest.raises(ValueError, match="give the optimizer a number"):
        _fit(
            _model(keras.optimizers.SGD(decay)), [callbacks.LearningRateScheduleCallback(0.1, 1.0)]
        )
    warm_up = callbacks.LearningRateWarmupCallback(0.1)
    warm_up.set_model(_model("sgd"))
    warm_up.set_params({"steps": None})
    with pytest.raises(ValueError, match="pass steps_per_epoch"):
        warm_up.on_train_begin()
