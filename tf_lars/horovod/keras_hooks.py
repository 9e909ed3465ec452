"""The places where Keras itself must know of Horovod.

`model.compile` is where Keras decides on XLA, which cannot hold Horovod's operations: a step of a
model compiled with `jit_compile` is run in three parts, forward and backward pass under XLA, the
exchange of gradients outside, the update under XLA. It also wraps the optimizer in a
LossScaleOptimizer under mixed_float16, which would look for infinities before the ranks' gradients
are combined, and wait for ever when one rank alone has one: there the wrapper is made the
distributed part. `model.fit` is the first to know how many steps a rank will make.
"""

import functools
import inspect

import keras
import tensorflow as tf

from tf_lars.horovod.distributed import Distributed, with_reduction
from tf_lars.horovod.guards import SameFit
from tf_lars.horovod.keras_2 import give_plain_optimizers_old_names


@functools.cache
def install():
    """Puts the hooks into Keras, once.

    Raises:
        RuntimeError: if Keras runs on another backend than TensorFlow.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            f"tf_lars.horovod needs Keras on TensorFlow, and this is {backend}: set "
            "KERAS_BACKEND=tensorflow"
        )
    give_plain_optimizers_old_names()
    loss_scale = keras.optimizers.LossScaleOptimizer
    loss_scale.__init__ = _loss_scale_init(loss_scale.__init__)
    # In the classes that define them: Keras takes a model with another `compile` for a user's own.
    for name, hook in (("compile", _compile), ("fit", _fit)):
        home = next(cls for cls in keras.Model.__mro__ if name in vars(cls))
        setattr(home, name, hook(getattr(home, name)))


def _loss_scale_init(original):
    @functools.wraps(original)
    def __init__(self, inner_optimizer, *args, **kwargs):
        if not isinstance(inner_optimizer, Distributed):
            return original(self, inner_optimizer, *args, **kwargs)
        original(self, inner_optimizer.local, *args, **kwargs)
        distributed = with_reduction(
            type(self), inner_optimizer.reduction, inner_optimizer.passes_factor
        )
        object.__setattr__(self, "__class__", distributed)
        return None

    return __init__


def _compile(original):
    @functools.wraps(original)
    def compile(self, *args, experimental_run_tf_function=None, **kwargs):
        # Horovod's examples for Keras 2 had to pass experimental_run_tf_function=False.
        original(self, *args, **kwargs)
        adapt(self)

    return compile


def _fit(original):
    @functools.wraps(original)
    def fit(self, *args, **kwargs):
        given = inspect.signature(original).bind(self, *args, **kwargs)
        callbacks = given.arguments.get("callbacks")
        distributed = isinstance(getattr(self, "optimizer", None), Distributed)
        if distributed and not isinstance(callbacks, keras.callbacks.CallbackList):
            given.arguments["callbacks"] = [SameFit(), *keras.tree.flatten(callbacks or [])]
        return original(*given.args, **given.kwargs)

    return fit


def adapt(model):
    """Makes a model's step fit its optimizer, after `compile` or a change of the optimizer."""
    if hasattr(model.__dict__.get("train_step"), "in_parts"):
        del model.__dict__["train_step"]
    if isinstance(model.optimizer, Distributed) and model.jit_compile:
        _run_in_parts(model)


def _run_in_parts(model):
    """Gives a model that XLA was asked for a step of three parts."""
    model.jit_compile = False
    optimizer = model.optimizer
    optimizer.compile_for_xla()
    if type(model).train_step is not keras.Model.train_step:
        return  # a step of the user's own may need the new weights right after the update
    own_step = model.train_step

    @tf.function(jit_compile=True, reduce_retracing=True)
    def forward_and_backward(data):
        with optimizer.capturing() as captured:
            logs = own_step(data)
        return logs, captured["grads"]

    def train_step(data):
        logs, gradients = forward_and_backward(data)
        optimizer.apply(gradients, model.trainable_weights)
        return logs

    train_step.in_parts = True
    model.__dict__["train_step"] = train_step
