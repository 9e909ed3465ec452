"""How training scales from one rank to two, and what that predicts for more.

    python -m benchmarks.scaling --model resnet20 --output resnet20.json
    python -m benchmarks.scaling --model resnet50 --output resnet50.json
    python -m benchmarks.scaling --bandwidth --output bandwidth.json
    python -m benchmarks.scaling --predict bandwidth.json resnet50.json

Two ranks are pinned to one core each. In one job, so that all share the state of the machine, five
variants of the training step take turns in blocks of a few steps:

alone       rank 0 trains and rank 1 sleeps
apart       both train, each for itself: what the machine allows two ranks, without any exchange
raw         both train, gradients averaged by one `grouped_allreduce`, then the optimizer's update
bridge      both train with `hvd.DistributedOptimizer`, all gradients after the backward pass
overlap     the same with `overlap=True`, each gradient as soon as it is there

Weak-scaling efficiency is alone / bridge, its bound on this machine alone / apart, and the bridge's
own overhead (bridge − raw) / bridge, each taken for every round and then the median. All times are
seconds a step. What bounds two ranks is probed beside them by arithmetic within a core's own cache
and by copies that no cache holds: the time of one rank alone over that of both together.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from trainers.cost_model import GBIT, efficiency, ring_seconds

MODELS = {"resnet20": {"side": 32, "batch": 32}, "resnet50": {"side": 224, "batch": 4}}
SIZES = [4 * 4**k for k in range(13)]  # bytes, 4 to 64 Mi
WORKERS = [8, 16, 32, 64, 128, 256, 512, 1024]
NETWORKS = {f"{rate} Gbit/s": rate * GBIT for rate in (10, 25, 100)}  # bytes a second


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", choices=MODELS)
    what.add_argument("--bandwidth", action="store_true", help="all-reduce times by size")
    what.add_argument("--predict", nargs=2, metavar=("BANDWIDTH", "MODEL"), help="two outputs")
    parser.add_argument("--batch", type=int, help="images a rank")
    parser.add_argument("--steps", type=int, default=4, help="steps in a block")
    parser.add_argument("--rounds", type=int, default=5, help="blocks of each variant")
    parser.add_argument("--output", type=pathlib.Path, help="where to write the JSON")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        run_worker(options)
    elif options.predict:
        print_prediction(*(json.loads(pathlib.Path(path).read_text()) for path in options.predict))
    else:
        run_job()


def run_job():
    """Starts this script with two ranks, one thread each; rank 0 prints and writes."""
    tools = pathlib.Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [str(tools / "horovodrun"), "--gloo", "-np", "2", sys.executable]
    command += ["-m", "benchmarks.scaling", *sys.argv[1:], "--worker"]
    raise SystemExit(subprocess.run(command, env=environment, check=False).returncode)


def run_worker(options):
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[int(os.environ["HOROVOD_RANK"])]})
    import tf_lars.horovod as hvd

    hvd.init()
    result = measure_bandwidth() if options.bandwidth else measure_model(options)
    if hvd.rank() == 0:
        print(json.dumps(result, indent=1), flush=True)
        (print_bandwidth if options.bandwidth else print_model)(result)
        if options.output:
            options.output.write_text(json.dumps(result, indent=1) + "\n")


def build(name):
    """The network and a batch's shape."""
    import keras

    shape = (MODELS[name]["side"], MODELS[name]["side"], 3)
    if name == "resnet20":
        from trainers.models.resnet_cifar import resnet_cifar

        return resnet_cifar(20, shape, 10), shape, 10
    network = keras.applications.ResNet50(weights=None, classifier_activation=None)
    return network, shape, 1000


def make_steps(model, optimizer, x, y):
    """The variants as functions of no arguments, over one model and one optimizer."""
    import horovod.tensorflow as horovod
    import keras
    import tensorflow as tf

    import tf_lars.horovod as hvd

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer.build(model.trainable_variables)
    bridge = hvd.DistributedOptimizer(optimizer, overlap=False)
    overlapping = hvd.DistributedOptimizer(optimizer, overlap=True)

    def gradients():
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        return tape.gradient(value, model.trainable_variables)

    def apart():
        optimizer.apply(gradients(), model.trainable_variables)

    def raw():
        reduced = horovod.grouped_allreduce(gradients(), op=horovod.Average, name="raw")
        optimizer.apply(reduced, model.trainable_variables)

    def with_bridge():
        bridge.apply(gradients(), model.trainable_variables)

    def overlap():
        overlapping.apply(gradients(), model.trainable_variables)

    steps = {"apart": apart, "raw": raw, "bridge": with_bridge, "overlap": overlap}
    steps = {name: tf.function(step, autograph=False) for name, step in steps.items()}
    return {"alone": steps["apart"], **steps}


def measure_model(options):
    import horovod.tensorflow as horovod
    import keras
    import numpy as np
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model, shape, classes = build(options.model)
    batch = options.batch or MODELS[options.model]["batch"]
    generator = np.random.default_rng(horovod.rank())
    x = tf.constant(generator.normal(size=(batch, *shape)), tf.float32)
    y = tf.constant(generator.integers(0, classes, batch))
    steps = make_steps(model, keras.optimizers.SGD(0.01, momentum=0.9), x, y)
    for step in steps.values():
        step()
    together = probe_machine()
    times = take_turns(steps, options.rounds, options.steps)

    def ratio(over, under):
        rounds = [a / b for a, b in zip(times[over], times[under], strict=True)]
        return {"median": statistics.median(rounds), "min": min(rounds), "max": max(rounds)}

    return {
        "model": options.model,
        "batch": batch,
        "parameter_bytes": sum(int(np.prod(v.shape)) * 4 for v in model.trainable_variables),
        "seconds_a_step": {name: statistics.median(values) for name, values in times.items()},
        "weak_scaling_efficiency": ratio("alone", "bridge"),
        "without_exchange": ratio("alone", "apart"),
        "of_what_the_machine_allows": ratio("apart", "bridge"),
        "raw_over_bridge": ratio("raw", "bridge"),
        "bridge_over_overlap": ratio("bridge", "overlap"),
        "arithmetic": together["arithmetic"],
        "memory": together["memory"],
        "rounds": times,
    }


def take_turns(steps, rounds, repetitions):
    """Seconds of the slower rank by variant, a number for each round."""
    import horovod.tensorflow as horovod
    import tensorflow as tf

    names, times = list(steps), {name: [] for name in steps}
    for number in range(rounds):
        first = number % len(names)  # none always follows the same one
        for name in names[first:] + names[:first]:
            horovod.allreduce(tf.zeros(1), name="together")
            began = time.perf_counter()
            if not name.startswith("alone") or horovod.rank() == 0:
                for _ in range(repetitions):
                    steps[name]()
            times[name].append((time.perf_counter() - began) / repetitions)
    # A step takes as long as the slower rank.
    slowest = horovod.allreduce(
        tf.constant([times[name] for name in names], tf.float64), op=horovod.Max, name="slowest"
    ).numpy()
    return dict(zip(names, slowest.tolist(), strict=True))


def probe_machine(rounds=7, repetitions=40):
    """One rank's time over that of two, for arithmetic in a core's own cache and for copies."""
    import numpy as np

    left, right = np.ones((2, 256, 256), np.float32)
    here, there = np.ones((2, 2**24), np.float32)
    work = {"arithmetic": lambda: left @ right, "memory": lambda: np.copyto(there, here)}
    found = {}
    for name, do in work.items():
        times = take_turns({"alone": do, "together": do}, rounds, repetitions)
        found[name] = statistics.median(times["alone"]) / statistics.median(times["together"])
    return found


def print_model(result):
    print(f"\n{result['model']}, {result['batch']} images a rank")
    for name, seconds in result["seconds_a_step"].items():
        print(f"  {name:<25}{1000 * seconds:9.1f} ms a step")
    ratios = [name for name, value in result.items() if isinstance(value, dict) and "min" in value]
    for name in ratios:
        median, low, high = (100 * result[name][key] for key in ("median", "min", "max"))
        print(f"  {name:<28}{median:7.1f} %   ({low:.1f} to {high:.1f})")
    for name in ("arithmetic", "memory"):
        print(f"  {name + ', one over two':<28}{100 * result[name]:7.1f} %")


def measure_bandwidth(repetitions=15):
    import horovod.tensorflow as horovod
    import tensorflow as tf

    seconds = {}
    for size in SIZES:
        tensor = tf.zeros(size // 4)
        reduce = tf.function(
            lambda tensor=tensor, size=size: horovod.allreduce(
                tensor, op=horovod.Sum, name=f"size{size}"
            )
        )
        reduce()
        times = []
        for _ in range(repetitions):
            began = time.perf_counter()
            reduce()
            times.append(time.perf_counter() - began)
        seconds[size] = statistics.median(times)
    latency, bandwidth = fit_cost(seconds)
    return {"seconds": seconds, "latency_seconds": latency, "bytes_a_second": bandwidth}


def fit_cost(seconds):
    """Latency and bandwidth of t = latency + bytes / bandwidth, with equal relative weights.

    Args:
        seconds: {bytes: seconds}, the bytes as numbers or their texts.

    Returns:
        (seconds, bytes a second).
    """
    import numpy as np

    sizes = np.array([int(size) for size in seconds], float)
    times = np.array(list(seconds.values()))
    matrix = np.stack([np.ones_like(sizes), sizes], 1) / times[:, None]
    (latency, per_byte), *_ = np.linalg.lstsq(matrix, np.ones_like(times), rcond=None)
    return float(latency), float(1 / per_byte)


def print_bandwidth(result):
    print("\nbytes        measured ms    model ms    GB/s")
    for size, seconds in result["seconds"].items():
        model = result["latency_seconds"] + int(size) / result["bytes_a_second"]
        rate = int(size) / seconds / 1e9
        print(f"{int(size):<12} {1e3 * seconds:>10.3f} {1e3 * model:>11.3f} {rate:>7.2f}")
    print(
        f"t = {1e3 * result['latency_seconds']:.2f} ms + bytes / "
        f"{result['bytes_a_second'] / 1e9:.2f} GB/s"
    )


def print_prediction(bandwidth, model, hop=30e-6, other_steps=(0.1,)):
    """Weak-scaling efficiency by workers: step / (step + all-reduce), nothing overlapped."""
    measured, size = model["seconds_a_step"]["apart"], model["parameter_bytes"]
    fixed = bandwidth["latency_seconds"]
    print(
        f"{model['model']}, {size / 1e6:.1f} MB of gradients: efficiency in %, with "
        f"{1e3 * fixed:.2f} ms a call and {1e6 * hop:.0f} µs a hop\n\n"
        f"| network | own step | {' | '.join(map(str, WORKERS))} |\n"
        f"|---|---|{'---|' * len(WORKERS)}"
    )
    for network, rate in NETWORKS.items():
        for step in (measured, *other_steps):
            cells = []
            for workers in WORKERS:
                reduce = ring_seconds(workers, size, fixed, rate, hop)
                cells.append(f"{100 * efficiency(step, reduce):.1f}")
            print(f"| {network} | {step:.2f} s | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
