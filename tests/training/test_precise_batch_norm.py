"""PreciseBatchNorm puts the statistics of the data in the place of the moving averages."""

import keras
import numpy as np
import pytest

from tf_lars.training.callbacks import PreciseBatchNorm, batch_norm_layers


@pytest.fixture
def inputs():
    return np.random.default_rng(0).normal(3.0, 2.0, (30, 5)).astype("float32")


def two_layers(dropout=0.0):
    """Dense → BatchNorm → Dense → BatchNorm."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(epsilon=1e-3),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(3),
            keras.layers.BatchNormalization(),
        ]
    )
    model.compile("sgd", "mse")
    return model


def as_float64(variable):
    return keras.ops.convert_to_numpy(variable).astype("float64")


def estimate(model, batches, reduce_sum=None):
    precise = PreciseBatchNorm(batches, reduce_sum)
    precise.set_model(model)
    precise.update()
    return [
        (as_float64(layer.moving_mean), as_float64(layer.moving_variance))
        for layer in batch_norm_layers(model)
    ]


def expected(model, batches):
    """The statistics of both layers over all batches, in float64, each batch normalised alone."""
    dense1, norm1, _, dense2, _ = model.layers
    first, second = [], []
    for batch in batches:
        x = batch.astype("float64") @ as_float64(dense1.kernel) + as_float64(dense1.bias)
        first.append(x)
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + norm1.epsilon)
        x = x * as_float64(norm1.gamma) + as_float64(norm1.beta)
        second.append(x @ as_float64(dense2.kernel) + as_float64(dense2.bias))
    return [(np.concatenate(x).mean(0), np.concatenate(x).var(0)) for x in (first, second)]


def assert_same(actual, wanted, tolerance=2e-5):
    for (mean, variance), (wanted_mean, wanted_variance) in zip(actual, wanted, strict=True):
        np.testing.assert_allclose(mean, wanted_mean, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(variance, wanted_variance, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("ends", [[30], [10, 20], [7, 25], [1, 29]])
def test_equals_the_population_statistics_for_batches_of_any_sizes(inputs, ends):
    batches = np.split(inputs, ends)
    batches = [batch for batch in batches if len(batch)]
    model = two_layers()
    assert_same(estimate(model, batches), expected(model, batches))


def test_takes_datasets_of_tuples(inputs):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((inputs, np.zeros(30))).batch(8)
    model = two_layers()
    assert_same(estimate(model, dataset), expected(model, np.split(inputs, [8, 16, 24])))


def test_workers_with_unequal_shares_get_the_statistics_of_all(inputs):
    mine, others = np.split(inputs, [8]), [inputs[8:19], inputs[19:]]
    sums = []
    estimate(two_layers(), others, lambda vector: sums.append(vector) or vector)
    model = two_layers()
    actual = estimate(model, mine[:1], lambda vector: vector + sums[0])
    assert_same(actual, expected(model, [mine[0], *others]))


def test_nothing_else_of_the_model_changes(inputs):
    model = two_layers(dropout=0.5)
    statistics = {
        id(v) for layer in batch_norm_layers(model) for v in layer.non_trainable_variables
    }
    others = [v for v in model.variables if id(v) not in statistics]
    before = [as_float64(v) for v in others]
    estimate(model, [inputs])
    for variable, value in zip(others, before, strict=True):
        np.testing.assert_array_equal(as_float64(variable), value, variable.path)
    assert [layer.momentum for layer in batch_norm_layers(model)] == [0.99, 0.99]


def test_statistics_that_were_not_finite_are_replaced(inputs):
    model = two_layers()
    model.layers[1].moving_mean.assign(np.full(4, np.nan, "float32"))
    assert_same(estimate(model, [inputs]), expected(model, [inputs]))


def test_frozen_layers_keep_their_statistics(inputs):
    model = two_layers()
    model.layers[1].trainable = False
    estimate(model, [inputs])
    np.testing.assert_array_equal(as_float64(model.layers[1].moving_mean), np.zeros(4))
    assert np.abs(as_float64(model.layers[4].moving_mean)).max() > 0


def test_layers_within_models_are_found():
    inner = two_layers()
    outer = keras.Sequential([keras.Input((5,)), inner, keras.layers.BatchNormalization()])
    assert len(batch_norm_layers(outer)) == 3


def test_fit_validates_with_the_statistics_of_its_current_weights(inputs):
    model, targets = two_layers(), np.ones((30, 3), "float32")
    precise = PreciseBatchNorm([inputs])
    history = model.fit(
        inputs, targets, 10, 2, validation_data=(inputs, targets), callbacks=[precise], verbose=0
    )
    assert_same([*estimate(model, [inputs])], expected(model, [inputs]))
    final = model.evaluate(inputs, targets, verbose=0)
    assert history.history["val_loss"][-1] == pytest.approx(final, rel=1e-5)


def test_the_end_of_fit_brings_the_statistics_up_to_date(inputs):
    model = two_layers()
    model.fit(inputs, np.ones((30, 3)), 10, callbacks=[PreciseBatchNorm([inputs])], verbose=0)
    actual = [
        (as_float64(x.moving_mean), as_float64(x.moving_variance)) for x in batch_norm_layers(model)
    ]
    assert_same(actual, expected(model, [inputs]))


def test_few_updates_leave_the_moving_averages_behind_but_not_the_estimate():
    """What it is for: after three updates at momentum 0.99, the averages are still near 0 and 1."""
    data = np.random.default_rng(0).normal(50.0, 10.0, (64, 5)).astype("float32")
    model = two_layers()
    model.fit(data, np.zeros((64, 3)), 64, 3, verbose=0)
    stale = as_float64(model.layers[1].moving_variance)
    estimate(model, [data])
    true = as_float64(model.layers[1].moving_variance)
    assert (true > 5 * stale).all()


def test_no_data_at_all_is_refused():
    with pytest.raises(ValueError, match="batches must hold at least one batch"):
        estimate(two_layers(), [])
