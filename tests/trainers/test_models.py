"""The networks against the literature: sizes, and what the papers say of single layers."""

import math

import keras
import numpy as np
import pytest
from keras import layers

from trainers.models import KERAS_APPLICATIONS, MODELS
from trainers.models.alexnet import alexnet
from trainers.models.applications import application, names
from trainers.models.densenet import densenet, densenet_cifar
from trainers.models.layers import LocalResponseNormalization, images_input
from trainers.models.mobilenet import mobilenet_v1, mobilenet_v2
from trainers.models.resnet import resnet
from trainers.models.wide_resnet import wide_resnet

IMAGENET = (224, 224, 3), 1000
CIFAR = (32, 32, 3), 10

# Trainable parameters as published or as counted for the reference implementations: torchvision
# (ResNet, DenseNet, MobileNet v2), TensorFlow's slim (MobileNet v1), Caffe (AlexNet: 60,965,224),
# the authors' tables in millions for WRN and DenseNet-BC.
PARAMETERS = {
    "resnet18": (*IMAGENET, 11_689_512),
    "resnet34": (*IMAGENET, 21_797_672),
    "resnet50": (*IMAGENET, 25_557_032),
    "resnet101": (*IMAGENET, 44_549_160),
    "resnet152": (*IMAGENET, 60_192_808),
    "wide_resnet16_4": (*CIFAR, 2_748_890),
    "wide_resnet28_10": (*CIFAR, 36_479_194),
    "alexnet": ((227, 227, 3), 1000, 60_965_224),
    "densenet121": (*IMAGENET, 7_978_856),
    "densenet169": (*IMAGENET, 14_149_480),
    "densenet201": (*IMAGENET, 20_013_928),
    "densenet_bc100_12": (*CIFAR, 769_162),
    "mobilenet_v1": (*IMAGENET, 4_231_976),
    "mobilenet_v1_0.25": (*IMAGENET, 470_072),
    "mobilenet_v2": (*IMAGENET, 3_504_872),
    "mobilenet_v2_1.4": (*IMAGENET, 6_108_776),
}


def trainable_parameters(model):
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_network_has_as_many_parameters_as_published(name):
    image_shape, classes, published = PARAMETERS[name]
    assert trainable_parameters(MODELS[name](image_shape, classes)) == published


def test_batch_norm_on_the_inputs_of_convolutions_2_to_5_adds_their_channels_to_alexnet():
    inputs, outputs = 96 + 256 + 384 + 384, 96 + 256 + 384 + 384 + 256
    model = MODELS["alexnet_bn"]((227, 227, 3), 1000)
    assert trainable_parameters(model) == 60_965_224 + 2 * inputs
    after = MODELS["alexnet_bn_after"]((227, 227, 3), 1000)
    assert trainable_parameters(after) == 60_965_224 + 2 * outputs


@pytest.mark.parametrize(("name", "before"), [("bn_before", True), ("bn_after", False)])
def test_batch_norm_stands_where_each_form_of_alexnet_bn_has_it(name, before):
    model = alexnet((227, 227, 3), 10, name)
    order = [layer.name for layer in model.layers]
    for index in range(2 if before else 1, 6):
        step = order.index(f"bn{index}") - order.index(f"conv{index}")
        assert step == (-1 if before else 1)
    assert ("bn1" in order) is not before
    assert not any(isinstance(layer, LocalResponseNormalization) for layer in model.layers)


def test_alexnet_starts_as_published():
    model = alexnet((227, 227, 3), 1000)
    for name, stddev, bias in [("conv1", 0.01, 0), ("conv2", 0.01, 0.1), ("fc6", 0.005, 0.1)]:
        kernel, offset = model.get_layer(name).get_weights()
        assert np.std(kernel) == pytest.approx(stddev, rel=0.03)
        assert np.allclose(offset, bias)
    groups = {index: model.get_layer(f"conv{index}").groups for index in range(1, 6)}
    assert groups == {1: 1, 2: 2, 3: 1, 4: 2, 5: 2}
    assert [layer.rate for layer in model.layers if isinstance(layer, layers.Dropout)] == [0.5, 0.5]


def test_local_response_normalisation_is_the_formula():
    x = np.random.default_rng(0).normal(0, 30, (2, 3, 3, 12)).astype("float32")
    y = np.asarray(LocalResponseNormalization(size=5, alpha=1e-2, beta=0.75, bias=2.0)(x))
    for c in range(12):
        energy = np.square(x[..., max(c - 2, 0) : c + 3]).sum(-1)
        np.testing.assert_allclose(
            y[..., c], x[..., c] / (2.0 + 1e-2 / 5 * energy) ** 0.75, rtol=1e-5
        )


def test_local_response_normalisation_keeps_its_constants_and_refuses_an_even_size():
    layer = LocalResponseNormalization(size=3, alpha=0.1)
    assert LocalResponseNormalization.from_config(layer.get_config()).get_config() == (
        layer.get_config()
    )
    with pytest.raises(ValueError, match="size must be odd and positive; got 4"):
        LocalResponseNormalization(size=4)


@pytest.mark.parametrize("depth", [18, 50])
def test_a_new_resnet_block_is_the_identity_and_the_last_layer_starts_small(depth):
    model = resnet(depth, (64, 64, 3), 1000)
    last = "conv2_bn" if depth == 18 else "conv3_bn"
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            assert np.all(np.asarray(layer.gamma) == (0 if layer.name.endswith(last) else 1))
    kernel, bias = model.get_layer("logits").get_weights()
    assert np.std(kernel) == pytest.approx(0.01, rel=0.02)
    assert not bias.any()


def test_the_stride_of_a_bottleneck_is_on_its_3x3_convolution():
    model = resnet(50, (64, 64, 3), 10)
    strides = [model.get_layer(f"stage2_block1_conv{index}").strides for index in (1, 2, 3)]
    assert strides == [(1, 1), (2, 2), (1, 1)]
    assert model.get_layer("stage1_block1_conv2").strides == (1, 1)


@pytest.mark.parametrize("name", [name for name in PARAMETERS if not name.endswith("152")])
def test_no_network_decays_its_weights_by_itself(name):
    model = MODELS[name]((72, 72, 3), 5)
    assert not model.losses
    for layer in model.layers:
        for attribute in ("kernel_regularizer", "bias_regularizer", "gamma_regularizer"):
            assert getattr(layer, attribute, None) is None


def test_the_registry_lists_what_keras_applications_has():
    assert sorted(KERAS_APPLICATIONS) == names()


@pytest.mark.parametrize(
    ("name", "size"), [("MobileNetV3Small", 64), ("EfficientNetB0", 64), ("ResNet50V2", 64)]
)
def test_a_network_of_keras_applications_sees_the_images_as_they_are_and_gives_logits(name, size):
    model = MODELS[f"keras:{name}"]((size, size, 3), 7)
    images = np.random.default_rng(0).normal(size=(3, size, size, 3)).astype("float32")
    ours = np.asarray(model(images))
    options = {"include_preprocessing": False} if name.startswith("MobileNetV3") else {}
    peer = getattr(keras.applications, name)(
        weights=None,
        input_shape=(size, size, 3),
        classes=7,
        classifier_activation=None,
        **options,
    )
    peer.set_weights(model.get_weights())
    scale = 255.0 if name.startswith("EfficientNet") else 1.0
    np.testing.assert_allclose(ours, peer(images * scale), rtol=1e-4, atol=1e-4)
    assert ours.shape == (3, 7)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: resnet(51, *IMAGENET), r"depth must be one of \[18, 34, 50, 101, 152\]; got 51"),
        (lambda: wide_resnet(15, 4, *CIFAR), "depth must be 6n \\+ 4, 16 or 28 say; got 15"),
        (lambda: wide_resnet(16, 0, *CIFAR), "width must be at least 1; got 0"),
        (lambda: densenet(100, *IMAGENET), r"depth must be one of \[121, 169, 201\]; got 100"),
        (lambda: densenet_cifar(40, 0, *CIFAR), "growth must be at least 1; got 0"),
        (lambda: densenet_cifar(41, 12, *CIFAR), "depth must be 6n \\+ 4, 100 say; got 41"),
        (lambda: mobilenet_v1(*IMAGENET, width=0), "width must be greater than 0; got 0"),
        (lambda: mobilenet_v2(*IMAGENET, width=-1), "width must be greater than 0; got -1"),
        (lambda: alexnet(*IMAGENET, norm="bn"), "norm must be one of lrn, bn_before, bn_after"),
        (lambda: alexnet((32, 32, 3), 10), r"at least 67×67 pixels for this network; got \(32,"),
        (lambda: images_input((32, 32)), r"must be \(height, width, channels\)"),
        (lambda: application("ResNet50V3", *IMAGENET), "Did you mean ResNet50V2 or"),
        (lambda: application("VGG16", (16, 16, 3), 10), r"VGG16 cannot take images of shape \(16"),
    ],
)
def test_a_network_that_cannot_be_built_says_why(build, message):
    with pytest.raises(ValueError, match=message):
        build()
