"""What the large-batch step costs: memory, statistics and the loop itself, on ResNet-20 at 32×32.

    python -m benchmarks.large_batch_step memory     peak memory against the number of micro-batches
    python -m benchmarks.large_batch_step huge       one update of batch 32,768
    python -m benchmarks.large_batch_step speed      statistics, and the loop against one batch

Memory is the growth of the process's peak over what it holds before the step (model, optimizer,
the batch itself), each number of micro-batches in a process of its own. Speed is the median over
interleaved repetitions of one step of batch 512, with the quartiles, in milliseconds of processor
time on one core, which a busy machine disturbs less than the clock.
"""

import argparse
import multiprocessing
import time

import numpy as np

MEBI = 2**20


def _build(micro_batch_size, observers=()):
    import keras

    from tf_lars import LARS
    from tf_lars.training.large_batch_model import large_batch
    from trainers.models import MODELS

    keras.utils.set_random_seed(0)
    model = MODELS["resnet20"]((32, 32, 3), 10)
    large_batch(model, micro_batch_size=micro_batch_size)
    model.compile(LARS(1.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.observers = observers
    return model


def _batch(rows):
    import tensorflow as tf

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, 32, 32, 3), np.uint8)
    return tf.constant(images), tf.constant(rng.integers(0, 10, rows))


def _peak_memory(micro_batch_size, count, results):
    """In a process of its own: bytes that a step adds to the peak, and its seconds."""
    model = _build(micro_batch_size)
    images, labels = _batch(micro_batch_size * count)
    with open("/proc/self/status") as status:
        before = _status(status, "VmRSS")
    began = time.perf_counter()
    model.train_on_batch(images, labels)
    seconds = time.perf_counter() - began
    with open("/proc/self/status") as status:
        results.put((_status(status, "VmHWM") - before, seconds))


def _status(lines, name):
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def memory(micro_batch_size, counts):
    print("| micro-batch | micro-batches | batch | peak above model and batch, MiB | seconds |")
    print("|---|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    for count in counts:
        results = context.Queue()
        process = context.Process(target=_peak_memory, args=(micro_batch_size, count, results))
        process.start()
        peak, seconds = results.get()
        process.join()
        rows = micro_batch_size * count
        print(
            f"| {micro_batch_size} | {count:,} | {rows:,} | {peak / MEBI:,.0f} | {seconds:.1f} |",
            flush=True,
        )


class _Keeper:
    """Asks for the statistics, and keeps them from being optimised away."""

    def __init__(self):
        import tensorflow as tf

        self.kept = tf.Variable(0.0)

    def observe(self, statistics):
        import tensorflow as tf

        squared, trace = statistics.noise()
        self.kept.assign(tf.reduce_sum(squared + trace + statistics.mean_norm))


def speed(repetitions):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    steps = {
        "one batch of 512": _build(None),
        "4 micro-batches of 128": _build(128),
        "the same with statistics": _build(128, (_Keeper(),)),
    }
    images, labels = _batch(512)
    times = {name: [] for name in steps}
    for repetition in range(repetitions + 2):  # two to warm up
        for name, model in steps.items():
            began = time.process_time()
            model.train_on_batch(images, labels)
            if repetition >= 2:
                times[name].append(1000 * (time.process_time() - began))
    print("| step | median, CPU ms | quartiles | against the row above, pairwise median |")
    print("|---|---|---|---|")
    above = None
    for name, values in times.items():
        low, middle, high = np.percentile(values, (25, 50, 75))
        change = (
            "" if above is None else f"{100 * (np.median(np.divide(values, above)) - 1):+.1f} %"
        )
        print(f"| {name} | {middle:,.0f} | {low:,.0f} to {high:,.0f} | {change} |")
        above = values


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("memory", "huge", "speed"))
    parser.add_argument("--repetitions", type=int, default=9)
    arguments = parser.parse_args()
    if arguments.what == "memory":
        memory(4, (4, 64, 1024))
    elif arguments.what == "huge":
        memory(128, (256,))
    else:
        speed(arguments.repetitions)


if __name__ == "__main__":
    main()
