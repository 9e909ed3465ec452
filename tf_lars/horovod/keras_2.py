"""What optimizers had under Keras 2 and scripts written for Horovod use, on distributed ones."""

import numpy as np
import tensorflow as tf

from tf_lars.horovod.variables import tf_variable


class CallableList(list):
    """Lets scripts of either age say `optimizer.variables` or `optimizer.variables()`."""

    def __call__(self):
        return self


class Combined(list):
    """(gradient, variable) pairs that were combined over the ranks already."""


class Keras2Names:
    """A mixin in front of a Keras 3 optimizer."""

    @property
    def lr(self):
        """The learning rate; a `tf.Variable` unless it is a schedule, for `set_value` and such."""
        return tf_variable(self.learning_rate)

    @lr.setter
    def lr(self, rate):
        self.learning_rate = rate

    @property
    def variables(self):
        return CallableList(super().variables)

    @property
    def weights(self):
        return self.variables

    def get_weights(self):
        """The values of all variables, as arrays."""
        return [np.array(variable) for variable in self.variables]

    def set_weights(self, weights):
        """Assigns a list of arrays, as `get_weights` gives them."""
        for variable, value in zip(self.variables, weights, strict=True):
            variable.assign(value)

    @tf.autograph.experimental.do_not_convert
    def minimize(self, loss, var_list, grad_loss=None, name=None, tape=None):
        """One update; arguments are those of `_compute_gradients`."""
        pairs = self._compute_gradients(loss, var_list, grad_loss, tape)
        return self.apply_gradients(pairs, name=name)

    @tf.autograph.experimental.do_not_convert
    def _compute_gradients(self, loss, var_list, grad_loss=None, tape=None):
        """The (gradient, variable) pairs of a loss, combined over the ranks.

        Args:
            loss: a function without arguments; or a tensor, with the tape that recorded it.
            var_list: variables, or a function that gives them.
            grad_loss: gradient of what follows the loss.
            tape: the `tf.GradientTape` of a tensor.
        """
        if not callable(loss) and tape is None:
            raise ValueError("tape: a loss that is a tensor needs the tape that recorded it")
        if callable(loss):
            with tape or tf.GradientTape() as tape:
                loss = loss()
        variables = list(var_list() if callable(var_list) else var_list)
        sources = [tf_variable(variable) for variable in variables]
        gradients = self.reduce_gradients(tape.gradient(loss, sources, grad_loss), variables)
        return Combined(zip(gradients, variables, strict=True))

    @tf.autograph.experimental.do_not_convert
    def apply_gradients(
        self,
        grads_and_vars,
        name=None,
        experimental_aggregate_gradients=True,
        skip_gradients_aggregation=False,
    ):
        """As Keras 3's.

        Args:
            grads_and_vars: (gradient, variable) pairs.
            name: ignored, as Keras 2 did under TensorFlow 2.
            experimental_aggregate_gradients, skip_gradients_aggregation: False and True say that
                the gradients were combined over the ranks already.
        """
        del name
        combined = isinstance(grads_and_vars, Combined) or skip_gradients_aggregation
        if combined or not experimental_aggregate_gradients:
            return self.local.apply_gradients(grads_and_vars)
        return super().apply_gradients(grads_and_vars)
