"""Does CLARS need no warm-up? Against LARS with and without one, at a batch of half the digits.

    python -m benchmarks.studies.clars_warmup

trains a network of two hidden layers with BatchNormalization on the digits: batch 704 in
micro-batches of 32, 30 epochs of 2 updates, momentum 0.9, decay 1e-4, polynomial decay of power 2.
Each arm chooses its learning rate by the mean over three seeds and is then judged on five others.
Runs that are done are kept in results/clars_warmup.json; the table is printed.
"""

import keras
import tensorflow as tf

from benchmarks.studies.runs import Runs, digits, mean_and_error
from tf_lars.optimizers import CLARS, LARS
from tf_lars.schedules import WarmupPolynomial
from tf_lars.training.callbacks import PreciseBatchNorm
from tf_lars.training.large_batch_model import LargeBatchModel

BATCH, MICRO_BATCH, EPOCHS = 704, 32, 30
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

    def __init__(self, data, name):
        make, source, warmup = ARMS[name]
        self.data, self.schedule = data, Scaled(WarmupPolynomial(1.0, UPDATES, warmup))
        self.model = LargeBatchModel(*network(), micro_batch_size=MICRO_BATCH, mean_norms=source)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(make(self.schedule), loss, metrics=["accuracy"])

    def train(self, rate, seed):
        """One run: accuracy on the test digits and training loss by epoch."""
        x, y, test_x, test_y = self.data
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
        accuracy = self.model.evaluate(test_x, test_y, batch_size=360, verbose=0)[1]
        return {"final": accuracy, "loss": history.history["loss"]}


def network():
    inputs = hidden = keras.Input((64,))
    for _ in range(2):
        hidden = keras.layers.Dense(128, use_bias=False)(hidden)
        hidden = keras.layers.BatchNormalization(momentum=0.9)(hidden)
        hidden = keras.layers.Activation("relu")(hidden)
    return inputs, keras.layers.Dense(10)(hidden)


def main():
    tf.config.threading.set_intra_op_parallelism_threads(1)
    data, runs = digits(), Runs("clars_warmup")

    arms = {}

    def get(name, rate, seed):
        def run():
            if name not in arms:
                arms[name] = Arm(data, name)
            return arms[name].train(rate, seed)

        return runs.get(f"{name}/{rate:g}/{seed}", run)

    print(
        "| arm | best rate | top-1, % | loss after 5 epochs | final loss |\n|---|---|---|---|---|"
    )
    for arm, (make, _, _) in ARMS.items():
        score = {r: sum(get(arm, r, s)["final"] for s in TUNING) for r in RATES[make]}
        best = max(score, key=score.get)
        judged = [get(arm, best, seed) for seed in JUDGING]
        accuracy = mean_and_error([100 * run["final"] for run in judged])
        early, late = (mean_and_error([run["loss"][k] for run in judged]) for k in (4, -1))
        edge = " (the edge of the grid)" if best in (RATES[make][0], RATES[make][-1]) else ""
        print(
            f"| {arm} | {best:g}{edge} | {accuracy[0]:.2f} ± {accuracy[1]:.2f} | "
            f"{early[0]:.3f} ± {early[1]:.3f} | {late[0]:.4f} ± {late[1]:.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
