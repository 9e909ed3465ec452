"""How gradients are combined over the ranks: the one place that calls the all-reduce.

`Reduction` holds the settings that `DistributedOptimizer` and `DistributedGradientTape` share and
turns a rank's gradients into the combined ones. Dense gradients of one type travel in one grouped
all-reduce; sparse ones (`tf.IndexedSlices`) are gathered. Horovod pairs tensors of different ranks
by the name of the operation, so names are made of shapes and types, never of layer names, which
differ between ranks as soon as one of them has built an extra layer.
"""

import dataclasses
import hashlib
import os
import warnings

import horovod.tensorflow as horovod
import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from tf_lars.horovod.names import unique_name
from tf_lars.horovod.variables import tf_variable

_OPS = {horovod.Average: "Average", horovod.Sum: "Sum", horovod.Adasum: "Adasum"}
_WIRE_TYPES = (tf.float16, tf.float32, tf.float64, tf.int32, tf.int64, tf.uint8, tf.int8)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Reduction:
    """The settings of a reduction; see `DistributedOptimizer` for their meaning."""

    name: str | None = None
    device_dense: str = ""
    device_sparse: str = ""
    compression: type = horovod.Compression.none
    sparse_as_dense: bool = False
    gradient_predivide_factor: float = 1.0
    op: int = horovod.Average
    groups: int | list | None = None
    process_set: horovod.ProcessSet = horovod.global_process_set
    scale_local_gradients: bool = True
    overlap: bool = False
    reason: str = ""  # why `overlap` is what it is, unless the user said so
    local: set = dataclasses.field(default_factory=set)

    def register_local(self, variable):
        """Takes a variable out of the reduction: each rank keeps its own gradient of it."""
        self.local.add(tf_variable(variable).ref())

    def is_local(self, variable):
        return bool(self.local) and tf_variable(variable).ref() in self.local

    def described(self):
        """The settings that must be the same on all ranks, as plain values."""
        groups = self.groups
        return {
            "op": _OPS.get(self.op, self.op),
            "compression": self.compression.__name__,
            "sparse_as_dense": self.sparse_as_dense,
            "gradient_predivide_factor": self.gradient_predivide_factor,
            "groups": [len(group) for group in groups] if isinstance(groups, list) else groups,
            "overlap": self.overlap,
            "process_set": self.process_set.ranks,
            "local variables": len(self.local),
        }

    def in_words(self):
        """How the gradients travel, and why so."""
        how = "after the backward pass, in one operation"
        if self.overlap:
            how = "during the backward pass, each as soon as it is there"
        return f"{self.process_set.size()} ranks exchange their gradients {how} ({self.reason})"

    @property
    def alone(self):
        """Whether there is nobody to combine gradients with (in elastic jobs: never for sure)."""
        if self.process_set.process_set_id is None:
            raise ValueError(
                f"{self.process_set} is not known to Horovod: pass it to "
                "hvd.init(process_sets=[...]) or to hvd.add_process_set"
            )
        if not self.process_set.included():
            return True
        return self.process_set.size() == 1 and not _elastic()

    @tf.autograph.experimental.do_not_convert  # inside a user's own tf.function
    def __call__(self, gradients, variables):
        """The gradients combined over the ranks, in the order given; None stays None."""
        if self.alone:
            return list(gradients)
        gradients, variables = list(gradients), list(variables)
        _refuse_inside_xla()
        result = list(gradients)
        dense, sparse = [], []
        for i, (gradient, variable) in enumerate(zip(gradients, variables, strict=True)):
            if gradient is None:
                continue
            if self.is_local(variable):
                result[i] = self._local_gradient(gradient)
            elif not isinstance(gradient, tf.IndexedSlices):
                dense.append(i)
            elif self.sparse_as_dense:
                result[i] = tf.convert_to_tensor(gradient)
                dense.append(i)
            else:
                sparse.append(i)
        with tf.name_scope(self.name or "tf_lars_reduction"):
            for bundle in self._bundles(dense, result, variables):
                self._write(result, bundle, self._reduce_dense([result[i] for i in bundle]))
            types = lambda i: (result[i].values.dtype, result[i].indices.dtype)  # noqa: E731
            for bundle in _by_type(sparse, types):
                self._write(result, bundle, self._gather_sparse([result[i] for i in bundle]))
        return result

    def sum(self, tensor):
        """A small tensor of numbers (counts, statistics) summed over the ranks, uncompressed."""
        if self.alone:
            return tensor
        name = self._unique_name("sum", [tensor])
        return horovod.allreduce(
            tensor, op=horovod.Sum, name=name, process_set=self.process_set, ignore_name_scope=True
        )

    @staticmethod
    def _write(result, indices, values):
        for i, value in zip(indices, values, strict=True):
            result[i] = value

    def _local_gradient(self, gradient):
        if not self.scale_local_gradients:
            return gradient
        return scaled(gradient, 1 / self._size(gradient.dtype))

    def _size(self, dtype):
        """The number of ranks; asked for at every step in elastic jobs, where it changes."""
        if _elastic():
            return tf.cast(horovod.size_op(self.process_set.process_set_id), dtype)
        return tf.cast(self.process_set.size(), dtype)

    def _bundles(self, dense, gradients, variables):
        """Splits dense gradients into what travels in one operation: one type, one group."""
        if isinstance(self.groups, list):
            position = {tf_variable(variables[i]).ref(): i for i in dense}
            named = [
                [position.pop(ref) for ref in map(_ref, group) if ref in position]
                for group in self.groups
            ]
            groups = named + [[i] for i in position.values()]
        elif self.groups:
            count = min(self.groups, len(dense))
            groups = [
                dense[len(dense) * k // count : len(dense) * (k + 1) // count] for k in range(count)
            ]
        elif self.overlap and not tf.executing_eagerly():
            groups = [[i] for i in dense]
        else:
            groups = [dense]
        for group in groups:
            yield from _by_type(group, lambda i: gradients[i].dtype)

    def _reduce_dense(self, tensors):
        dtype = tensors[0].dtype
        if dtype not in _WIRE_TYPES:  # bfloat16: Horovod's operations do not take it
            tensors = [tf.cast(tensor, tf.float32) for tensor in tensors]
        options = {
            "op": self.op,
            "compression": self.compression,
            "device_dense": self.device_dense,
            "process_set": self.process_set,
            "ignore_name_scope": True,
        }
        if self.op == horovod.Average:
            options["prescale_factor"] = 1 / self.gradient_predivide_factor
            options["postscale_factor"] = self.gradient_predivide_factor
        name = self._unique_name("gradients", tensors)
        if self.op == horovod.Adasum or len(tensors) == 1:
            reduced = [
                horovod.allreduce(tensor, name=name and f"{name}.{k}", **options)
                for k, tensor in enumerate(tensors)
            ]
        else:
            reduced = horovod.grouped_allreduce(tensors, name=name, **options)
        return [tf.cast(tensor, dtype) for tensor in reduced]

    def _gather_sparse(self, slices):
        if self.op == horovod.Adasum:
            raise ValueError(
                "op=Adasum cannot combine sparse gradients (tf.IndexedSlices): "
                "pass sparse_as_dense=True"
            )
        dtype = slices[0].values.dtype
        name = self._unique_name("sparse_gradients", [s.values for s in slices])
        options = {"process_set": self.process_set, "ignore_name_scope": True}
        with tf.device(self.device_sparse):
            values = [
                s.values if dtype in _WIRE_TYPES else tf.cast(s.values, tf.float32) for s in slices
            ]
            packed, contexts = zip(*map(self.compression.compress, values), strict=True)
            values = horovod.grouped_allgather(packed, name and f"{name}.values", **options)
            indices = horovod.grouped_allgather(
                [s.indices for s in slices], name and f"{name}.indices", **options
            )
            values = map(self.compression.decompress, values, contexts)
            if self.op == horovod.Average:
                values = [value / self._size(value.dtype) for value in values]
        return [
            tf.IndexedSlices(tf.cast(value, dtype), index, s.dense_shape)
            for value, index, s in zip(values, indices, slices, strict=True)
        ]

    def _unique_name(self, kind, tensors):
        """A name that is the same on every rank, and unlike any other in the graph being built."""
        if tf.executing_eagerly():
            return None  # one operation after the other: they cannot be mistaken
        content = ";".join(f"{tensor.dtype.name}{tensor.shape}" for tensor in tensors)
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        name = f"{self.name or 'tf_lars'}.{kind}.{digest}.{self.process_set.process_set_id}"
        return unique_name(name)


def make_reduction(num_groups=0, overlap="auto", **settings):
    """A `Reduction` with its settings checked, before any collective.

    Raises:
        ValueError: for a setting out of range or one that does not go with another.
    """
    if num_groups:
        warnings.warn("num_groups is called groups now", DeprecationWarning, stacklevel=3)
        if settings.get("groups") is None:
            settings["groups"] = num_groups
    if overlap not in ("auto", True, False):
        raise ValueError(f'overlap must be "auto", True or False, not {overlap!r}')
    reason = ""
    if overlap == "auto":
        overlap = bool(tf.config.list_physical_devices("GPU"))
        reason = f'overlap="auto", on a {"GPU" if overlap else "CPU"}'
    reduction = Reduction(overlap=overlap, reason=reason, **settings)
    _check(reduction)
    return reduction


def _check(settings):
    """Refuses what cannot work, before any collective."""
    if settings.op not in _OPS:
        raise ValueError(f"op must be Average, Sum or Adasum, not {settings.op!r}")
    if settings.op == horovod.Adasum and not horovod.mpi_built():
        raise ValueError(
            "op=Adasum needs a Horovod with MPI, and this one has only Gloo: use op=Average, or "
            "build with `python -m tf_lars.horovod.build --mpi` and start the job with MPI"
        )
    factor = settings.gradient_predivide_factor
    if not factor > 0:
        raise ValueError(f"gradient_predivide_factor must be positive, not {factor!r}")
    if factor != 1.0 and settings.op != horovod.Average:
        raise ValueError(f"gradient_predivide_factor={factor} needs op=Average")
    if factor != 1.0 and horovod.rocm_built():
        raise ValueError("gradient_predivide_factor is not supported with ROCm: leave it at 1.0")
    groups = settings.groups
    number = isinstance(groups, int) and not isinstance(groups, bool) and groups >= 0
    lists = isinstance(groups, list) and all(isinstance(group, (list, tuple)) for group in groups)
    if groups is not None and not (number or lists):
        raise ValueError(
            f"groups must be a non-negative number or a list of lists of variables, not {groups!r}"
        )
    for method in ("compress", "decompress"):
        if not callable(getattr(settings.compression, method, None)):
            raise ValueError(f"compression must be a hvd.Compression, not {settings.compression!r}")


def _refuse_inside_xla():
    graph = tf.compat.v1.get_default_graph()
    if not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(graph):
        raise RuntimeError(
            "Gradients cannot be combined over the ranks inside a function compiled with "
            "jit_compile=True: compile the forward and backward pass alone, and apply the "
            "gradients outside of it"
        )


def _elastic():
    return os.environ.get("HOROVOD_ELASTIC") == "1"


def _ref(variable):
    return tf_variable(variable).ref()


def scaled(gradient, factor):
    """A gradient, dense or sparse, times a factor."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values * factor, gradient.indices, gradient.dense_shape)
    return gradient * factor


def _by_type(indices, type_of):
    """Splits indices into runs of one type, in the order of first appearance."""
    bundles = {}
    for i in indices:
        bundles.setdefault(type_of(i), []).append(i)
    return bundles.values()
