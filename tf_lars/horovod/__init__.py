"""Horovod for Keras 3.

`import tf_lars.horovod as hvd` takes the place of `import horovod.tensorflow.keras as hvd`, of
`horovod.keras`, and of `horovod.tensorflow` in a training loop of one's own. Names are loaded on
first use: importing the package imports no Horovod, but Keras and with it TensorFlow, as all of
`tf_lars` does. Only the commands `python -m tf_lars.horovod.build` and `.run` start without either.
"""

import importlib

_MODULES = ("callbacks", "elastic")
_HOMES = {
    "horovod.tensorflow": (  # what needs no change
        *("shutdown", "is_initialized", "start_timeline", "stop_timeline", "join"),
        *("rank", "size", "local_rank", "local_size", "cross_rank", "cross_size"),
        *("rank_op", "size_op", "local_rank_op", "local_size_op", "process_set_included_op"),
        *("is_homogeneous", "mpi_threads_supported", "mpi_enabled", "mpi_built", "gloo_enabled"),
        *("gloo_built", "nccl_built", "ddl_built", "ccl_built", "cuda_built", "rocm_built"),
        *("ProcessSet", "global_process_set", "add_process_set", "remove_process_set"),
        *("Average", "Sum", "Adasum", "Min", "Max", "Product", "Compression"),
    ),
    "horovod.common.util": ("is_version_greater_equal_than",),
    "tf_lars.horovod.watch": ("init",),
    "tf_lars.horovod.ops": (
        *("allreduce", "grouped_allreduce", "reducescatter", "grouped_reducescatter"),
        *("allgather", "grouped_allgather", "broadcast", "broadcast_", "alltoall"),
        *("broadcast_object", "broadcast_object_fn", "allgather_object"),
        *("barrier", "sycl_built"),
        "broadcast_global_variables",
    ),
    "tf_lars.horovod.variables": ("broadcast_variables",),
    "tf_lars.horovod.optimizer": ("DistributedOptimizer", "PartialDistributedOptimizer"),
    "tf_lars.horovod.tape": ("DistributedGradientTape", "PartialDistributedGradientTape"),
    "tf_lars.horovod.saving": ("load_model",),
    "tf_lars.horovod.sync_batch_norm": ("SyncBatchNormalization", "GhostBatchNormalization"),
    "tf_lars.horovod.guards": ("check_same_settings", "RanksDifferError"),
    "tf_lars.horovod.sync_check": ("check_in_sync",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, *_MODULES])


def __getattr__(name):
    if name not in _HOME_OF and name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_HOME_OF.get(name, f"{__name__}.{name}"))
    except ImportError as error:
        if "horovod" not in str(error).lower() or "tf_lars" in str(error):
            raise
        raise ImportError(
            f"Horovod does not work with this TensorFlow: run `python -m tf_lars.horovod.build` "
            f"({error})"
        ) from error
    value = getattr(module, name) if name in _HOME_OF else module
    globals()[name] = value
    return value


def __dir__():
    return __all__
