"""Small models and data that the checks in the ranks share."""

import keras
import numpy as np

EXAMPLES = 48  # a multiple of every number of ranks times every batch used


def data(seed=0):
    """The whole data set, the same on every rank."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(EXAMPLES, 5)).astype("float32")
    y = np.tanh(x @ rng.normal(size=(5, 2))).astype("float32")
    return x, y


def shard(array, rank, size):
    """A rank's part of each global batch, so that N ranks see what one process sees."""
    return array[rank::size]


def mlp(seed=1):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(7, activation="tanh"),
            keras.layers.Dense(2),
        ]
    )


def embedding_model(seed=1):
    """A model with sparse and dense gradients."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(11, 4),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )


def words(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 11, size=(EXAMPLES, 3)).astype("int32")
    return x, rng.normal(size=(EXAMPLES, 2)).astype("float32")


def flat(variables):
    """All values of a list of variables as one vector."""
    return np.concatenate([np.ravel(np.asarray(v, dtype="float64")) for v in variables])


def train_whole(model, optimizer, x, y, batch=24, epochs=2, **compile_options):
    """What one process with the whole batch gets: the reference."""
    model.compile(optimizer, keras.losses.MeanSquaredError(), **compile_options)
    model.fit(x, y, batch_size=batch, shuffle=False, epochs=epochs, verbose=0)
    return flat(model.trainable_variables)


def train_ranks(model, optimizer, x, y, batch=24, epochs=2, **compile_options):
    """The same training, each rank having its part of every batch."""
    import tf_lars.horovod as hvd

    rank, size = hvd.rank(), hvd.size()
    model.compile(optimizer, keras.losses.MeanSquaredError(), **compile_options)
    model.fit(
        shard(x, rank, size),
        shard(y, rank, size),
        batch_size=batch // size,
        shuffle=False,
        epochs=epochs,
        verbose=0,
    )
    return flat(model.trainable_variables)


def spread(values):
    """The largest difference between ranks of a vector."""
    import horovod.tensorflow as horovod

    gathered = horovod.allgather_object(np.asarray(values, dtype="float64"), name="spread")
    return max(float(np.abs(part - gathered[0]).max()) for part in gathered)
