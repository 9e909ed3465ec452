"""Layer-wise adaptive optimizers for Keras 3."""

from tf_lars.optimizers.lars import LARS

__all__ = ["LARS"]
