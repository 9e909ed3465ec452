"""The comparison behind the tests of DistributedOptimizer: N ranks against one process."""

import numpy as np

from tests.horovod import models


def assert_updates_agree(make, wrap=None, reference=None, tolerance=1e-6, steps=3):
    """A few updates with gradients that differ by rank, against one process with their mean."""
    import tensorflow as tf

    import tf_lars.horovod as hvd

    rng = np.random.default_rng(0)
    shapes = [(4, 3), (3,)]
    gradients = rng.normal(size=(steps, hvd.size(), 15)).astype("float32")
    start = rng.normal(size=15).astype("float32")

    def train(optimizer, gradients):
        import keras

        values = np.split(start, [12])
        variables = [
            keras.Variable(v.reshape(shape), name=name)
            for v, shape, name in zip(values, shapes, ("kernel", "bias"), strict=True)
        ]
        for gradient in gradients:
            parts = np.split(gradient, [12])
            optimizer.apply(
                [tf.constant(p.reshape(s)) for p, s in zip(parts, shapes, strict=True)], variables
            )
        return models.flat(variables)

    wrap = wrap or hvd.DistributedOptimizer
    ranks = train(wrap(make()), gradients[:, hvd.rank()])
    whole = train((reference or make)(), gradients.mean(axis=1))
    np.testing.assert_allclose(ranks, whole, atol=tolerance, rtol=0)
    assert models.spread(ranks) == 0


def assert_fit_agrees(make, wrap=None, reference=None, inputs=None, model=models.mlp, **options):
    import tf_lars.horovod as hvd

    wrap = wrap or hvd.DistributedOptimizer
    x, y = inputs or models.data()
    batch = options.pop("batch", 24)
    whole = models.train_whole(model(), (reference or make)(), x, y)
    ranks = models.train_ranks(model(), wrap(make()), x, y, batch=batch, **options)
    np.testing.assert_allclose(ranks, whole, atol=1e-6, rtol=0)
    assert models.spread(ranks) == 0
