"""Runs an optimizer's pure update on Keras's backend: one compiled call over all variables.

`make_program(optimizer, plan)` gives an object that runs one step: `run` reads the variables, calls
`optimizer.updated` and assigns what it returns.
"""

import keras
from keras import ops


def l2_norm(x):
    """The L2 norm of a whole tensor."""
    return ops.sqrt(ops.sum(ops.square(x)))


def at_least_float32(dtype):
    """The type in which a variable of this type is computed and its state is kept."""
    dtype = keras.backend.standardize_dtype(dtype)
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def dense_gradient(gradient):
    """The gradient as a dense tensor of at least float32; rows that occur twice are summed."""
    if gradient is None:
        return None
    gradient = ops.cast(gradient, at_least_float32(gradient.dtype))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.convert_to_tensor(gradient)
    return ops.convert_to_tensor(gradient, sparse=False)


def make_program(optimizer, plan):
    """The program of Keras's current backend."""
    if keras.backend.backend() == "tensorflow":
        from tf_lars.optimizers.compiled_tensorflow import TensorFlowProgram

        return TensorFlowProgram(optimizer, plan)
    if keras.backend.backend() == "jax":
        return JaxProgram(optimizer, plan)
    if keras.backend.backend() == "torch":
        return TorchProgram(optimizer, plan)
    return Program(optimizer, plan)


def place(vector_variable, layers, values):
    """The whole vector of telemetry with the entries of `layers` replaced by `values`."""
    values = ops.cast(values, "float32")
    if len(layers) == vector_variable.shape[0]:
        return values
    indices = ops.convert_to_tensor([[layer.index] for layer in layers], dtype="int32")
    return ops.scatter_update(ops.convert_to_tensor(vector_variable), indices, values)


class Program:
    """Reads, updates and assigns with `keras.ops`, uncompiled."""

    norm = staticmethod(l2_norm)

    def __init__(self, optimizer, plan):
        self.optimizer = optimizer
        self.plan = plan

    def pure_update(self, layers):
        """A function of (weights, grads, slots, given norms, numbers, shared)."""
        optimizer = self.optimizer

        def update(weights, grads, slots, given, numbers, shared):
            norms = optimizer.norms_of_inputs(layers, weights, grads, slots, self.norm)
            return optimizer.updated(
                layers, weights, grads, slots, {**norms, **given}, numbers, shared
            )

        return update

    def reduced(self, grads):
        """The gradients summed over replicas; only TensorFlow's strategies have several."""
        return grads

    def run(self, layers, grads, variables, numbers, given):
        weights, slots, shared, telemetry = self.pure_update(layers)(
            [ops.convert_to_tensor(variable) for variable in variables],
            list(grads),
            [_values(layer.slots) for layer in layers],
            given,
            numbers,
            _values(self.plan.shared),
        )
        for layer, variable, weight, slot in zip(layers, variables, weights, slots, strict=True):
            variable.assign(weight)
            for name, value in slot.items():
                layer.slots[name].assign(value)
        for name, value in shared.items():
            self.plan.shared[name].assign(value)
        for name, variable in self.plan.telemetry.items():
            variable.assign(place(variable, layers, telemetry[name]))

    def overwrite(self, variables, values):
        """Assign copies of the values: an array must not stand behind two variables."""
        for variable, value in zip(variables, values, strict=True):
            if value is not None:
                variable.assign(ops.copy(ops.convert_to_tensor(value)))


def _values(variables):
    return {name: ops.convert_to_tensor(variable) for name, variable in variables.items()}


class JaxProgram(Program):
    """Compiled by `jax.jit`; sharded arrays give global norms because the sums are global."""

    def __init__(self, optimizer, plan):
        super().__init__(optimizer, plan)
        self._compiled = {}

    def pure_update(self, layers):
        if not self.optimizer.jit_compile:
            return super().pure_update(layers)
        key = tuple(layer.index for layer in layers)
        if key not in self._compiled:
            import jax

            self._compiled[key] = jax.jit(super().pure_update(layers))
        return self._compiled[key]


class TorchProgram(Program):
    """PyTorch runs the update eagerly, outside of autograd."""

    def run(self, layers, grads, variables, numbers, given):
        import torch

        with torch.no_grad():
            super().run(layers, grads, variables, numbers, given)
