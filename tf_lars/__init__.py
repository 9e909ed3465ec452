"""Large-batch training on Keras 3: LARS, LAMB, CLARS, schedules, a training step, and Horovod."""

import sys

# Building Horovod neither waits for TensorFlow to load nor fails where it is missing: it says so.
_BUILDS_HOROVOD = ("tf_lars.horovod.build", "tf-lars-build-horovod")
if not any(argument.endswith(_BUILDS_HOROVOD) for argument in sys.orig_argv[1:3]):
    from tf_lars.optimizers import CLARS, LAMB, LANS, LARC, LARS, NovoGrad, OrScale

__all__ = ["CLARS", "LAMB", "LANS", "LARC", "LARS", "NovoGrad", "OrScale"]
