"""Means of metrics over the ranks that are exact when the ranks hold different numbers of rows."""

import horovod.tensorflow as horovod
import numpy as np
import tensorflow as tf
from keras import ops


def _leaves(model):
    """The model's metrics, with the containers that `compile` makes opened."""
    for metric in model.metrics:
        yield from getattr(metric, "metrics", None) or [metric]


def _adds_up(metric):
    """Whether the metric declares, as Keras's own do, that replicas sum its state."""
    return all(variable.aggregation == "sum" for variable in metric.variables)


def _results(model):
    """The metrics' results under the names that `fit` logs them by: {name: array}."""
    flat = {}
    for name, value in model.get_metrics_result().items():
        items = value.items() if isinstance(value, dict) else [(name, value)]
        flat.update((key, np.asarray(ops.convert_to_numpy(item))) for key, item in items)
    return flat


def _numbers(logs):
    """The logs that are numbers or arrays of them: {name: float64 array}."""
    arrays = {key: np.asarray(value) for key, value in logs.items()}
    return {
        key: array.astype(np.float64) for key, array in arrays.items() if array.dtype.kind in "biuf"
    }


class MetricSnapshot:
    """What one rank's metrics held at the end of a pass over its data.

    Args:
        model: a compiled `keras.Model`; its metrics are copied.
    """

    def __init__(self, model):
        self._model = model
        self._results = _results(model)
        self._states = [ops.convert_to_numpy(variable) for variable in self._variables()]
        tracker = getattr(model, "_loss_tracker", None)
        self._examples = 0.0 if tracker is None else float(ops.convert_to_numpy(tracker.count))

    def _variables(self):
        additive = [metric for metric in _leaves(self._model) if _adds_up(metric)]
        return [variable for metric in additive for variable in metric.variables]

    def averaged(self, logs, name, process_set=horovod.global_process_set):
        """The logs over all ranks. A collective call: every rank, with the same keys.

        A log that is the result of a metric is computed anew from the metric's state summed over
        the ranks (sum and count for a mean). A metric whose state does not add up is averaged with
        the numbers of examples as weights, any other number with equal weights. Everything is one
        float64 vector in the order of the sorted keys, so that all ranks get the same bits.

        Args:
            logs: dict of this rank's numbers; what is not a number is left out.
            name: name of the collective call.
            process_set: the ranks that take part.

        Raises:
            ValueError: if the ranks do not hold the same logs; it names the rank and the logs.
        """
        numbers = _numbers(logs)
        keys = sorted(numbers)
        shapes = [(key, numbers[key].shape) for key in keys]
        _check_same(shapes, [state.shape for state in self._states], name, process_set)
        values = [numbers[key].ravel() for key in keys]
        tracked = [float(self._is_result(key, numbers[key])) for key in keys]
        weighted = [value * self._examples if self._examples else 0 * value for value in values]
        states = [state.astype(np.float64).ravel() for state in self._states]
        parts = [[1.0, self._examples], tracked, *values, *weighted, *states]
        total = horovod.allreduce(
            tf.constant(np.concatenate(parts), tf.float64),
            op=horovod.Sum,
            name=name,
            process_set=process_set,
        ).numpy()
        (ranks, examples), tracked, *rest = np.split(total, np.cumsum([len(p) for p in parts])[:-1])
        count = len(keys)
        values, weighted, states = rest[:count], rest[count : 2 * count], rest[2 * count :]
        exact = self._results_from(states)
        averaged = {}
        for index, key in enumerate(keys):
            is_result = tracked[index] == ranks
            if is_result and key in exact:
                mean = exact[key]
            elif is_result and examples:
                mean = weighted[index] / examples
            else:
                mean = values[index] / ranks
            mean = np.reshape(mean, numbers[key].shape)
            averaged[key] = float(mean) if mean.ndim == 0 else mean
        return averaged

    def _is_result(self, key, value):
        result = self._results.get(key)
        return (
            result is not None
            and result.shape == value.shape
            and np.allclose(result, value, rtol=1e-6, atol=0, equal_nan=True)
        )

    def _results_from(self, states):
        """The results with the additive metrics' states replaced for a moment."""
        variables = self._variables()
        before = [ops.convert_to_numpy(variable) for variable in variables]
        try:
            for variable, state in zip(variables, states, strict=True):
                variable.assign(state.reshape(variable.shape).astype(variable.dtype))
            results = _results(self._model)
        finally:
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)
        others = [metric.name for metric in _leaves(self._model) if not _adds_up(metric)]
        return {
            key: result
            for key, result in results.items()
            if not any(key == other or key.endswith(f"_{other}") for other in others)
        }


def _check_same(shapes, state_shapes, name, process_set):
    gathered = horovod.allgather_object(
        (horovod.rank(), shapes, state_shapes), name=f"{name}.keys", process_set=process_set
    )
    first_rank, first, first_states = gathered[0]
    for rank, theirs, their_states in gathered[1:]:
        if theirs != first or their_states != first_states:
            raise ValueError(
                f"metrics cannot be averaged: rank {first_rank} logs {dict(first)} and rank {rank} "
                f"logs {dict(theirs)} ({{name: shape}}). Every rank needs the same metrics, and "
                "validation data (or none) on every rank."
            )
