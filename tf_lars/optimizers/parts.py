"""The parts in which TensorFlow updates the variables, one after another.

A `Chunk` is some neighbouring variables, together a few megabytes. A `Bundle` is all small
variables that do not adapt (the biases and scales, two thirds of a ResNet's variables) as one
vector: XLA compiles one kernel for them in place of hundreds.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf

CHUNK_WEIGHTS = 2_000_000
BUNDLED_WEIGHTS = 65_536


def parted(program, layers):
    """The parts of the layers, every layer in one of them."""
    bundles, chunks, weights = {}, [[]], 0
    for position, layer in enumerate(layers):
        size = math.prod(layer.shape)
        if program.optimizer.elementwise and not layer.adapts and size <= BUNDLED_WEIGHTS:
            bundles.setdefault(_facts(layer)[1:], []).append(position)
            continue
        if weights and weights + size > CHUNK_WEIGHTS:
            chunks.append([])
            weights = 0
        chunks[-1].append(position)
        weights += size
    return [Chunk(program, layers, positions) for positions in chunks if positions] + [
        Bundle(program, layers, positions) for positions in bundles.values()
    ]


def _facts(layer):
    """All that the compiled code of a layer depends on, the shape first."""
    return (
        tuple(layer.shape),
        layer.dtype,
        layer.compute_dtype,
        layer.decays,
        layer.adapts,
        layer.learning_rate_multiplier,
        tuple(layer.slots),
    )


class Part:
    """Some of the layers, and how their update is called."""

    def __init__(self, program, layers, positions):
        self.program = program
        self.optimizer = program.optimizer
        self.positions = positions
        self.layers = tuple(layers[k] for k in positions)
        self.key = tuple(_facts(layer) for layer in self.layers)

    def of(self, values):
        """This part's entries of a list with one entry for each layer."""
        return [values[k] for k in self.positions]

    def call(self, function, *tensors):
        """`function`, compiled once for all parts whose layers look the same."""
        return self.program.compiled((function.__name__, self.key), function)(*tensors)


class Chunk(Part):
    """Layers whose variables are read and assigned within the compiled calls, in place."""

    def update(self, variables, grads, slots, given, numbers, shared):
        """Update the variables once: (new shared slots, telemetry)."""
        optimizer, norm = self.optimizer, self.program.norm
        norms = {
            **optimizer.norms_of_inputs(self.layers, variables, grads, slots, norm),
            **given,
        }
        measured = [{}] * len(self.layers)
        if optimizer.measured_names:
            measured = self.call(self._direct, variables, grads, slots, norms, numbers, shared)
            norms.update(optimizer.norms_of_measured(measured, norm))
        new_shared, ratios = self.call(
            self._step, variables, grads, slots, measured, norms, numbers, shared
        )
        return new_shared, optimizer.telemetry(ratios, norms)

    def _direct(self, variables, grads, slots, norms, numbers, shared):
        new_slots, measured = self.optimizer.directions(
            self.layers, _read(variables), grads, _read_each(slots), norms, numbers, shared
        )
        _assign_each(slots, new_slots)
        return measured

    def _step(self, variables, grads, slots, measured, norms, numbers, shared):
        weights, slot_values = _read(variables), _read_each(slots)
        if not self.optimizer.measured_names:
            slot_values, measured = self.optimizer.directions(
                self.layers, weights, grads, slot_values, norms, numbers, shared
            )
        weights, slot_values, new_shared, ratios = self.optimizer.steps(
            self.layers, weights, grads, slot_values, measured, norms, numbers, shared
        )
        for variable, weight in zip(variables, weights, strict=True):
            variable.assign(weight)
        _assign_each(slots, slot_values)
        return new_shared, ratios


class Bundle(Part):
    """Layers that need no norm, gathered into one vector for the compiled call."""

    def __init__(self, program, layers, positions):
        super().__init__(program, layers, positions)
        self.sizes = [math.prod(layer.shape) for layer in self.layers]
        self.pieces = np.repeat(np.arange(len(self.sizes), dtype="int32"), self.sizes)
        self.whole = dataclasses.replace(self.layers[0], shape=(sum(self.sizes),))
        self.key = _facts(self.whole)

    def update(self, variables, grads, slots, given, numbers, shared):
        """Update the variables once: (new shared slots, telemetry)."""
        optimizer = self.optimizer
        whole = (
            _joined(variables),
            _joined(grads),
            {name: _joined([slot[name] for slot in slots]) for name in slots[0]},
        )
        norms = optimizer.norms_of_inputs([self.whole], *([each] for each in whole), self._norms)
        weight, slot_values, new_shared, measured = self.call(self._move, *whole, numbers, shared)
        norms.update(optimizer.norms_of_measured([measured], self._norms))
        self._hand_out(weight, variables)
        for name, value in slot_values.items():
            self._hand_out(value, [slot[name] for slot in slots])
        norms = {name: tf.reshape(values, [-1]) for name, values in norms.items()}
        ratios = tf.ones([len(self.layers)], self.program.plan.vector_dtype)
        return new_shared, optimizer.telemetry(ratios, norms)

    def _move(self, weight, gradient, slots, numbers, shared):
        one = ([self.whole], [weight], [gradient])
        slots, measured = self.optimizer.directions(*one, [slots], {}, numbers, shared)
        (weight,), (slots,), new_shared, _ = self.optimizer.steps(
            *one, slots, measured, {}, numbers, shared
        )
        return weight, slots, new_shared, measured[0]

    def _norms(self, x):
        """The norm of every layer's piece of a vector."""
        squares = tf.math.unsorted_segment_sum(tf.square(x), self.pieces, len(self.sizes))
        return tf.sqrt(squares)

    def _hand_out(self, vector, variables):
        for variable, piece in zip(variables, tf.split(vector, self.sizes), strict=True):
            variable.assign(tf.reshape(piece, variable.shape))


def _joined(tensors):
    return tf.concat([tf.reshape(tf.convert_to_tensor(tensor), [-1]) for tensor in tensors], 0)


def _read(variables):
    return [tf.convert_to_tensor(variable) for variable in variables]


def _read_each(slots):
    return [{name: tf.convert_to_tensor(value) for name, value in slot.items()} for slot in slots]


def _assign_each(slots, values):
    for slot, value in zip(slots, values, strict=True):
        for name, variable in slot.items():
            variable.assign(value[name])
