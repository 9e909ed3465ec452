"""The networks compute what other implementations of the same papers compute."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from trainers.models import MODELS
from trainers.models.alexnet import alexnet
from trainers.models.densenet import densenet
from trainers.models.mobilenet import mobilenet_v1, mobilenet_v2
from trainers.models.resnet import resnet

IMAGE = (64, 64, 3)
CLASSES = 11


def keras_network(name, **options):
    build = getattr(keras.applications, name)
    return build(
        weights=None, input_shape=IMAGE, classes=CLASSES, classifier_activation=None, **options
    )


def parts(model):
    """The layers with weights, in the order of the computation: (layer, weights)."""
    return [layer for layer in model.layers if layer.weights]


def copy_weights(model, peer):
    """Gives both models the same random weights, and BatchNorm the same constants.

    Layers are paired by the shapes of their weights, in order; biases that `model` lacks are zero.
    """
    rng = np.random.default_rng(0)
    left = parts(peer)
    for layer in parts(model):
        pair = next(other for other in left if _fits(layer, other))
        left.remove(pair)
        weights = [_random(rng, variable) for variable in layer.weights]
        layer.set_weights(weights)
        zeros = [np.zeros(v.shape) for v in pair.weights[len(weights) :]]
        shapes = [variable.shape for variable in pair.weights[: len(weights)]]
        copies = [weight.reshape(s) for weight, s in zip(weights, shapes, strict=True)]
        pair.set_weights(copies + zeros)
        if isinstance(layer, layers.BatchNormalization):
            layer.epsilon = pair.epsilon
    assert not left


def _fits(layer, other):
    same = isinstance(other, type(layer)) or isinstance(layer, layers.Dense)
    sizes = [int(np.prod(v.shape)) for v in layer.weights]
    others = [int(np.prod(v.shape)) for v in other.weights]
    shapes = layer.weights[0].shape[-2:] == other.weights[0].shape[-2:]
    return same and shapes and others[: len(sizes)] == sizes


def _random(rng, variable):
    values = rng.uniform(0.5, 1.5, variable.shape)
    if variable.name in ("kernel", "depthwise_kernel"):
        values = rng.normal(0, 1, variable.shape) * np.sqrt(2 / np.prod(variable.shape[:-1]))
        if variable.name == "depthwise_kernel":
            values = rng.normal(0, 0.4, variable.shape)
    return values.astype("float32")


def assert_same_outputs(model, peer):
    images = np.random.default_rng(1).normal(size=(2, *IMAGE)).astype("float32")
    ours, theirs = np.asarray(model(images)), np.asarray(peer(images))
    assert np.ptp(theirs) > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: densenet(121, IMAGE, CLASSES), "DenseNet121"),
        (lambda: mobilenet_v1(IMAGE, CLASSES), "MobileNet"),
        (lambda: mobilenet_v1(IMAGE, CLASSES, 0.5), "MobileNet"),
        (lambda: mobilenet_v2(IMAGE, CLASSES), "MobileNetV2"),
        (lambda: mobilenet_v2(IMAGE, CLASSES, 1.4), "MobileNetV2"),
    ],
)
def test_the_same_weights_give_the_outputs_of_keras_applications(build, name):
    model = build()
    _, _, width = model.name.rpartition("_")
    options = {"alpha": float(width)} if width in ("0.5", "1.4") else {}
    peer = keras_network(name, **options)
    copy_weights(model, peer)
    assert_same_outputs(model, peer)


class SecondConvolutionOfV15(layers.Conv2D):
    """A 3×3 convolution with its stride applied to the output."""

    def call(self, inputs):
        return super().call(inputs)[:, ::2, ::2]

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = super().compute_output_shape(input_shape)
        return batch, -(-height // 2), -(-width // 2), channels


def move_stride(layer):
    """Turns a layer of keras.applications' ResNet v1 into that of v1.5."""
    config = layer.get_config()
    if config.get("strides") == (2, 2) and layer.name.endswith("block1_1_conv"):
        return type(layer).from_config(config | {"strides": (1, 1)})
    stage, _, rest = layer.name.partition("_")
    if stage in ("conv3", "conv4", "conv5") and rest == "block1_2_conv":
        return SecondConvolutionOfV15.from_config(config)
    return type(layer).from_config(config)


def test_resnet50_is_keras_applications_with_the_stride_moved_to_the_3x3_convolution():
    model = resnet(50, IMAGE, CLASSES)
    reference = keras.models.clone_model(keras_network("ResNet50"), clone_function=move_stride)
    copy_weights(model, reference)
    assert_same_outputs(model, reference)


def test_alexnets_grouped_convolution_sees_only_its_half_of_the_channels():
    model = alexnet((67, 67, 3), 3)
    conv = model.get_layer("conv2")
    x = np.random.default_rng(0).normal(size=(1, 7, 7, 96)).astype("float32")
    changed = x.copy()
    changed[..., 48:] += 1
    before, after = np.asarray(conv(x)), np.asarray(conv(changed))
    np.testing.assert_array_equal(before[..., :128], after[..., :128])
    assert np.abs(before[..., 128:] - after[..., 128:]).max() > 0.01


FORWARD = """
import sys
import keras, numpy as np
from trainers.models import MODELS

folder, names = sys.argv[1], sys.argv[2:]
for name in names:
    keras.utils.set_random_seed(0)
    model = MODELS[name]((72, 72, 3), 5)
    rng = np.random.default_rng(0)
    model.set_weights([
        rng.uniform(0.5, 1.5, v.shape) if len(v.shape) < 2
        else rng.normal(0, np.sqrt(2 / np.prod(v.shape[:-1])), v.shape)
        for v in model.weights
    ])
    images = np.random.default_rng(1).normal(size=(2, 72, 72, 3)).astype("float32")
    np.save(f"{folder}/{name}-{keras.backend.backend()}.npy", model.predict(images, verbose=0))
"""
BOTH = ("resnet18", "alexnet", "mobilenet_v1_0.25")


def test_the_networks_compute_the_same_on_jax(tmp_path):
    for backend in ("tensorflow", "jax"):
        command = [sys.executable, "-c", FORWARD, str(tmp_path), *BOTH]
        environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    for name in BOTH:
        ours, theirs = (np.load(tmp_path / f"{name}-{b}.npy") for b in ("tensorflow", "jax"))
        assert np.ptp(ours) > 1e-3
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * np.abs(ours).max())


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", ["resnet18", "alexnet", "mobilenet_v2_0.35", "keras:ResNet50V2"])
def test_logits_are_float32_under_mixed_precision(name, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = MODELS[name]((72, 72, 3), 5)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {layer.compute_dtype for layer in model.layers} >= {policy.removeprefix("mixed_")}
    logits = model(np.random.default_rng(0).normal(size=(2, 72, 72, 3)))
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert np.isfinite(np.asarray(logits)).all()
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
