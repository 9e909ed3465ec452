"""Checks of constructor arguments: a message names the argument, the value and the range."""

import numbers

import keras


def number(name, value, minimum=None, maximum=None, *, open_minimum=False, open_maximum=False):
    """`value` as a float within the range, or a ValueError that says what is allowed."""
    allowed = _range(minimum, maximum, open_minimum, open_maximum)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name}={value!r} must be a number in {allowed}.")
    value = float(value)
    low = minimum is None or (value > minimum if open_minimum else value >= minimum)
    high = maximum is None or (value < maximum if open_maximum else value <= maximum)
    if not (low and high) or value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{name}={value!r} must be in {allowed}.")
    return value


def _range(minimum, maximum, open_minimum, open_maximum):
    left = "(-inf" if minimum is None else f"{'(' if open_minimum else '['}{minimum:g}"
    right = "inf)" if maximum is None else f"{maximum:g}{')' if open_maximum else ']'}"
    return f"{left}, {right}"


def choice(name, value, allowed):
    """`value` if it is one of `allowed`, else a ValueError that lists them."""
    if not any(value is option or value == option for option in allowed):
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, allowed))}.")
    return value


def flag(name, value):
    """`value` if it is True or False."""
    return choice(name, value, (True, False))


def bounds(names, minimum, maximum):
    """Two optional non-negative numbers in order."""
    low = None if minimum is None else number(names[0], minimum, 0)
    high = None if maximum is None else number(names[1], maximum, 0, open_minimum=True)
    if low is not None and high is not None and low > high:
        raise ValueError(f"{names[0]}={low!r} must not be above {names[1]}={high!r}.")
    return low, high


def rate(name, value):
    """A non-negative number, a LearningRateSchedule, or a callable of no arguments."""
    if isinstance(value, dict):
        value = keras.saving.deserialize_keras_object(value)
    if callable(value) or isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        return value
    return number(name, value, 0)


def serialised_rate(name, value):
    """A rate as `get_config` returns it."""
    if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        return keras.saving.serialize_keras_object(value)
    return serialised_callable(name, value) if callable(value) else value


def learning_rate(value):
    """A learning rate in the form that Keras takes: it insists on a float."""
    if isinstance(value, numbers.Real):
        return number("learning_rate", value, 0)
    if isinstance(value, dict) or callable(value):
        return rate("learning_rate", value)
    raise ValueError(
        f"learning_rate={value!r} must be a number in [0, inf), a LearningRateSchedule, or a "
        "callable of no arguments."
    )


def serialised_callable(argument, function):
    """A Keras-registered callable as a config; a clear error for any other."""
    named = function if hasattr(function, "__name__") else type(function)
    if keras.saving.get_registered_object(keras.saving.get_registered_name(named)) is not named:
        raise ValueError(
            f"{argument}={function!r} cannot be saved: a callable must be registered with "
            "@keras.saving.register_keras_serializable() to be found again on loading."
        )
    return keras.saving.serialize_keras_object(function)
