"""Large-batch training on Keras 3: LARS, LAMB, CLARS, schedules, a training step, and Horovod."""

import sys

# Building Horovod and launching its jobs neither wait for TensorFlow to load nor fail without it.
_COMMANDS = ("tf_lars.horovod.build", "tf-lars-build-horovod", "tf_lars.horovod.run", "tf-lars-run")
if not any(argument.endswith(_COMMANDS) for argument in sys.orig_argv[1:3]):
    from tf_lars.optimizers import CLARS, LAMB, LANS, LARC, LARS, NovoGrad, OrScale

__all__ = ["CLARS", "LAMB", "LANS", "LARC", "LARS", "NovoGrad", "OrScale"]
