"""What every optimizer of the package must hold to, row by row of the table."""

import json

import keras
import numpy as np
import pytest

from tests.optimizers.table import HAND_GRADIENT, HAND_WEIGHT, ROWS

pytestmark = pytest.mark.filterwarnings("ignore:CLARS.apply was given no mean_gradient_norms")

every_optimizer = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)

SHARED_OPTIONS = {
    "exclude_from_weight_decay": ["bias", "1d"],
    "exclude_from_layer_adaptation": ["^head/"],
    "learning_rate_multipliers": {"bias": 0.5},
    "master_weights": True,
    "jit_compile": False,
    "clipnorm": 2.0,
    "use_ema": True,
    "ema_momentum": 0.9,
    "ema_overwrite_frequency": 7,
    "gradient_accumulation_steps": 3,
    "name": "mine",
}


def numpy_of(variables):
    return [keras.ops.convert_to_numpy(v) for v in variables]


def apply_under_loss_scaling(optimizer, gradients, variables):
    """One step; on JAX through `stateless_apply`, as Keras's own trainer takes it."""
    gradients = [keras.ops.convert_to_tensor(g) for g in gradients]
    if keras.backend.backend() != "jax":
        optimizer.apply(gradients, variables)
        return
    new_variables, new_state = optimizer.stateless_apply(
        [v.value for v in optimizer.variables], gradients, [v.value for v in variables]
    )
    for variable, value in zip(
        [*variables, *optimizer.variables], [*new_variables, *new_state], strict=True
    ):
        variable.assign(value)


def steps(optimizer, starts, gradients):
    """The variables' values after a step for each list of gradients."""
    variables = [keras.Variable(start, name=f"w{k}") for k, start in enumerate(starts)]
    for each in gradients:
        tensors = [keras.ops.convert_to_tensor(g, dtype="float32") for g in each]
        optimizer.apply(tensors, variables)
    return numpy_of(variables)


def random_run(count=5, shapes=((4, 3), (2, 3, 2), (5,)), seed=0):
    generator = np.random.default_rng(seed)
    starts = [np.float32(generator.normal(size=shape)) for shape in shapes]
    gradients = [
        [np.float32(generator.normal(size=shape)) for shape in shapes] for _ in range(count)
    ]
    return starts, gradients


def small_model(seed=0):
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input((6,)),
        keras.layers.Dense(8, activation="tanh", name="body"),
        keras.layers.Dense(3, name="head"),
    ]
    return keras.Sequential(layers, name="model")


@every_optimizer
def test_every_option_survives_the_config(row):
    given = {"learning_rate": 0.25, **row.options, **SHARED_OPTIONS}
    config = row.make(**given).get_config()
    for name, value in given.items():
        assert config[name] == value, name
    again = row.make.from_config(json.loads(json.dumps(config)))
    assert again.get_config() == config


@every_optimizer
def test_the_default_config_makes_the_same_optimizer(row):
    config = row.make(learning_rate=0.3).get_config()
    assert row.make.from_config(dict(config)).get_config() == config


@every_optimizer
def test_one_step_in_two_dimensions_is_as_by_hand(row):
    options, expected = row.by_hand
    (moved,) = steps(row.make(**options), [HAND_WEIGHT], [[HAND_GRADIENT]])
    np.testing.assert_allclose(moved, expected, rtol=1e-6)


@every_optimizer
def test_without_gradient_the_decay_alone_shrinks_the_weights(row):
    starts, _ = random_run(0)
    gradients = [[np.zeros_like(start) for start in starts]]
    optimizer = row.make(learning_rate=0.1, weight_decay=0.1, exclude_from_weight_decay=None)
    for start, moved in zip(starts, steps(optimizer, starts, gradients), strict=True):
        assert np.linalg.norm(moved) < np.linalg.norm(start)


@every_optimizer
def test_without_gradient_and_decay_nothing_moves(row):
    starts, _ = random_run(0)
    gradients = [[np.zeros_like(start) for start in starts]] * 2
    for start, moved in zip(
        starts, steps(row.make(learning_rate=0.1), starts, gradients), strict=True
    ):
        np.testing.assert_array_equal(moved, start)


@every_optimizer
def test_variables_that_are_excluded_from_decay_do_not_decay(row):
    starts, _ = random_run(0)
    gradients = [[np.zeros_like(start) for start in starts]]
    optimizer = row.make(
        learning_rate=0.1, weight_decay=0.1, exclude_from_weight_decay=["w1", "1d"]
    )
    moved = steps(optimizer, starts, gradients)
    assert not np.array_equal(moved[0], starts[0])
    np.testing.assert_array_equal(moved[1], starts[1])
    np.testing.assert_array_equal(moved[2], starts[2])


@every_optimizer
def test_variables_that_are_excluded_from_adaptation_have_a_trust_ratio_of_one(row):
    optimizer = row.make(learning_rate=0.1, exclude_from_layer_adaptation=["w1"])
    steps(optimizer, *random_run(2))
    ratios = [float(ratio) for ratio in optimizer.trust_ratios.values()]
    assert ratios[1] == 1.0
    if row.adapts:
        assert ratios[0] != 1.0 and ratios[2] != 1.0


@every_optimizer
def test_zero_weights_take_a_finite_step(row):
    _, gradients = random_run(2)
    starts = [np.zeros_like(g) for g in gradients[0]]
    for moved in steps(row.make(learning_rate=0.1, weight_decay=0.1), starts, gradients):
        assert np.all(np.isfinite(moved)) and np.any(moved != 0)


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r.scale_options is not None], ids=lambda row: row.name
)
def test_the_scale_of_the_gradients_does_not_matter(row):
    starts, gradients = random_run()
    scaled = [[1024 * g for g in each] for each in gradients]

    def optimizer():
        return row.make(learning_rate=0.1, exclude_from_layer_adaptation=None, **row.scale_options)

    moved, moved_by_scaled = (steps(optimizer(), starts, each) for each in (gradients, scaled))
    for a, b in zip(moved, moved_by_scaled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@every_optimizer
def test_compiled_and_uncompiled_updates_agree(row):
    starts, gradients = random_run()
    runs = [
        steps(row.make(learning_rate=0.1, jit_compile=jit, **row.options), starts, gradients)
        for jit in (True, False)
    ]
    for a, b in zip(*runs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@every_optimizer
def test_learning_rate_multipliers_scale_the_rate_of_what_they_match(row):
    starts, gradients = random_run(1)
    slow = row.make(learning_rate=0.2, learning_rate_multipliers={"w0": 0.5})
    plain, halved, multiplied = (
        steps(optimizer, starts, gradients)
        for optimizer in (row.make(learning_rate=0.2), row.make(learning_rate=0.1), slow)
    )
    np.testing.assert_allclose(multiplied[0], halved[0], rtol=1e-6)
    np.testing.assert_allclose(multiplied[1], plain[1], rtol=1e-6)


@every_optimizer
def test_a_model_saved_and_loaded_goes_on_as_if_it_had_not_stopped(row, tmp_path):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(32, 6)), generator.normal(size=(32, 3))
    model = small_model()
    exclusions = {"exclude_from_weight_decay": ["bias"], "exclude_from_layer_adaptation": ["head"]}
    model.compile(row.make(learning_rate=0.05, weight_decay=0.01, **exclusions), loss="mse")
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
    model.fit(x, y, epochs=2, **fit)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for each in (model, loaded):
        each.fit(x, y, epochs=2, **fit)
    for a, b in zip(
        numpy_of(model.weights + model.optimizer.variables),
        numpy_of(loaded.weights + loaded.optimizer.variables),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@every_optimizer
def test_half_precision_variables_move_as_float32_ones(row, dtype):
    start = np.full((256, 256), 2.0, np.float32)  # the sum of squares is beyond float16
    gradient = np.full((256, 256), 0.5, np.float32)

    def moved(dtype):
        variable = keras.Variable(start, dtype=dtype)
        optimizer = row.make(learning_rate=0.25)
        optimizer.apply([keras.ops.convert_to_tensor(gradient, dtype=dtype)], [variable])
        return keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32")), optimizer

    (half, half_optimizer), (full, full_optimizer) = moved(dtype), moved("float32")
    np.testing.assert_allclose(half, full, rtol=2e-3 if dtype == "float16" else 1e-2)
    for a, b in zip(
        half_optimizer.trust_ratios.values(), full_optimizer.trust_ratios.values(), strict=True
    ):
        np.testing.assert_allclose(float(a), float(b), rtol=1e-6)
