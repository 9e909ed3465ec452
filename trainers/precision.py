"""The number formats of a run and the compiler of its step, by device."""

import contextlib

import keras

_POLICIES = {"none": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@contextlib.contextmanager
def precision(mixed_precision):
    """Layers made inside compute in the format that --mixed_precision names.

    Variables, gradients and updates stay float32. Under float16 Keras scales the loss, and the
    bridge to Horovod averages the gradients before it looks for infinities.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(_POLICIES[mixed_precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def compiles(jit_compile):
    """Whether XLA compiles the forward and backward pass: --jit_compile, and for auto the device.

    XLA slows convolutions on a CPU by a factor of two to three. Horovod's exchange is never inside:
    the bridge takes such a step apart.
    """
    if jit_compile != "auto":
        return jit_compile == "on"
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))
