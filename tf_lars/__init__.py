"""Large-batch training on Keras 3: LARS, LAMB and CLARS, schedules, a training step, and Horovod."""

from tf_lars.optimizers import LARS

__all__ = ["LARS"]
