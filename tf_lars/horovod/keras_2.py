"""What optimizers had under Keras 2 and scripts written for Horovod use.

All of it on distributed optimizers; on plain ones, which loops with the tape and elastic jobs use,
the two names that Horovod's own examples need.
"""

import keras
import numpy as np
import tensorflow as tf

from tf_lars.horovod.variables import tf_variable


class CallableList(list):
    """Lets scripts of either age say `optimizer.variables` or `optimizer.variables()`."""

    def __call__(self):
        return self


class _OldLearningRate:
    """`optimizer.lr`, to read and to `assign`; an attribute that a user has set comes first."""

    def __get__(self, optimizer, owner=None):
        return self if optimizer is None else tf_variable(optimizer.learning_rate)


def give_plain_optimizers_old_names():
    """Lets `optimizer.variables()` and `optimizer.lr` work on every optimizer of Keras's."""
    base = next(cls for cls in keras.optimizers.Optimizer.__mro__ if "variables" in vars(cls))
    variables = base.variables
    base.variables = property(lambda self: CallableList(variables.fget(self)))
    base.lr = _OldLearningRate()


class Combined(list):
    """(gradient, variable) pairs that were combined over the ranks already."""


class Keras2Names:
    """A mixin in front of a Keras 3 optimizer."""

    @property
    def lr(self):
        """The learning rate; a `tf.Variable` unless it is a schedule, for `set_value` and such."""
        own = vars(self).get("lr")  # optimizers of users may have an attribute of that name
        return tf_variable(self.learning_rate) if own is None else own

    @lr.setter
    def lr(self, rate):
        if "lr" in vars(self):
            vars(self)["lr"] = rate
        else:
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
            var_list: variables, in lists of lists if need be, or a function that gives them.
            grad_loss: gradient of what follows the loss.
            tape: the `tf.GradientTape` of a tensor.
        """
        if not callable(loss) and tape is None:
            raise ValueError("tape: a loss that is a tensor needs the tape that recorded it")
        if callable(loss):
            with tape or tf.GradientTape() as tape:
                loss = loss()
        variables = tf.nest.flatten(var_list() if callable(var_list) else var_list)
        sources = [tf_variable(variable) for variable in variables]
        gradients = self.reduce_gradients(tape.gradient(loss, sources, grad_loss), variables)
        return Combined(zip(gradients, variables, strict=True))

    @tf.autograph.experimental.do_not_convert
    def compute_gradients(self, loss, var_list, tape=None):
        """`_compute_gradients` under the name that Keras 2.11 gave it."""
        return self._compute_gradients(loss, var_list, tape=tape)

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
