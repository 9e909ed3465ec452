"""The networks by the names that --model takes: functions of (image_shape, classes).

Imports stay inside the functions: names are checked before TensorFlow is loaded.
"""

import functools
import importlib

# What keras.applications offers; listed here because importing it to look takes seconds.
KERAS_APPLICATIONS = (
    *(f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge")),
    *(f"DenseNet{depth}" for depth in (121, 169, 201)),
    *(f"EfficientNetB{size}" for size in range(8)),
    *(f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")),
    *("InceptionResNetV2", "InceptionV3"),
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large"),
    *("NASNetMobile", "NASNetLarge"),
    *(f"ResNet{depth}{version}" for version in ("", "V2") for depth in (50, 101, 152)),
    *("VGG16", "VGG19", "Xception"),
)


def _network(file, *arguments, function=None, **options):
    """The function of (image_shape, classes) that builds a network of trainers/models/FILE.py."""
    return functools.partial(_build, file, function or file, arguments, options)


def _build(file, function, arguments, options, image_shape, classes):
    function = getattr(importlib.import_module(f"trainers.models.{file}"), function)
    return function(*arguments, image_shape, classes, **options)


def _mobilenets(version, widths):
    function = f"mobilenet_{version}"
    return {function: _network("mobilenet", function=function)} | {
        f"{function}_{width:g}": _network("mobilenet", function=function, width=width)
        for width in widths
    }


MODELS = {
    **{f"resnet{n}": _network("resnet_cifar", n) for n in (20, 32, 44, 56, 110)},
    **{f"resnet{n}": _network("resnet", n) for n in (18, 34, 50, 101, 152)},
    "wide_resnet16_4": _network("wide_resnet", 16, 4),
    "wide_resnet28_10": _network("wide_resnet", 28, 10),
    "alexnet": _network("alexnet"),
    "alexnet_bn": _network("alexnet", norm="bn_before"),
    "alexnet_bn_after": _network("alexnet", norm="bn_after"),
    **{f"densenet{n}": _network("densenet", n) for n in (121, 169, 201)},
    **{
        f"densenet_bc{depth}_{growth}": _network(
            "densenet", depth, growth, function="densenet_cifar"
        )
        for depth, growth in ((100, 12), (190, 40), (250, 24))
    },
    **_mobilenets("v1", (0.75, 0.5, 0.25)),
    **_mobilenets("v2", (1.4, 0.75, 0.5, 0.35)),
    **{
        f"keras:{name}": _network("applications", name, function="application")
        for name in KERAS_APPLICATIONS
    },
}
