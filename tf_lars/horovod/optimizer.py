"""DistributedOptimizer: any Keras 3 optimizer, with its gradients combined over the ranks.

The distributed optimizer is a second object over the same state: its class derives from the
optimizer's own, and both share one `__dict__`. So variables, iterations, exclusions and everything
else that was set before wrapping stay, the original goes on working alone, and `isinstance` holds.
(Copying from the configuration, as Horovod did for Keras 2, loses all of that; changing the class
of the given object in place would make it impossible to use it alone afterwards.) Towards Keras's
serialisation the object says that it is of the original class, so that a saved model holds the
plain optimizer and loads without Horovod.

Where gradients are combined: Keras calls `_clip_gradients` right before an update, and under
gradient accumulation only when there is one. So a plain optimizer combines there, which gives
clipping, weight decay and averaging the combined gradient. Optimizers made of optimizers
(LossScaleOptimizer, MultiOptimizer) combine first thing in `apply`: every rank then sees the same
infinity, and all skip the step together.
"""

import warnings

import horovod.tensorflow as horovod
import keras

from tf_lars.horovod.reduction import Reduction


class Distributed:
    """What `DistributedOptimizer` adds to an optimizer's class; `isinstance(x, Distributed)`.

    Attributes:
        reduction: the `Reduction` that combines the gradients.
        local: the same optimizer without the bridge, sharing its state.
    """

    reduction = None
    passes_factor = 1.0
    _own_class = None
    _reduces_in_apply = False
    _pending_variables = None

    @property
    def local(self):
        return _over_the_same_state(self._own_class, self)

    def register_local_var(self, var):
        """Leaves a variable's gradient to each rank alone, as for a layer that only it has."""
        self.reduction.register_local(var)

    def reduce_gradients(self, gradients, variables):
        """The gradients combined over the ranks, for training loops that apply them themselves."""
        reduced = self.reduction(gradients, variables)
        if self.passes_factor != 1.0:
            reduced = [None if g is None else g * self.passes_factor for g in reduced]
        return reduced

    def apply(self, grads, trainable_variables=None, **kwargs):
        grads = list(grads)
        if not grads:
            return None
        if self._reduces_in_apply:
            variables = trainable_variables or self._trainable_variables
            grads = self.reduce_gradients(grads, variables)
        return super().apply(grads, trainable_variables, **kwargs)

    def _backend_apply_gradients(self, grads, trainable_variables):
        object.__setattr__(self, "_pending_variables", trainable_variables)
        try:
            super()._backend_apply_gradients(grads, trainable_variables)
        finally:
            object.__setattr__(self, "_pending_variables", None)

    def _clip_gradients(self, grads):
        if not self._reduces_in_apply:
            grads = self.reduce_gradients(grads, self._pending_variables)
        return super()._clip_gradients(grads)


_WRAPPERS = (keras.optimizers.LossScaleOptimizer, keras.optimizers.MultiOptimizer)


def _distributed_class(own_class, reduction, passes_factor):
    attributes = {
        "__module__": own_class.__module__,
        "__qualname__": own_class.__qualname__,
        "__doc__": own_class.__doc__,
        "__class__": property(lambda self: own_class),
        "reduction": reduction,
        "passes_factor": passes_factor,
        "_own_class": own_class,
        "_reduces_in_apply": issubclass(own_class, _WRAPPERS),
    }
    return type(own_class.__name__, (Distributed, own_class), attributes)


def _twin(optimizer, reduction, passes_factor=1.0):
    own_class = type(optimizer)
    return _over_the_same_state(_distributed_class(own_class, reduction, passes_factor), optimizer)


def _over_the_same_state(cls, optimizer):
    twin = object.__new__(cls)
    object.__setattr__(twin, "__dict__", optimizer.__dict__)  # Keras's would track the dictionary
    return twin


def DistributedOptimizer(
    optimizer,
    name=None,
    device_dense="",
    device_sparse="",
    compression=horovod.Compression.none,
    sparse_as_dense=False,
    gradient_predivide_factor=1.0,
    op=horovod.Average,
    backward_passes_per_step=1,
    average_aggregated_gradients=False,
    num_groups=0,
    groups=None,
    process_set=horovod.global_process_set,
    scale_local_gradients=True,
):
    if isinstance(optimizer, Distributed):
        raise ValueError("optimizer is distributed already: wrap it once")
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(f"optimizer must be a keras.optimizers.Optimizer, not {optimizer!r}")
    if num_groups:
        warnings.warn("num_groups is called groups now", DeprecationWarning, stacklevel=2)
        groups = num_groups if groups is None else groups
    reduction = Reduction(
        name=name,
        device_dense=device_dense,
        device_sparse=device_sparse,
        compression=compression,
        sparse_as_dense=sparse_as_dense,
        gradient_predivide_factor=gradient_predivide_factor,
        op=op,
        groups=groups,
        process_set=process_set,
        scale_local_gradients=scale_local_gradients,
    )
    return _twin(optimizer, reduction)
