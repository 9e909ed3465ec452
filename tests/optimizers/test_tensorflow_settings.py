"""The settings of TensorFlow that an optimizer meets: graphs, sparse gradients, strategies."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.optimizers.devices import two_devices
from tests.optimizers.test_contract import every_optimizer, numpy_of, random_run, small_model, steps
from tf_lars.optimizers import CLARS, LAMB, LANS, LARS, NovoGrad, OrScale, parts

pytestmark = pytest.mark.filterwarnings("ignore:CLARS.apply was given no mean_gradient_norms")


@every_optimizer
def test_eager_and_graph_steps_agree(row):
    starts, gradients = random_run()
    variables = [keras.Variable(start) for start in starts]
    optimizer = row.make(learning_rate=0.1, weight_decay=0.01)
    optimizer.build(variables)

    @tf.function
    def in_graph(each):
        optimizer.apply(each, variables)

    for each in gradients:
        in_graph([tf.constant(g) for g in each])
    eager = steps(row.make(learning_rate=0.1, weight_decay=0.01), starts, gradients)
    for a, b in zip(numpy_of(variables), eager, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("setting", [{}, {"clipnorm": 0.5}, {"gradient_accumulation_steps": 2}])
@every_optimizer
def test_a_row_that_occurs_twice_counts_as_its_sum(row, setting):
    generator = np.random.default_rng(0)
    start = np.float32(generator.normal(size=(6, 4)))
    values = np.float32(generator.normal(size=(3, 4)))
    slices = tf.IndexedSlices(tf.constant(values), tf.constant([1, 4, 1]), tf.constant([6, 4]))
    dense = np.zeros((6, 4), np.float32)
    np.add.at(dense, [1, 4, 1], values)

    def moved(gradient):
        variable = keras.Variable(start)
        optimizer = row.make(learning_rate=0.1, weight_decay=0.01, **setting)
        for _ in range(2):
            optimizer.apply([gradient], [variable])
        return numpy_of([variable])[0]

    np.testing.assert_allclose(moved(slices), moved(tf.constant(dense)), rtol=1e-6, atol=1e-7)


def assert_that_two_devices_equal_one(make, **setting):
    generator = np.random.default_rng(0)
    x, y = np.float32(generator.normal(size=(16, 6))), np.float32(generator.normal(size=(16, 3)))

    def trained(strategy):
        with strategy.scope():
            model = small_model()
            model.compile(make(learning_rate=0.05, weight_decay=0.01, **setting), loss="mse")
        model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        return model

    one = trained(tf.distribute.get_strategy())
    two = trained(two_devices())
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    ratios = [[float(r) for r in model.optimizer.trust_ratios.values()] for model in (one, two)]
    np.testing.assert_allclose(*ratios, rtol=2e-5)


@every_optimizer
def test_two_mirrored_devices_equal_one(row):
    assert_that_two_devices_equal_one(row.make)


@pytest.mark.parametrize(
    "setting", [{"global_clipnorm": 0.5}, {"use_ema": True}, {"jit_compile": False}], ids=str
)
def test_two_mirrored_devices_equal_one_in_every_setting(setting):
    assert_that_two_devices_equal_one(LARS, **setting)


@pytest.mark.parametrize("steps_per_execution", [1, 3])
@pytest.mark.parametrize("jit_compile", [True, False])
def test_the_optimizer_works_inside_and_outside_of_a_compiled_model(
    jit_compile, steps_per_execution
):
    generator = np.random.default_rng(0)
    x, y = np.float32(generator.normal(size=(24, 6))), np.float32(generator.normal(size=(24, 3)))

    def trained(**options):
        model = small_model()
        model.compile(LARS(learning_rate=0.05, weight_decay=0.01), loss="mse", **options)
        model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        return model.get_weights()

    plain = trained(run_eagerly=True)
    compiled = trained(jit_compile=jit_compile, steps_per_execution=steps_per_execution)
    for a, b in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_tensorflow_checkpoint_restores_the_state(tmp_path):
    starts, gradients = random_run(4)

    def fresh():
        variables = [keras.Variable(start) for start in starts]
        optimizer = LAMB(learning_rate=0.1)
        optimizer.build(variables)
        values = {f"w{k}": variable.value for k, variable in enumerate(variables)}
        return variables, optimizer, tf.train.Checkpoint(optimizer=optimizer, **values)

    def run(optimizer, variables, part):
        for each in part:
            optimizer.apply([tf.constant(g) for g in each], variables)

    variables, optimizer, checkpoint = fresh()
    run(optimizer, variables, gradients[:2])
    path = checkpoint.write(str(tmp_path / "checkpoint"))
    run(optimizer, variables, gradients[2:])
    restored_variables, restored, restored_checkpoint = fresh()
    restored_checkpoint.read(path).assert_consumed()
    run(restored, restored_variables, gradients[2:])
    for a, b in zip(
        numpy_of(variables + optimizer.variables),
        numpy_of(restored_variables + restored.variables),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_keras_mixed_precision_trains_with_loss_scaling():
    generator = np.random.default_rng(0)
    x, y = np.float32(generator.normal(size=(32, 6))), np.float32(generator.normal(size=(32, 3)))
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = small_model()
        model.compile(LARS(learning_rate=0.5, trust_coefficient=0.02), loss="mse")
        history = model.fit(x, y, batch_size=8, epochs=5, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert history.history["loss"][-1] < history.history["loss"][0]


def test_the_update_of_a_new_learning_rate_is_not_traced_again():
    starts, gradients = random_run(4)
    optimizer = LARS(learning_rate=0.1, weight_decay=0.01)
    variables = [keras.Variable(start) for start in starts]
    for k, each in enumerate(gradients):
        optimizer.learning_rate = 0.1 * k
        optimizer.apply([tf.constant(g) for g in each], variables)
    compiled = optimizer._program._compiled.values()
    assert {function.experimental_get_tracing_count() for function in compiled} == {1}


def test_layers_that_look_the_same_share_one_compiled_update(monkeypatch):
    monkeypatch.setattr(parts, "CHUNK_WEIGHTS", 20)
    variables = [keras.Variable(np.ones((4, 5), "float32")) for _ in range(6)]
    optimizer = LAMB(learning_rate=0.1)
    optimizer.apply([tf.ones((4, 5))] * 6, variables)
    compiled = optimizer._program._compiled
    assert len(compiled) == 2  # the direction and the step
    assert {function.experimental_get_tracing_count() for function in compiled.values()} == {1}


@pytest.mark.parametrize("make", [LARS, LAMB, CLARS, LANS, NovoGrad, OrScale])
def test_the_parts_of_an_update_do_not_change_it(monkeypatch, make):
    """Every variable alone, or all in one chunk and the small ones in a bundle."""

    def trained():
        starts, gradients = random_run(4, ((4, 3), (5,), (2, 3, 2), (7,)))
        optimizer = make(learning_rate=0.1, weight_decay=0.01)
        variables = [keras.Variable(start) for start in starts]
        for each in gradients:
            optimizer.apply([tf.constant(g) for g in each], variables)
        records = (optimizer.trust_ratios, optimizer.weight_norms, optimizer.update_norms)
        return numpy_of(variables), [[float(x) for x in r.values()] for r in records]

    whole, whole_records = trained()
    monkeypatch.setattr(parts, "CHUNK_WEIGHTS", 1)
    monkeypatch.setattr(parts, "BUNDLED_WEIGHTS", 0)
    single, single_records = trained()
    for a, b in zip(whole, single, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(whole_records, single_records, rtol=1e-5)


def test_the_mean_norms_of_two_mirrored_devices_are_averaged():
    start, gradient = np.ones((2, 2), np.float32), np.ones((2, 2), np.float32)
    strategy = two_devices()
    with strategy.scope():
        variable = keras.Variable(start)
        optimizer = CLARS(learning_rate=0.5, trust_coefficient=0.1, max_trust_ratio=None)
        optimizer.build([variable])

    @tf.function
    def step():
        def on_one_device():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            mean_norm = tf.where(tf.equal(replica, 0), 2.0, 6.0)
            optimizer.apply([tf.constant(gradient / 2)], [variable], [mean_norm])

        strategy.run(on_one_device)

    step()
    alone = keras.Variable(start)
    single = CLARS(learning_rate=0.5, trust_coefficient=0.1, max_trust_ratio=None)
    single.apply([tf.constant(gradient)], [alone], [tf.constant(4.0)])
    np.testing.assert_allclose(numpy_of([variable])[0], numpy_of([alone])[0], rtol=1e-6)
