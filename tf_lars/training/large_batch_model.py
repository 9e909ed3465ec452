"""Keras models that train with any batch in the memory of one micro-batch."""

import keras

from tf_lars.training import mean_norms as mean_norm_sources
from tf_lars.training.step import LargeBatchStep, Settings


@keras.saving.register_keras_serializable("tf_lars")
class LargeBatchModel(LargeBatchStep, keras.Model):
    """A Keras model that trains with any batch in the memory of one micro-batch.

    For the functional form, `LargeBatchModel(inputs, outputs, micro_batch_size=…)`. A model that
    exists already, of whatever class, gets the same step from `large_batch`.

    With c_n rows in micro-batch n of worker w, and C rows in all, the optimizer gets

        G = (1/C) Σ_w Σ_n c_n g_n,

    the gradient of the mean loss over the global batch, also when the last micro-batch is smaller,
    rows are weighted, or workers hold different numbers of rows. (With a mask from a layer, a
    micro-batch's mean is over its valid entries and counts by its rows.) Dropout draws anew for
    each micro-batch.

    Args:
        inputs, outputs: as for `keras.Model`.
        micro_batch_size: rows of a micro-batch, at least 1; None takes a worker's whole batch at
            once. A batch that it does not divide ends with a smaller one.
        mean_norms: where an optimizer that is fed mean gradient norms (CLARS) gets them:
            "microbatch", "worker", "two_batch", "per_example", or an object of
            `tf_lars.training.mean_norms`. Nothing is computed for other optimizers.
        **kwargs: those of `keras.Model`.

    Raises:
        ValueError: in the constructor or in `fit`, before any training: an argument out of
            range, a loss that is no mean, a micro-batch larger than the batch of a worker,
            statistics asked for where there is one micro-batch on one worker.

    Compiling: with `jit_compile=True` (or "auto" on an accelerator) each micro-batch's forward and
    backward pass is compiled by XLA on its own, since XLA would compile the whole loop anew for
    each batch size; the loop and the reduction run in TensorFlow and the update is compiled by the
    optimizer. A last, smaller micro-batch is a shape of its own and is compiled once more.

    Example:
        >>> inputs = keras.Input((28, 28, 1))
        >>> outputs = keras.layers.Dense(10)(keras.layers.Flatten()(inputs))
        >>> model = LargeBatchModel(inputs, outputs, micro_batch_size=128)
        >>> model.compile(LARS(learning_rate=1.0), "sparse_categorical_crossentropy")
        >>> model.fit(images, labels, batch_size=8192)

    Source: Goyal et al. 2017, arXiv 1706.02677, sections 2.3 and 3.
    """

    def __init__(self, *args, micro_batch_size=None, mean_norms="microbatch", **kwargs):
        settings = _settings(micro_batch_size, mean_norms)
        super().__init__(*args, **kwargs)
        self._large_batch = settings

    def get_config(self):
        return {
            **super().get_config(),
            "micro_batch_size": self.micro_batch_size,
            "mean_norms": mean_norm_sources.serialise(self._large_batch.source),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        size, source = config.pop("micro_batch_size"), config.pop("mean_norms")
        model = super().from_config(config, custom_objects)
        model._large_batch = _settings(size, source)
        return model


def large_batch(model, micro_batch_size=None, mean_norms="microbatch"):
    """Gives an existing model the step of `LargeBatchModel`, in place, and returns it.

    Functional, Sequential and subclassed models keep their layers, losses and methods; only a
    `train_step` of their own is replaced. Saved, the model is what it was before: loading it needs
    no tf_lars, and gives a model without this step. Before or after `compile`.

    Args:
        model: a `keras.Model`.
        micro_batch_size, mean_norms: see `LargeBatchModel`.

    Raises:
        ValueError: an argument is out of range, or the model has the step already.

    Example:
        >>> model = large_batch(keras.applications.ResNet50(weights=None), micro_batch_size=64)
        >>> model.compile(LARS(learning_rate=10.0), "sparse_categorical_crossentropy")
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"model={model!r} must be a keras.Model.")
    if isinstance(model, LargeBatchStep):
        raise ValueError(f"model {model.name!r} splits its batches already.")
    settings = _settings(micro_batch_size, mean_norms)
    own = type(model)
    # A class of its own, under its old name: everything but the step, saving too, stays as it was.
    names = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    object.__setattr__(model, "__class__", type(own.__name__, (LargeBatchStep, own), names))
    model._large_batch = settings
    model.train_function = None
    return model


def _settings(micro_batch_size, source):
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "LargeBatchModel runs on Keras's TensorFlow backend, not on "
            f"{keras.backend.backend()!r}; the optimizers and schedules run on every backend."
        )
    size = micro_batch_size
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"micro_batch_size={size!r} must be a whole number, at least 1, or None.")
    return Settings(size, mean_norm_sources.source(source))
