"""What a worker holds in memory and how fast it trains, before a long run is started."""

import dataclasses
import math
import time

import keras
import numpy as np

_ACTIVATIONS = (keras.layers.Activation, keras.layers.ReLU, keras.layers.Softmax)
_KEEP_INPUTS = (keras.layers.Multiply, keras.layers.MaxPooling2D)
_BYTES = {"none": 4, "bfloat16": 2, "float16": 2}


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Bytes on one worker.

    Args:
        parameters, gradients, state: counted on the built network and its built optimizer.
        activations: computed: what the backward pass needs of the images that a worker takes
            through the network at once. Workspaces of convolutions, what a compiler recomputes or
            copies, and the input pipeline are not in it.
    """

    parameters: int
    gradients: int
    state: int
    activations: int

    @property
    def total(self):
        return self.parameters + self.gradients + self.state + self.activations


def footprint(model, images, mixed_precision):
    """The Footprint of a compiled model that takes `images` at once."""
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    return Footprint(
        parameters=_bytes(model.weights),
        gradients=_bytes(model.trainable_variables),
        state=_bytes(optimizer.variables),
        activations=_kept(model) * images * _BYTES[mixed_precision],
    )


def images_per_second(model, image_shape, classes, images, steps=3):
    """Images a second of training steps on random images, after one that compiles.

    Args:
        model: compiled.
        image_shape, classes: of the data.
        images: in a step.
        steps: how many are measured.
    """
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(images, *image_shape)).astype("float32")
    labels = np.eye(classes, dtype="float32")[np.arange(images) % classes]
    model.train_on_batch(batch, labels)
    began = time.perf_counter()
    for _ in range(steps):
        model.train_on_batch(batch, labels)
    return images * steps / (time.perf_counter() - began)


def _kept(model):
    """Numbers an image that the backward pass needs.

    The inputs of layers with weights, of products and of maxima, and the outputs of activation
    functions; each tensor once.
    """
    kept = {}
    for layer in model.layers:
        if isinstance(layer, _ACTIVATIONS):
            kept |= {id(tensor): tensor for tensor in _tensors(layer.output)}
        elif layer.weights or isinstance(layer, _KEEP_INPUTS):
            kept |= {id(tensor): tensor for tensor in _tensors(layer.input)}
    return sum(math.prod(tensor.shape[1:]) for tensor in kept.values())


def _tensors(value):
    return value if isinstance(value, list) else [value]


def _bytes(variables):
    return sum(math.prod(v.shape) * np.dtype(_numpy(v.dtype)).itemsize for v in variables)


def _numpy(dtype):
    return {"bfloat16": "float16"}.get(dtype, dtype)
