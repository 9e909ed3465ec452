"""The update under TensorFlow: norms by TensorFlow's reductions, the rest compiled by XLA.

XLA adds up one number after another on a CPU; TensorFlow's own kernel uses vector instructions and
all cores. So every norm is taken between compiled calls. The variables are updated part after part
(`parts.py`): what lies between the calls is never as large as the parameters, and is still in the
caches when it is read again.
"""

import keras
import tensorflow as tf

from tf_lars.optimizers.compiled import place
from tf_lars.optimizers.parts import parted


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
        self._parted = {}

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
        slots, shared, telemetry = state
        shared_values = {name: tf.convert_to_tensor(value) for name, value in shared.items()}
        records, done = [], []
        parts = self._parts(layers)
        for part in parts:
            with tf.control_dependencies(done):
                new_shared, record = part.update(
                    part.of(variables),
                    part.of(grads),
                    part.of(slots),
                    {name: tf.gather(values, part.positions) for name, values in given.items()},
                    numbers,
                    shared_values,
                )
            done = list(record.values())
            records.append(record)
        for name, value in new_shared.items():
            shared[name].assign(value)
        back = tf.math.invert_permutation([k for part in parts for k in part.positions])
        for name, variable in telemetry.items():
            values = tf.concat([record[name] for record in records], 0)
            variable.assign(place(variable, layers, tf.gather(values, back)))

    def _parts(self, layers):
        key = tuple(layer.index for layer in layers)
        if key not in self._parted:
            self._parted[key] = parted(self, layers)
        return self._parted[key]

    def compiled(self, key, function):
        """The function compiled by XLA, unless the optimizer says no; one for each key."""
        if key not in self._compiled:
            if self.optimizer.jit_compile:
                function = tf.function(function, jit_compile=True, autograph=False)
            self._compiled[key] = function
        return self._compiled[key]


def _native(variable):
    return variable.value if isinstance(variable, keras.Variable) else variable


def _natives(variables):
    return {name: _native(variable) for name, variable in variables.items()}
