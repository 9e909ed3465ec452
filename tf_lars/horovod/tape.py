"""DistributedGradientTape: a `tf.GradientTape` whose gradients are combined over the ranks."""

import horovod.tensorflow as horovod
import tensorflow as tf

from tf_lars.horovod import keras_hooks
from tf_lars.horovod.guards import check_first_step
from tf_lars.horovod.optimizer import variables_of
from tf_lars.horovod.reduction import make_reduction

_checked = set()  # process sets whose ranks were compared: tapes come and go at every step


class _DistributedTape:
    """What is added to the class of the given tape; the state is the given tape's own."""

    reduction = None

    def register_local_source(self, source):
        """Leaves a source's gradient to each rank alone."""
        self.reduction.register_local(source)

    @tf.autograph.experimental.do_not_convert
    def gradient(self, target, sources, output_gradients=None, use_generic_names=False, **kwargs):
        """As `tf.GradientTape.gradient`, combined over the ranks; `sources` may be nested."""
        del use_generic_names  # names are the same on every rank anyway
        gradients = super().gradient(target, sources, output_gradients, **kwargs)
        sources, flat = _flat(sources), _flat(gradients)
        if self.reduction.process_set not in _checked and not self.reduction.alone:
            check_first_step(self.reduction, sources, flat, {})
            _checked.add(self.reduction.process_set)
        flat = self.reduction(flat, sources)
        return tf.nest.pack_sequence_as(gradients, flat)

    @tf.autograph.experimental.do_not_convert
    def get_local_and_global_gradients(self, target, sources, *args, **kwargs):
        """The (source, gradient) pairs of local sources, and those of the others."""
        pairs = list(zip(sources, self.gradient(target, sources, *args, **kwargs), strict=True))
        local = [pair for pair in pairs if self.reduction.is_local(pair[0])]
        combined = [pair for pair in pairs if not self.reduction.is_local(pair[0])]
        return local, combined


def _flat(structure):
    return tf.nest.flatten(structure, expand_composites=False)


@tf.autograph.experimental.do_not_convert
def DistributedGradientTape(
    gradtape,
    device_dense="",
    device_sparse="",
    compression=horovod.Compression.none,
    sparse_as_dense=False,
    op=horovod.Average,
    gradient_predivide_factor=1.0,
    num_groups=0,
    groups=None,
    process_set=horovod.global_process_set,
    scale_local_gradients=True,
    overlap="auto",
):
    """A tape whose `gradient` combines the gradients over the ranks.

    Apply its gradients with a plain optimizer, not with a distributed one.

    Args:
        gradtape: the `tf.GradientTape`, before or after it has recorded.
        device_dense, device_sparse, compression, sparse_as_dense, op, gradient_predivide_factor,
            num_groups, groups, process_set, scale_local_gradients, overlap: as for
            `DistributedOptimizer`.

    Returns:
        A tape that shares the given one's recording. Sources may be `keras.Variable`s. It has
        `register_local_source(source)` and `get_local_and_global_gradients(target, sources)`.

    Raises:
        ValueError: for an argument out of range or one that does not go with another.

    Example:
        >>> import tensorflow as tf
        >>> import tf_lars.horovod as hvd
        >>> hvd.init()
        >>> x = tf.Variable(3.0)
        >>> with tf.GradientTape() as tape:
        ...     y = x * x
        >>> float(hvd.DistributedGradientTape(tape).gradient(y, x))
        6.0
    """
    if not isinstance(gradtape, tf.GradientTape):
        raise ValueError(f"gradtape must be a tf.GradientTape, not {gradtape!r}")
    reduction = make_reduction(
        device_dense=device_dense,
        device_sparse=device_sparse,
        compression=compression,
        sparse_as_dense=sparse_as_dense,
        op=op,
        gradient_predivide_factor=gradient_predivide_factor,
        num_groups=num_groups,
        groups=groups,
        process_set=process_set,
        scale_local_gradients=scale_local_gradients,
        overlap=overlap,
    )
    keras_hooks.install()
    own_class = type(gradtape)
    cls = type(own_class.__name__, (_DistributedTape, own_class), {"reduction": reduction})
    tape = object.__new__(cls)
    tape.__dict__ = gradtape.__dict__
    return tape


@tf.autograph.experimental.do_not_convert
def PartialDistributedGradientTape(gradtape, *args, local_layers=None, **kwargs):
    """`DistributedGradientTape` that leaves the gradients of some layers to each rank alone.

    Args:
        gradtape: the `tf.GradientTape`.
        local_layers: a layer or a list of layers, built, whose variables stay local.
        *args: as for `DistributedGradientTape`.
        **kwargs: as for `DistributedGradientTape`.
    """
    tape = DistributedGradientTape(gradtape, *args, **kwargs)
    for variable in variables_of(local_layers):
        tape.register_local_source(variable)
    return tape
