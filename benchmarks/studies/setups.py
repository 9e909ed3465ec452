"""What is trained in the studies: a network, its data, and the same budget for every optimizer."""

import dataclasses
from collections.abc import Callable

import keras
from keras import initializers, layers

from benchmarks.studies import data
from tf_lars.optimizers import CLARS, LAMB, LARS
from trainers.models.resnet_cifar import resnet_cifar
from trainers.sgd import L2SGD

# Where CLARS takes its mean norms from, and its momentum's rule.
CLARS_FORMS = {
    "CLARS": ("two_batch", "unscaled"),
    "CLARS, microbatch": ("microbatch", "unscaled"),
    "CLARS, scaled": ("two_batch", "scaled"),
}
OPTIMIZERS = ("SGD", "LARS", "LAMB", *CLARS_FORMS)


def rules(trust_coefficient, adapt_1d):
    """The optimizers by name; those of LARS and CLARS have the same trust coefficient."""
    masks = {} if not adapt_1d else {"exclude_from_layer_adaptation": None}
    ours = {"weight_decay": 5e-4, "trust_coefficient": trust_coefficient} | masks
    clars = {
        name: lambda rate, rule=rule: CLARS(rate, momentum_rule=rule, **ours)
        for name, (_, rule) in CLARS_FORMS.items()
    }
    return {
        "SGD": lambda rate: L2SGD(rate, momentum=0.9, nesterov=True, l2=5e-4),
        "LARS": lambda rate: LARS(rate, **ours),
        "LAMB": lambda rate: LAMB(rate, weight_decay=0.01, **masks),
        **clars,
    }


@dataclasses.dataclass(frozen=True)
class Setup:
    """One network on one data set.

    Attributes:
        words: what it is, for the page.
        network: makes the model.
        rows: images to train on.
        load: gives the `Split`, from the folder of MNIST where it needs one.
        epochs: the same at every batch, so that a batch k times as large has 1/k of the updates.
        batches: global batches.
        micro_batch: the most rows that are computed at once; BatchNormalization's own batch.
        optimizers: by name, functions of the learning rate.
        rates: for each optimizer six learning rates, each four times the one before.
    """

    words: str
    network: Callable
    rows: int
    load: Callable
    epochs: int
    batches: tuple
    micro_batch: int
    optimizers: dict
    rates: dict

    def updates(self, batch):
        """Updates in all epochs; the rest of an epoch that fills no batch is left out."""
        return self.rows // batch * self.epochs

    def micro_batch_at(self, batch):
        """Two parts at least, which CLARS needs."""
        return min(self.micro_batch, batch // 2)


def small_alexnet(image_shape=(28, 28, 1), classes=10):
    """AlexNet at a sixteenth of its width: five convolutions, three dense layers, no normalisation.

    All layers of the original in its order, the filters made smaller for images of 28×28 pixels.
    """
    images = x = keras.Input(image_shape)
    x = layers.MaxPooling2D(2)(_convolution(x, 12, 5, strides=2))
    for channels in (16, 24, 24, 16):
        x = _convolution(x, channels, 3)
    x = layers.Flatten()(layers.MaxPooling2D(3, 2)(x))
    for units in (64, 64):
        x = layers.Dense(units, "relu", **_start())(x)
    return keras.Model(images, layers.Dense(classes, **_start())(x))


def _convolution(x, channels, size, strides=1):
    return layers.Conv2D(channels, size, strides, padding="same", activation="relu", **_start())(x)


def _start():
    """A bias that is not zero has a trust ratio; AlexNet starts most of them above zero too."""
    return {"kernel_initializer": "he_normal", "bias_initializer": initializers.Constant(0.1)}


def grid(first):
    return tuple(first * 4**k for k in range(6))


SETUPS = {
    "alexnet_mnist": Setup(
        "small AlexNet without normalisation, 4,096 images of MNIST",
        small_alexnet,
        4096,
        data.mnist_subset,
        epochs=10,
        batches=(32, 64, 256, 512, 1024),
        micro_batch=128,
        optimizers=rules(trust_coefficient=0.001, adapt_1d=True),
        rates={
            "SGD": grid(0.002),
            "LARS": grid(0.25),
            "LAMB": grid(0.0005),
            "CLARS": grid(1.0),
            "CLARS, microbatch": grid(0.25),
            "CLARS, scaled": grid(1.0),
        },
    ),
    "resnet8_digits": Setup(
        "ResNet-8 with BatchNormalization, 1,077 digits of 8×8 pixels",
        lambda: resnet_cifar(8, (8, 8, 1), 10),
        1077,
        lambda folder: data.digits(),
        epochs=20,
        batches=(32, 128, 512, 1024),
        micro_batch=64,
        optimizers=rules(trust_coefficient=0.01, adapt_1d=False),
        rates={
            "SGD": grid(0.002),
            "LARS": grid(0.025),
            "LAMB": grid(0.002),
            "CLARS": grid(0.1),
            "CLARS, microbatch": grid(0.025),
            "CLARS, scaled": grid(0.1),
        },
    ),
}
