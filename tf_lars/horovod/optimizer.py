"""DistributedOptimizer: any Keras 3 optimizer, with its gradients combined over the ranks."""

import horovod.tensorflow as horovod
import keras

from tf_lars.horovod import keras_hooks
from tf_lars.horovod.distributed import Distributed, over_the_same_state, with_reduction
from tf_lars.horovod.reduction import make_reduction


def _accumulate(optimizer, passes):
    """Makes an optimizer update at every `passes`-th call only, with Keras's accumulation."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return _accumulate(optimizer.inner_optimizer, passes)
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        raise ValueError(
            f"backward_passes_per_step={passes} does not go with MultiOptimizer: set "
            "gradient_accumulation_steps of the optimizers in it"
        )
    if optimizer.gradient_accumulation_steps:
        raise ValueError(
            f"backward_passes_per_step={passes} and the optimizer's gradient_accumulation_steps="
            f"{optimizer.gradient_accumulation_steps} both accumulate: set one of them"
        )
    optimizer.gradient_accumulation_steps = passes
    if optimizer.built:
        optimizer._iterations.assign(optimizer._iterations * passes)
        optimizer._accumulated_gradients = [
            optimizer.add_variable_from_reference(variable, name="gradient_accumulator")
            for variable in optimizer._trainable_variables
        ]
    return None


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
    overlap="auto",
):
    """An optimizer whose gradients are combined over the ranks before each update.

    With the default settings the update is that of one process which has the batches of all ranks:
    g = (1/N) Σ_r g_r, where N is the number of ranks and g_r rank r's gradient of its mean loss.

    Args:
        optimizer: any `keras.optimizers.Optimizer`; one that was built keeps its state.
        name: prefix of the operations' names, the same on every rank.
        device_dense: device of the all-reduce of dense gradients, for instance "/cpu:0".
        device_sparse: device of the exchange of sparse ones.
        compression: `hvd.Compression.none`, or `.fp16` to send half the bytes.
        sparse_as_dense: combine `tf.IndexedSlices` as dense tensors.
        gradient_predivide_factor: f; gradients are divided by f before the sum and multiplied by
            f / N after it. With `op=Average` only.
        op: `hvd.Average`, `hvd.Sum`, or `hvd.Adasum` (needs a Horovod with MPI).
        backward_passes_per_step: number of calls whose gradients are added up on each rank before
            they are combined and applied. Keras's gradient accumulation does it.
        average_aggregated_gradients: take the mean of those passes in the place of their sum.
        num_groups: Horovod's old name of `groups`.
        groups: number of operations that the dense gradients travel in, or a list of lists of
            variables whose gradients travel together. Default: see `overlap`.
        process_set: the ranks that take part; another rank's gradients stay its own.
        scale_local_gradients: divide the gradients of variables registered with
            `register_local_var` by N.
        overlap: True sends each gradient as soon as it is there, while the backward pass goes on;
            False sends all in one operation after it. "auto" is True on a GPU whose backward pass
            is not compiled by XLA, otherwise False; `optimizer.reduction.overlap` says which.

    Returns:
        An optimizer of the same class that shares the given one's state. It has
        `register_local_var(variable)`, `reduce_gradients(gradients, variables)` and `local`, the
        optimizer without the exchange.

    Raises:
        ValueError: for an argument out of range or one that does not go with another.

    Example:
        >>> import keras
        >>> import tf_lars.horovod as hvd
        >>> hvd.init()
        >>> optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.01 * hvd.size()))
        >>> isinstance(optimizer, keras.optimizers.SGD)
        True

    Source: Sergeev and Del Balso, "Horovod: fast and easy distributed deep learning in
    TensorFlow", arXiv 1802.05799.
    """
    if isinstance(optimizer, Distributed):
        raise ValueError("optimizer is distributed already: wrap it once")
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(f"optimizer must be a keras.optimizers.Optimizer, not {optimizer!r}")
    passes = backward_passes_per_step
    if not isinstance(passes, int) or passes < 1:
        raise ValueError(f"backward_passes_per_step must be a positive integer, not {passes!r}")
    if op == horovod.Adasum and average_aggregated_gradients:
        raise ValueError("average_aggregated_gradients=True does not go with op=Adasum")
    reduction = make_reduction(
        name=name,
        device_dense=device_dense,
        device_sparse=device_sparse,
        compression=compression,
        sparse_as_dense=sparse_as_dense,
        gradient_predivide_factor=gradient_predivide_factor,
        op=op,
        num_groups=num_groups,
        groups=groups,
        process_set=process_set,
        scale_local_gradients=scale_local_gradients,
        overlap=overlap,
    )
    if passes > 1:
        _accumulate(optimizer, passes)
    keras_hooks.install()
    factor = 1 if average_aggregated_gradients else passes
    return over_the_same_state(with_reduction(type(optimizer), reduction, factor), optimizer)


def PartialDistributedOptimizer(optimizer, *args, local_layers=None, **kwargs):
    """`DistributedOptimizer` that leaves the gradients of some layers to each rank alone.

    Args:
        optimizer: any `keras.optimizers.Optimizer`.
        *args: as for `DistributedOptimizer`.
        local_layers: a layer or a list of layers, built, whose variables stay local.
        **kwargs: as for `DistributedOptimizer`.
    """
    distributed = DistributedOptimizer(optimizer, *args, **kwargs)
    for variable in variables_of(local_layers):
        distributed.register_local_var(variable)
    return distributed


def variables_of(local_layers):
    """The trainable variables of a layer or of a list of layers, which must be built."""
    layers = [local_layers] if isinstance(local_layers, keras.Layer) else local_layers or []
    for layer in layers:
        if not isinstance(layer, keras.Layer):
            raise ValueError(f"local_layers must be keras.Layer objects, not {layer!r}")
        if not layer.built:
            raise ValueError(f"local_layers: {layer.name} has no variables yet, build it first")
    return [variable for layer in layers for variable in layer.trainable_weights]
