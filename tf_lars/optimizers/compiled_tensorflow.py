"""The update under TensorFlow: reductions on all cores, the rest in one XLA-compiled call."""

import keras
import tensorflow as tf

from tf_lars.optimizers.compiled import place


class TensorFlowProgram:
    """Updates the variables in place on every device of the distribution strategy."""

    @staticmethod
    def norm(x):
        """The L2 norm of a whole tensor; TensorFlow's own kernel uses all cores."""
        return tf.sqrt(2.0 * tf.nn.l2_loss(x))

    def __init__(self, optimizer, plan):
        self.optimizer = optimizer
        self.plan = plan
        self._compiled = {}

    def reduced(self, grads):
        """The gradients summed over the replicas, before anything is clipped or squared."""
        return self._reduced(tf.distribute.ReduceOp.SUM, grads)

    def _reduced(self, operation, tensors):
        replica = tf.distribute.get_replica_context()
        if not tensors or replica is None or replica.num_replicas_in_sync == 1:
            return tensors
        return replica.all_reduce(operation, tensors)

    def run(self, layers, grads, variables, numbers, given):
        variables = [_native(variable) for variable in variables]
        state = (
            [_natives(layer.slots) for layer in layers],
            _natives(self.plan.shared),
            _natives(self.plan.telemetry),
        )

        def on_every_device(distribution, grads, numbers, given):
            def on_one_device(_, variables, state, grads, numbers, given):
                self._update(layers, variables, state, grads, numbers, given)

            # All variables at once: the first only says which devices there are.
            distribution.extended.update(
                variables[0],
                on_one_device,
                args=(variables, state, grads, numbers, given),
                group=False,
            )

        tf.__internal__.distribute.interim.maybe_merge_call(
            on_every_device,
            self.optimizer._distribution_strategy,
            list(grads),
            numbers,
            self._reduced(tf.distribute.ReduceOp.MEAN, given),
        )

    def overwrite(self, variables, values):
        """Assign the values on every device."""

        def on_one_device(variable, value):
            variable.assign(tf.cast(value, variable.dtype))

        for variable, value in zip(variables, values, strict=True):
            if value is not None:
                self.optimizer._distribution_strategy.extended.update(
                    _native(variable), on_one_device, args=(_native(value),), group=False
                )

    def _update(self, layers, variables, state, grads, numbers, given):
        slots = state[0]
        norms = self.optimizer.norms_of_inputs(layers, variables, grads, slots, self.norm)
        update = self._assigning_update(layers)
        update(variables, state, grads, {**norms, **given}, numbers)

    def _assigning_update(self, layers):
        key = tuple(layer.index for layer in layers)
        if key not in self._compiled:
            update = self._make_assigning_update(layers)
            if self.optimizer.jit_compile:
                update = tf.function(update, jit_compile=True, autograph=False)
            self._compiled[key] = update
        return self._compiled[key]

    def _make_assigning_update(self, layers):
        optimizer = self.optimizer

        def update(variables, state, grads, norms, numbers):
            slots, shared, telemetry = state
            new_weights, new_slots, new_shared, new_telemetry = optimizer.updated(
                layers,
                [tf.convert_to_tensor(variable) for variable in variables],
                grads,
                [_read(slot) for slot in slots],
                norms,
                numbers,
                _read(shared),
            )
            for variable, weight in zip(variables, new_weights, strict=True):
                variable.assign(weight)
            for slot, new_slot in zip(slots, new_slots, strict=True):
                _assign(slot, new_slot)
            _assign(shared, new_shared)
            for name, variable in telemetry.items():
                variable.assign(place(variable, layers, new_telemetry[name]))

        return update


def _native(variable):
    return variable.value if isinstance(variable, keras.Variable) else variable


def _natives(variables):
    return {name: _native(variable) for name, variable in variables.items()}


def _read(variables):
    return {name: tf.convert_to_tensor(variable) for name, variable in variables.items()}


def _assign(variables, values):
    for name, value in values.items():
        variables[name].assign(value)
