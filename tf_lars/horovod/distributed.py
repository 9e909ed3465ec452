"""What makes a Keras 3 optimizer combine its gradients over the ranks.

The distributed optimizer is a second object over the same state: its class derives from the
optimizer's own, and both share one `__dict__`. So variables, iterations, exclusions and everything
else that was set before wrapping stay, the original goes on working alone, and `isinstance` holds.
(Copying from the configuration, as Horovod did for Keras 2, loses all of that; changing the class
of the given object in place would make it impossible to use it alone afterwards.) The class equals
the original one, which is how Keras looks up under what name to save it: a saved model holds the
plain optimizer and loads without Horovod, and `optimizer.__class__.from_config` makes another
distributed one.

Where gradients are combined: Keras calls `_clip_gradients` right before an update, and under
gradient accumulation only when there is one. So a plain optimizer combines there, which gives
clipping, weight decay and averaging the combined gradient. Optimizers made of optimizers
(LossScaleOptimizer, MultiOptimizer) combine first thing in `apply`: every rank then sees the same
infinity, and all skip the step together.
"""

import contextlib
import dataclasses

import horovod.tensorflow as horovod
import keras
import tensorflow as tf

from tf_lars.horovod.guards import check_first_step, optimizer_settings
from tf_lars.horovod.keras_2 import Keras2Names
from tf_lars.horovod.reduction import scaled


class Distributed(Keras2Names):
    """What `DistributedOptimizer` adds to an optimizer's class; `isinstance(x, Distributed)`.

    Attributes:
        reduction: the `Reduction` that combines the gradients.
        local: the same optimizer without the bridge, sharing its state.
        compile_update: whether the update runs under XLA; set for models compiled with it.
    """

    reduction = None
    passes_factor = 1
    compile_update = False
    own_class = None
    _checked = False
    _reduces_in_apply = False

    @property
    def local(self):
        return over_the_same_state(self.own_class, self)

    def __reduce__(self):
        """For copies: distributed as well, over a copy of the state."""
        return over_the_same_state, (type(self), self.local)

    def register_local_var(self, var):
        """Leaves a variable's gradient to each rank alone, as for a layer that only it has."""
        self.reduction.register_local(var)

    @tf.autograph.experimental.do_not_convert
    def reduce_gradients(self, gradients, variables):
        """The gradients combined over the ranks, for training loops that need them themselves."""
        if not self._checked:
            settings = optimizer_settings(self, variables)
            check_first_step(self.reduction, variables, gradients, settings)
            type(self)._checked = True
        reduced = self.reduction(gradients, variables)
        self.__dict__["_reduced"] = True
        if self.passes_factor == 1:
            return reduced
        return [None if g is None else scaled(g, self.passes_factor) for g in reduced]

    def compile_for_xla(self):
        """Prepares for a backward pass under XLA: all gradients are there at once, none earlier."""
        type(self).compile_update = True
        type(self).reduction = dataclasses.replace(
            self.reduction, overlap=False, reason="XLA compiles the backward pass"
        )

    @contextlib.contextmanager
    def capturing(self):
        """Within it, `apply` only notes its gradients and variables, in the dict given."""
        self.__dict__["_captured"] = captured = {}
        try:
            yield captured
        finally:
            del self.__dict__["_captured"]

    @tf.autograph.experimental.do_not_convert
    def apply(self, grads, trainable_variables=None, **kwargs):
        if "_captured" in self.__dict__:
            self._captured.update(grads=list(grads), variables=trainable_variables, **kwargs)
            return
        grads = list(grads)
        if self._reduces_in_apply and grads:
            grads = self.reduce_gradients(grads, trainable_variables or self._trainable_variables)
        if not self._reduces_in_apply:
            self.__dict__["_reduced"] = not any(g is not None for g in grads)
        with self._held_back_by(grads):
            super().apply(grads, trainable_variables, **kwargs)
        if not self.__dict__.pop("_reduced", True) and not self._skipped_the_update():
            raise RuntimeError(
                f"{self.own_class.__name__}.apply does not call keras.optimizers.Optimizer.apply, "
                "so its gradients were not combined over the ranks: call "
                "optimizer.reduce_gradients(gradients, variables) in it"
            )

    def _held_back_by(self, gradients):
        """Where the data has no known size, TensorFlow begins a step more than there are batches.

        What does not depend on gradients, such as the counting of the update and weight decay,
        would be done in it, on some ranks or on all, before TensorFlow notices.
        """
        gradients = [gradient for gradient in gradients if gradient is not None]
        if self.reduction.overlap:
            gradients = gradients[-1:]  # the backward pass begins with it; more would end overlap
        return tf.control_dependencies(gradients)

    def _skipped_the_update(self):
        """Whether Keras only accumulated: eagerly it runs one branch, in a graph it builds both."""
        return bool(self.gradient_accumulation_steps) and tf.executing_eagerly()

    def _backend_apply_gradients(self, grads, trainable_variables):
        self.__dict__["_pending"] = trainable_variables
        super()._backend_apply_gradients(grads, trainable_variables)
        self.__dict__.pop("_pending", None)

    def _clip_gradients(self, grads):
        if not self._reduces_in_apply:
            grads = self.reduce_gradients(grads, self._pending)
        return super()._clip_gradients(grads)

    def _overwrite_variables_directly_with_gradients(self, grads, vars):
        """float8's scales and ranges come as gradients and are assigned: the largest over all."""
        overwritten = [self._overwrite_variable_with_gradient(v) for v in vars]
        if any(overwritten) and not self._reduces_in_apply:
            chosen = [i for i, is_chosen in enumerate(overwritten) if is_chosen]
            largest = dataclasses.replace(
                self.reduction, op=horovod.Max, gradient_predivide_factor=1.0
            )
            grads = list(grads)
            reduced = largest([grads[i] for i in chosen], [vars[i] for i in chosen])
            for i, gradient in zip(chosen, reduced, strict=True):
                grads[i] = gradient
        return super()._overwrite_variables_directly_with_gradients(grads, vars)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        update = super()._backend_update_step
        if not self.compile_update:
            return update(grads, trainable_variables, learning_rate)
        compiled = tf.function(
            lambda grads, rate: update(grads, trainable_variables, rate), jit_compile=True
        )
        return compiled(grads, tf.convert_to_tensor(learning_rate))


_MADE_OF_OPTIMIZERS = (keras.optimizers.LossScaleOptimizer, keras.optimizers.MultiOptimizer)


class _EqualToOwnClass(type):
    """Makes a distributed class stand for the optimizer's own wherever classes are looked up."""

    def __eq__(cls, other):
        return getattr(other, "own_class", other) is cls.own_class

    def __hash__(cls):
        return hash(cls.own_class)


def with_reduction(own_class, reduction, passes_factor):
    """A class of one optimizer: the settings are its attributes, the state stays outside."""
    metaclass = type("_EqualToOwnClass", (_EqualToOwnClass, type(own_class)), {})
    attributes = {
        "__module__": own_class.__module__,
        "__qualname__": own_class.__qualname__,
        "__doc__": own_class.__doc__,
        "reduction": reduction,
        "passes_factor": passes_factor,
        "own_class": own_class,
        "_reduces_in_apply": issubclass(own_class, _MADE_OF_OPTIMIZERS),
    }
    return metaclass(own_class.__name__, (Distributed, own_class), attributes)


def over_the_same_state(cls, optimizer):
    twin = object.__new__(cls)
    object.__setattr__(twin, "__dict__", optimizer.__dict__)  # Keras's would track the dictionary
    return twin
