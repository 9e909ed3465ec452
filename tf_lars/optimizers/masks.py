"""Which variables decay, which adapt, and at which multiple of the learning rate.

An exclusion is one of

- `"1d"`: variables with at most one dimension (biases, the scales and offsets of norms);
- `None` or `[]`: nothing is excluded;
- a list of regular expressions (searched in the variable's `path`, the same on every backend),
  variables, callables (variable → bool), and `"1d"`, mixed as you like;
- one variable or one callable.

They are resolved once, in the optimizer's `build`, into a plain list of booleans.
"""

import re
import warnings

import keras

from tf_lars.optimizers import arguments

ONE_DIMENSIONAL = "1d"


class Masks:
    """An optimizer's exclusions and multipliers as given, until `resolve` applies them."""

    def __init__(self, weight_decay, layer_adaptation, multipliers):
        self.weight_decay = normalise("exclude_from_weight_decay", weight_decay)
        self.layer_adaptation = normalise("exclude_from_layer_adaptation", layer_adaptation)
        self.multipliers = {
            pattern: arguments.number(f"learning_rate_multipliers[{pattern!r}]", factor, 0)
            for pattern, factor in (multipliers or {}).items()
        }
        for pattern in self.multipliers:
            check_pattern("learning_rate_multipliers", pattern)

    def add_to_weight_decay(self, variables, names):
        """Exclude variables, and variables whose name holds one of the patterns."""
        added = [*variables, *({"name": pattern} for pattern in names)]
        self.weight_decay = self.weight_decay + normalise("exclude_from_weight_decay", added)

    def resolve(self, variables):
        """For each variable a dict of decays, adapts and learning_rate_multiplier."""
        fixed = excluded("exclude_from_weight_decay", self.weight_decay, variables)
        plain = excluded("exclude_from_layer_adaptation", self.layer_adaptation, variables)
        factors = _multipliers("learning_rate_multipliers", self.multipliers, variables)
        return [
            {"decays": not a, "adapts": not b, "learning_rate_multiplier": factor}
            for a, b, factor in zip(fixed, plain, factors, strict=True)
        ]

    def get_config(self):
        """The constructor's arguments in a form that can be saved."""
        return {
            "exclude_from_weight_decay": serialise("exclude_from_weight_decay", self.weight_decay),
            "exclude_from_layer_adaptation": serialise(
                "exclude_from_layer_adaptation", self.layer_adaptation
            ),
            "learning_rate_multipliers": dict(self.multipliers),
        }


def path_of(variable):
    """The variable's path; a bare `tf.Variable` has only a name."""
    return getattr(variable, "path", None) or variable.name.split(":")[0]


def is_variable(entry):
    return hasattr(entry, "shape") and hasattr(entry, "assign")


def is_one_dimensional_rule(entry):
    return isinstance(entry, str) and entry == ONE_DIMENSIONAL


def normalise(argument, exclusion):
    """Check an exclusion and return it as a list of entries.

    Args:
        argument: the argument's name, for messages.
        exclusion: see the module's docstring.

    Returns:
        A list of `"1d"`, regular expressions, `{"name": pattern}`, variables and callables.

    Raises:
        ValueError: an entry is of another kind or not a valid regular expression.
    """
    if exclusion is None:
        return []
    if is_one_dimensional_rule(exclusion) or is_variable(exclusion) or callable(exclusion):
        return [exclusion]
    if isinstance(exclusion, dict) and "registered_name" in exclusion:
        return [_deserialise(exclusion)]
    if isinstance(exclusion, (set, frozenset)):
        exclusion = sorted(exclusion, key=str)  # a set's own order differs between processes
    if not isinstance(exclusion, (list, tuple)):
        raise ValueError(
            f"{argument}={exclusion!r} is not understood: give '1d', None, a list of regular "
            "expressions on variable paths, a list of variables, or a callable."
        )
    return [_checked(argument, _deserialise(entry)) for entry in exclusion]


def _deserialise(entry):
    if isinstance(entry, dict) and "registered_name" in entry:
        return keras.saving.deserialize_keras_object(entry)
    return entry


def _checked(argument, entry):
    pattern = entry.get("name") if isinstance(entry, dict) else entry
    if isinstance(pattern, str):
        check_pattern(argument, pattern)
    elif not (is_variable(entry) or callable(entry)):
        raise ValueError(
            f"{argument} holds {entry!r}: its entries must be '1d', regular expressions, "
            "variables or callables."
        )
    return entry


def check_pattern(argument, pattern):
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"{argument} holds {pattern!r}, which is not a regular expression: {error}."
        ) from error


def matches(entry, variable):
    """Whether one entry of a list of exclusions covers the variable."""
    if is_one_dimensional_rule(entry):
        return len(variable.shape) <= 1
    if isinstance(entry, str):
        return re.search(entry, path_of(variable)) is not None
    if isinstance(entry, dict):
        return re.search(entry["name"], variable.name) is not None
    if is_variable(entry):
        return entry is variable or getattr(variable, "value", None) is entry
    return bool(entry(variable))


def excluded(argument, entries, variables):
    """One boolean for each variable: True where an entry covers it.

    Warns of a regular expression or a variable that covers nothing: it is most likely a mistake.
    """
    hits = [[matches(entry, variable) for variable in variables] for entry in entries]
    for entry, hit in zip(entries, hits, strict=True):
        if not any(hit) and not is_one_dimensional_rule(entry) and not callable(entry):
            shown = path_of(entry) if is_variable(entry) else entry
            warnings.warn(
                f"{argument}: {shown!r} covers none of the {len(variables)} variables.",
                stacklevel=2,
            )
    return [any(hit[k] for hit in hits) for k in range(len(variables))]


def serialise(argument, entries):
    """The exclusion in the form that `get_config` returns.

    Variables become regular expressions of their whole path.

    Raises:
        ValueError: a callable is not registered with Keras, so it could not be found on loading.
    """
    if len(entries) == 1 and is_one_dimensional_rule(entries[0]):
        return ONE_DIMENSIONAL
    return [_serialised(argument, entry) for entry in entries]


def _exactly(path):
    """A pattern for one variable, with and without the model's name, which Keras puts before the
    paths of a Sequential model's variables, but not when it loads the model from a file."""
    first, slash, rest = path.partition("/")
    return f"^({re.escape(first)}/)?{re.escape(rest)}$" if slash else f"^{re.escape(path)}$"


def _serialised(argument, entry):
    if isinstance(entry, (str, dict)):
        return entry
    if is_variable(entry):
        return _exactly(path_of(entry))
    return arguments.serialised_callable(argument, entry)


def _multipliers(argument, table, variables):
    """The learning-rate multiplier of each variable; the first matching pattern counts."""
    for pattern in table:
        if not any(matches(pattern, variable) for variable in variables):
            warnings.warn(
                f"{argument}: {pattern!r} covers none of the {len(variables)} variables.",
                stacklevel=2,
            )
    return [
        next((value for pattern, value in table.items() if matches(pattern, variable)), 1.0)
        for variable in variables
    ]
