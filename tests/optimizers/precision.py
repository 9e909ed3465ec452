"""The precision of the runs that are compared with formulas and other implementations.

TensorFlow's variables can be float64: there the rules themselves are compared, to 1e-9. PyTorch's
can too, but Keras hands it some numbers, the factor of a clipped gradient say, rounded to float32.
JAX has float32 unless told otherwise at its start: there rounding is left, some units of the last
place.
"""

import keras
import numpy as np

BACKEND = keras.backend.backend()
DTYPE = "float32" if BACKEND == "jax" else "float64"
_LEAST_IN_FLOAT64 = 1e-7 if BACKEND == "torch" else 0.0


def assert_relative(actual, expected, in_float32=1e-6, in_float64=1e-9):
    """Each variable agrees relative to its largest entry, in float32 to at least one.

    The runs start from weights of about one: where their sum comes near zero in float32, what is
    left is their rounding.
    """
    wide = DTYPE == "float64"
    tolerance = max(in_float64, _LEAST_IN_FLOAT64) if wide else in_float32
    for a, e in zip(actual, expected, strict=True):
        scale = max(float(np.max(np.abs(e))), 1e-30 if wide else 1.0)
        difference = np.max(np.abs(np.float64(a) - np.float64(e)))
        assert difference <= tolerance * scale
