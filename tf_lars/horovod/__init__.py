"""Horovod for Keras 3.

`import tf_lars.horovod as hvd` takes the place of `import horovod.tensorflow.keras as hvd`
(or `horovod.keras`). Names are loaded on first use: importing the package imports neither Horovod
nor TensorFlow, so that `python -m tf_lars.horovod.build` can install Horovod.
"""

import importlib

_HOMES = {
    "tf_lars.horovod.ops": (
        *("init", "shutdown", "is_initialized", "rank", "size", "local_rank", "local_size"),
        *("cross_rank", "cross_size", "Average", "Sum", "Adasum", "Min", "Max", "Product"),
        "Compression",
    ),
    "tf_lars.horovod.optimizer": ("DistributedOptimizer",),
    "tf_lars.horovod.variables": ("broadcast_variables",),
    "tf_lars.horovod": ("callbacks", "elastic"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name):
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOME_OF[name]
    if home == __name__:
        value = importlib.import_module(f"{home}.{name}")
    else:
        value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__():
    return __all__
