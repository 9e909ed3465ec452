"""One compiled model for many runs: a run costs its arithmetic and nothing else."""

import keras
import numpy as np
import tensorflow as tf

from benchmarks.studies.setups import CLARS_FORMS
from tf_lars import large_batch
from tf_lars.schedules import WarmupPolynomial
from tf_lars.training.callbacks import PreciseBatchNorm

WARMUP_PART = 0.2
CONSTANT_PART = 0.1


def rates_by_update(peak, updates, warmup):
    """The learning rate of each update: a warm-up over a fifth of them, then (1 − p)².

    "none"; "gradual", from peak/W in equal steps over W updates; "constant", a tenth of the peak
    for W updates, then the peak at once.
    """
    steps = max(1, round(WARMUP_PART * updates)) if warmup != "none" else 0
    start = {"none": 0.0, "gradual": peak / max(steps, 1), "constant": CONSTANT_PART * peak}
    schedule = WarmupPolynomial(peak, updates, steps, start_learning_rate=start[warmup])
    rates = np.array(schedule(np.arange(updates)))
    if warmup == "constant":
        rates[:steps] = start[warmup]
    return rates


class Trainer:
    """A setup with one optimizer and one batch, set back for every run.

    The rates of all updates are a variable, so that one trace serves every rate and warm-up.

    Args:
        setup, split: the `Setup` and its data.
        optimizer, batch: the cell.
        steps_per_execution: Keras's; None for an epoch in one call, fewer where a callback is to
            see single updates.
    """

    def __init__(self, setup, split, optimizer, batch, steps_per_execution=None):
        self.setup, self.split, self.batch = setup, split, batch
        self.train = [tf.constant(array) for array in split.train]
        self.rows = setup.rows
        self.updates = setup.updates(batch)
        self.table = Table(self.updates)
        mean_norms, _ = CLARS_FORMS.get(optimizer, ("microbatch", None))
        self.model = large_batch(setup.network(), setup.micro_batch_at(batch), mean_norms)
        self.model.compile(
            setup.optimizers[optimizer](self.table),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            steps_per_execution=steps_per_execution or self.rows // batch,
        )
        parts = tf.data.Dataset.from_tensor_slices(self.train[0]).batch(
            setup.micro_batch_at(batch), drop_remainder=True
        )
        self.precise = PreciseBatchNorm(parts)
        self.precise.set_model(self.model)

    def run(self, rate, warmup, seed, judge=False, callbacks=()):
        """The validation (`judge`: test) accuracy and loss at the end, the training loss by epoch.

        The seed sets the initial weights and the order of the rows. A run whose loss is not finite
        is given up at the end of the epoch.
        """
        keras.utils.set_random_seed(seed)
        self.model.set_weights(self.setup.network().get_weights())
        self.model.optimizer.build(self.model.trainable_variables)
        for variable in self.model.optimizer.variables:
            variable.assign(keras.ops.zeros_like(variable))
        self.table.rates.assign(rates_by_update(rate, self.updates, warmup))
        history = self.model.fit(
            self._rows(seed),
            epochs=self.setup.epochs,
            verbose=0,
            callbacks=[keras.callbacks.TerminateOnNaN(), *callbacks],
        )
        self.precise._estimated_at = None
        self.precise.update()
        x, y = self.split.test if judge else self.split.validation
        loss, accuracy = self.model.evaluate(x, y, batch_size=512, verbose=0)
        return {"accuracy": accuracy, "loss": loss, "training": history.history["loss"]}

    def _rows(self, seed):
        order = tf.data.Dataset.range(self.rows).shuffle(self.rows, seed=seed)
        batches = order.batch(self.batch, drop_remainder=True)
        return batches.map(lambda rows: tuple(tf.gather(array, rows) for array in self.train))


class Table(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate for each update, from a variable."""

    def __init__(self, updates):
        super().__init__()
        self.updates, self.rates = updates, tf.Variable(tf.zeros(updates))

    def __call__(self, step):
        return tf.gather(self.rates, tf.minimum(tf.cast(step, tf.int32), self.updates - 1))
