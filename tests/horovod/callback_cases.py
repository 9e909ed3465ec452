"""Rows and models that the tests of callbacks share; imports are inside, for the ranks."""


def labelled_rows(seed, count=12):
    import numpy as np

    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, 4)).astype("float32"), generator.integers(0, 3, count)


def gathered(value):
    import horovod.tensorflow as horovod

    return horovod.allgather_object(value)


def compile_(model, **options):
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(options.pop("optimizer", "adam"), loss, **options)
