"""Any network of keras.applications, as it stands there, ready to train from scratch."""

import difflib
import inspect

import keras
from keras import layers


def names():
    """The names of keras.applications' networks."""
    listed = vars(keras.applications).items()
    return sorted(name for name, item in listed if inspect.isfunction(item))


def application(name, image_shape, classes):
    """The network `keras.applications.NAME` with random weights and `classes` logits in float32.

    Networks that normalise their images themselves are told not to: they get normalised ones.

    Args:
        name: a name in keras.applications, ResNet50V2 say.
        image_shape: (height, width, channels).
        classes: number of outputs, logits.

    Raises:
        ValueError: Keras has no network of that name, or it cannot take images of that shape.

    Example:
        >>> model = application("MobileNetV3Small", (224, 224, 3), 1000)
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"keras.applications has no {name!r}.{hint} It has {', '.join(names())}.")
    build = getattr(keras.applications, name)
    options = {}
    if "include_preprocessing" in inspect.signature(build).parameters:
        options["include_preprocessing"] = False
    images = keras.Input(image_shape, name="images")
    # EfficientNet (v1) cannot be told: it divides by 255.
    scaled = name.startswith("EfficientNetB")
    inputs = layers.Rescaling(255.0)(images) if scaled else images
    try:
        network = build(
            weights=None,
            input_tensor=inputs,
            classes=classes,
            classifier_activation=None,
            **options,
        )
    except ValueError as error:
        raise ValueError(f"{name} cannot take images of shape {image_shape}: {error}") from error
    outputs = layers.Activation("linear", dtype="float32", name="float32_logits")(network.output)
    return keras.Model(images, outputs, name=name.lower())
