"""Horovod's process functions and collectives, as they are or mended for Keras 3."""

try:
    import horovod.tensorflow as _horovod
except ImportError as error:
    raise ImportError(
        "Horovod is not installed for this TensorFlow: run `python -m tf_lars.horovod.build`"
    ) from error

init = _horovod.init
shutdown = _horovod.shutdown
is_initialized = _horovod.is_initialized
rank = _horovod.rank
size = _horovod.size
local_rank = _horovod.local_rank
local_size = _horovod.local_size
cross_rank = _horovod.cross_rank
cross_size = _horovod.cross_size

Average = _horovod.Average
Sum = _horovod.Sum
Adasum = _horovod.Adasum
Min = _horovod.Min
Max = _horovod.Max
Product = _horovod.Product
Compression = _horovod.Compression
