"""Large-batch training on Keras 3: LARS, LAMB, CLARS, schedules, a training step, and Horovod."""

import importlib
import sys

# Building Horovod and launching its jobs neither wait for TensorFlow to load nor fail without it.
_COMMANDS = ("tf_lars.horovod.build", "tf-lars-build-horovod", "tf_lars.horovod.run", "tf-lars-run")
if not any(argument.endswith(_COMMANDS) for argument in sys.orig_argv[1:3]):
    from tf_lars.optimizers import CLARS, LAMB, LANS, LARC, LARS, NovoGrad, OrScale

# The training step is TensorFlow's: it is loaded on first use, so that the optimizers work without.
_HOMES = {
    "LargeBatchModel": "tf_lars.training.large_batch_model",
    "large_batch": "tf_lars.training.large_batch_model",
    "VRLARS": "tf_lars.optimizers.vr_lars",
}

__all__ = ["CLARS", "LAMB", "LANS", "LARC", "LARS", "NovoGrad", "OrScale", *_HOMES]


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
    return __all__
