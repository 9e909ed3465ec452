"""Does CLARS need no warm-up? Against LARS with and without one, at half of the training digits.

    python -m benchmarks.studies.clars_warmup

trains a network of two hidden layers with BatchNormalization on 1,077 digits: batch 512 in
micro-batches of 32, 30 epochs of 2 updates, momentum 0.9, decay 1e-4, polynomial decay of power 2.
Each arm chooses one of four learning rates by the mean validation accuracy over three seeds and is
then judged on the test digits with five others.
"""

import keras
import tensorflow as tf

from benchmarks.studies import command
from benchmarks.studies.data import digits
from benchmarks.studies.runs import Runs
from tf_lars.optimizers import CLARS, LARS
from tf_lars.schedules import WarmupPolynomial
from tf_lars.training.callbacks import PreciseBatchNorm
from tf_lars.training.large_batch_model import LargeBatchModel

BATCH, MICRO_BATCH, EPOCHS = 512, 32, 30
UPDATES = EPOCHS * 2
TUNING, JUDGING = range(3), range(100, 105)


def lars(schedule):
    return LARS(schedule, momentum=0.9, weight_decay=1e-4, trust_coefficient=0.01)


def clars(schedule):
    return CLARS(schedule, momentum=0.9, weight_decay=1e-4, max_trust_ratio=None)


ARMS = {
    # what: optimizer, source of CLARS's norms, updates of warm-up
    "LARS": (lars, "microbatch", 0),
    "LARS, warm-up of 10 updates": (lars, "microbatch", 10),
    "CLARS, microbatch": (clars, "microbatch", 0),
    "CLARS, two_batch": (clars, "two_batch", 0),
}
RATES = {lars: (0.3, 1.0, 3.0, 10.0), clars: (1.0, 3.0, 10.0, 30.0)}


class Scaled(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule times a peak that can be set, so that one trace serves all rates of an arm."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule, self.peak = schedule, tf.Variable(1.0)

    def __call__(self, step):
        return self.peak * self.schedule(step)


class Arm:
    """One compiled model, set back for every run."""

    def __init__(self, name):
        make, source, warmup = ARMS[name]
        self.data, self.schedule = digits(), Scaled(WarmupPolynomial(1.0, UPDATES, warmup))
        self.model = LargeBatchModel(*network(), micro_batch_size=MICRO_BATCH, mean_norms=source)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(make(self.schedule), loss, metrics=["accuracy"])

    def train(self, rate, seed):
        """One run: accuracies on the validation and test digits, training loss by epoch."""
        x, y = self.data.train
        keras.utils.set_random_seed(seed)
        self.model.set_weights(keras.Model(*network()).get_weights())
        for variable in self.model.optimizer.variables:
            if variable is not self.model.optimizer.learning_rate:
                variable.assign(keras.ops.zeros_like(variable))
        self.schedule.peak.assign(rate)
        rows = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=seed)
        batches = rows.batch(BATCH, drop_remainder=True)
        micro = tf.data.Dataset.from_tensor_slices(x).batch(MICRO_BATCH, drop_remainder=True)
        history = self.model.fit(batches, epochs=EPOCHS, verbose=0)
        precise = PreciseBatchNorm(micro)
        precise.set_model(self.model)
        precise.on_train_end()
        return {
            "validation": self._accuracy(self.data.validation),
            "test": self._accuracy(self.data.test),
            "loss": history.history["loss"],
        }

    def _accuracy(self, part):
        return self.model.evaluate(*part, batch_size=360, verbose=0)[1]


def network():
    inputs = keras.Input((8, 8, 1))
    hidden = keras.layers.Flatten()(inputs)
    for _ in range(2):
        hidden = keras.layers.Dense(128, use_bias=False)(hidden)
        hidden = keras.layers.BatchNormalization(momentum=0.9)(hidden)
        hidden = keras.layers.Activation("relu")(hidden)
    return inputs, keras.layers.Dense(10)(hidden)


def judged(arm, run):
    """(the chosen rate, the runs that judge it), where `run(arm, rate, seed)` gives a run."""
    rates = RATES[ARMS[arm][0]]
    score = {rate: sum(run(arm, rate, seed)["validation"] for seed in TUNING) for rate in rates}
    best = max(score, key=score.get)
    return best, [run(arm, best, seed) for seed in JUDGING]


def kept(arm, rate, seed):
    """A run that was made.

    Raises:
        Missing: it was not.
    """
    return Runs("clars_warmup").get(f"{arm}/{rate:g}/{seed}")


def main():
    command.one_core()
    runs, arms = Runs("clars_warmup"), {}

    def made(name, rate, seed):
        def run():
            if name not in arms:
                arms[name] = Arm(name)
            return arms[name].train(rate, seed)

        return runs.get(f"{name}/{rate:g}/{seed}", run)

    for arm in ARMS:
        judged(arm, made)


if __name__ == "__main__":
    main()
