"""Two CPU devices for the tests that distribute, set before the backend makes its first tensor."""

import importlib.util

import keras

collect_ignore = [] if importlib.util.find_spec("timm") else ["test_torch_timm_parity.py"]

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
elif keras.backend.backend() == "jax":
    import jax

    jax.config.update("jax_num_cpu_devices", 2)
