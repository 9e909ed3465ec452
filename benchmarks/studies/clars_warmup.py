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
    # what, optimizer, source of CLARS's norms, updates of warm-up
    "LARS": (lars, "microbatch", 0),
    "LARS, warm-up of 10 updates": (lars, "microbatch", 10),
    "CLARS, microbatch": (clars, "microbatch", 0),
    "CLARS, two_batch": (clars, "two_batch", 0),
}
RATES = {lars: (0.3, 1.0, 3.0, 10.0, 30.0), clars: (1.0, 3.0, 10.0, 30.0, 100.0)}


def train(data, arm, rate, seed):
    """One run: accuracy on the test digits and training loss by epoch."""
    x, y, test_x, test_y = data
    make, source, warmup = ARMS[arm]
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(x.shape[1:])
    hidden = inputs
    for _ in range(2):
        hidden = keras.layers.Dense(128, use_bias=False)(hidden)
        hidden = keras.layers.BatchNormalization(momentum=0.9)(hidden)
        hidden = keras.layers.Activation("relu")(hidden)
    outputs = keras.layers.Dense(10)(hidden)
    model = LargeBatchModel(inputs, outputs, micro_batch_size=MICRO_BATCH, mean_norms=source)
    schedule = WarmupPolynomial(rate, UPDATES, warmup)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(make(schedule), loss, metrics=["accuracy"])
    rows = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=seed)
    batches = rows.batch(BATCH, drop_remainder=True)
    micro = tf.data.Dataset.from_tensor_slices(x).batch(MICRO_BATCH, drop_remainder=True)
    history = model.fit(batches, epochs=EPOCHS, callbacks=[PreciseBatchNorm(micro)], verbose=0)
    accuracy = model.evaluate(test_x, test_y, batch_size=360, verbose=0)[1]
    return {"final": accuracy, "loss": history.history["loss"]}


def main():
    tf.config.threading.set_intra_op_parallelism_threads(1)
    data, runs = digits(), Runs("clars_warmup")

    def get(arm, rate, seed):
        return runs.get(f"{arm}/{rate:g}/{seed}", lambda: train(data, arm, rate, seed))

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
