"""The networks by the names that --model takes: functions of (image_shape, classes).

Imports stay inside the functions: names are checked before TensorFlow is loaded.
"""

import functools


def resnet_cifar(image_shape, classes, *, depth):
    from trainers.models.resnet_cifar import resnet_cifar

    return resnet_cifar(depth, image_shape, classes)


_CIFAR_DEPTHS = (20, 32, 44, 56, 110)

MODELS = {f"resnet{n}": functools.partial(resnet_cifar, depth=n) for n in _CIFAR_DEPTHS}
