"""Exclusions in every form, and what a preset stands for."""

import keras
import numpy as np
import pytest

from tf_lars import CLARS, LAMB, LARS
from tf_lars.optimizers.presets import PRESETS

CLASSES = {"LARS": LARS, "LAMB": LAMB, "CLARS": CLARS}


@keras.saving.register_keras_serializable("tests")
def is_narrow(variable):
    return variable.shape[-1] < 3


def variables():
    shapes = {"stem": (4, 3), "body": (3, 3), "head": (3, 2), "bias": (2,)}
    return {
        name: keras.Variable(np.ones(shape, "float32"), name=name) for name, shape in shapes.items()
    }


def decaying(optimizer, given):
    optimizer.build(list(given.values()))
    return [layer.path for layer in optimizer._plan.layers if layer.decays]


def test_a_registered_callable_excludes_and_survives_the_config():
    optimizer = LARS(exclude_from_weight_decay=[is_narrow])
    again = LARS.from_config(optimizer.get_config())
    for each in (optimizer, again):
        assert decaying(each, variables()) == ["stem", "body"]


def test_exclude_from_weight_decay_adds_variables_and_names_before_build():
    given = variables()
    optimizer = LAMB(exclude_from_weight_decay="1d")
    optimizer.exclude_from_weight_decay(var_list=[given["stem"]], var_names=["^he.d$"])
    assert decaying(optimizer, given) == ["body"]
    with pytest.raises(ValueError, match="before the optimizer is built"):
        optimizer.exclude_from_weight_decay(var_names=["body"])


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (LARS, {"momentum": 1.0}, "momentum=1.0"),
        (LARS, {"trust_coefficient": 0}, "trust_coefficient=0"),
        (LARS, {"learning_rate": -0.1}, "learning_rate=-0.1"),
        (LARS, {"momentum_rule": "heavy"}, "momentum_rule='heavy'.*scaled"),
        (LARS, {"min_trust_ratio": 2.0, "max_trust_ratio": 1.0}, "min_trust_ratio"),
        (LAMB, {"beta_2": 1.5}, "beta_2=1.5"),
        (LAMB, {"weight_decay": "much"}, "weight_decay='much'"),
        (LAMB, {"epsilon": float("nan")}, "epsilon=nan"),
        (LAMB, {"exclude_from_weight_decay": ["("]}, r"exclude_from_weight_decay.*\("),
        (CLARS, {"max_trust_ratio": -1.0}, "max_trust_ratio=-1.0"),
    ],
)
def test_a_bad_argument_is_named_with_its_value(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize(
    ("name", "preset"), [(name, preset) for name, table in PRESETS.items() for preset in table]
)
def test_a_preset_steps_and_says_what_it_is(name, preset):
    optimizer = CLASSES[name].from_preset(preset, learning_rate=0.5)
    config = CLASSES[name].from_config(optimizer.get_config()).get_config()
    row = PRESETS[name][preset]
    assert row.source
    assert row.differs
    assert config == optimizer.get_config()
    assert all(config[key] == value for key, value in row.arguments.items() if "exclude" not in key)
    weight = keras.Variable(np.ones((4, 3), "float32"))
    gradient = keras.ops.convert_to_tensor(np.ones((4, 3), "float32"))
    if name == "CLARS":
        optimizer.apply([gradient], [weight], mean_gradient_norms=[np.float32(4.0)])
    else:
        optimizer.apply([gradient], [weight])
    assert np.all(keras.ops.convert_to_numpy(weight) < 1.0)


@pytest.mark.parametrize("name", CLASSES)
def test_an_override_wins_over_the_preset(name):
    optimizer = CLASSES[name].from_preset("paper", learning_rate=0.5, weight_decay=0.25)
    assert optimizer.weight_decay == 0.25


def test_an_unknown_preset_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"'simcrl' is not one of LARS's: .*Did you mean 'simclr'"):
        LARS.from_preset("simcrl", learning_rate=1.0)
