"""Times one optimizer update: ours, Keras's, optax's, and timm's and PyTorch's where installed.

    python -m benchmarks.update_step --model=resnet50

All contenders live in one process and take turns, round by round, on the same gradients; each is
called through the compiled step that its users would have and is waited for. The floor is an
in-place sum over as many floats, which moves 3 floats a weight; LARS cannot move fewer than 7 and
LAMB 9 (10 with the decay inside the ratio).

    python -m benchmarks.update_step --memory=LARS

runs one contender alone and reports what the process grew by beyond parameters, gradients and
state, in multiples of the parameters' size. Compiling takes some memory too: take a large model.
"""

import argparse
import importlib
import importlib.util
import json
import os
import pathlib
import statistics
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks.shapes import MODELS
from tests.optimizers import timm_optimizers
from tf_lars import LAMB, LARS

RATE, DECAY = 1e-3, 1e-2


class Numbers:
    """The same start and the same gradients for everybody."""

    def __init__(self, model):
        self.shapes = MODELS[model]()
        generator = np.random.default_rng(0)
        self.weights, self.gradients = (
            [0.01 * generator.standard_normal(shape, np.float32) for shape in self.shapes]
            for _ in range(2)
        )
        self.size = sum(weight.size for weight in self.weights)


def keras_step(make, numbers, jit_compile):
    """A `tf.function` around `apply`; ours compile their update themselves."""
    variables = [keras.Variable(weight) for weight in numbers.weights]
    gradients = [tf.constant(gradient) for gradient in numbers.gradients]
    optimizer = make()
    optimizer.build(variables)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def apply(gradients):
        optimizer.apply(gradients, variables)

    def step():
        apply(gradients)
        tf.test.experimental.sync_devices()

    return step


def optax_step(make, numbers):
    """`jax.jit` with donated weights and state."""
    import jax
    import optax

    optimizer = make(optax)
    weights = [jax.numpy.asarray(weight) for weight in numbers.weights]
    gradients = [jax.numpy.asarray(gradient) for gradient in numbers.gradients]
    held = [weights, jax.jit(optimizer.init)(weights)]

    def update(weights, state, gradients):
        updates, state = optimizer.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state

    compiled = jax.jit(update, donate_argnums=(0, 1))

    def step():
        held[:] = compiled(*held, gradients)
        jax.block_until_ready(held)

    return step


def torch_step(make, numbers):
    import torch

    parameters = [torch.nn.Parameter(torch.from_numpy(w.copy())) for w in numbers.weights]
    for parameter, gradient in zip(parameters, numbers.gradients, strict=True):
        parameter.grad = torch.from_numpy(gradient)
    return make(torch, parameters).step


def floor_step(numbers):
    """a += b over as many floats: 3 floats of traffic for each weight, on all cores."""
    a = tf.Variable(tf.zeros([numbers.size]))
    b = tf.ones([numbers.size])

    def step():
        a.assign_add(b)
        tf.test.experimental.sync_devices()

    return step


def timm_make(name, **options):
    def make(torch, parameters):
        optimizer = getattr(importlib.import_module("timm.optim"), name)
        return optimizer(parameters, lr=RATE, weight_decay=DECAY, **options)

    return make


def contenders():
    """Name → a function of the numbers that gives a step."""
    sgd = keras.optimizers.SGD
    table = {
        "floor (a += b)": floor_step,
        "LARS": lambda n: keras_step(lambda: LARS(RATE, weight_decay=DECAY), n, None),
        "keras SGD momentum, XLA": lambda n: keras_step(lambda: sgd(RATE, 0.9), n, True),
        "LAMB": lambda n: keras_step(lambda: LAMB(RATE, weight_decay=DECAY), n, None),
        "keras Adam, XLA": lambda n: keras_step(lambda: keras.optimizers.Adam(RATE), n, True),
        "keras Lamb, XLA": lambda n: keras_step(
            lambda: keras.optimizers.Lamb(RATE, weight_decay=DECAY), n, True
        ),
        "optax lars": lambda n: optax_step(lambda o: o.lars(RATE, weight_decay=DECAY), n),
        "optax lamb": lambda n: optax_step(lambda o: o.lamb(RATE, weight_decay=DECAY), n),
    }
    if importlib.util.find_spec("torch"):
        table["torch SGD momentum, fused"] = lambda n: torch_step(
            lambda torch, p: torch.optim.SGD(p, lr=RATE, momentum=0.9, fused=True), n
        )
    if timm_optimizers.make_importable():
        table["timm Lars"] = lambda n: torch_step(timm_make("Lars", momentum=0.9), n)
        table["timm Lamb"] = lambda n: torch_step(timm_make("Lamb"), n)
    return table


def timed(step):
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def race(model, rounds, only):
    """Milliseconds of every contender, interleaved."""
    numbers = Numbers(model)
    steps, first = {}, {}
    for name, make in contenders().items():
        if only and not any(part in name for part in only):
            continue
        steps[name] = make(numbers)
        processor = time.process_time()
        wall = timed(steps[name])
        first[name] = time.process_time() - processor
        print(f"{name}: first call {wall:.1f} s, {first[name]:.1f} s of processor", flush=True)
    times = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            step()  # brings its own data back into the caches, whoever ran before
            times[name].append(1e3 * timed(step))
    return {
        "model": model,
        "weights": numbers.size,
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "rows": {
            name: {
                "minimum_ms": min(values),
                "median_ms": statistics.median(values),
                "first_call_processor_s": first[name],
            }
            for name, values in times.items()
        },
    }


def resident_bytes():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes():
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("/proc/self/status has no VmHWM.")


def memory(model, name):
    """The growth of the process from the built optimizer to the peak of five steps.

    In multiples of the parameters' size; building and compiling the step is in it.
    """
    numbers = Numbers(model)
    step = contenders()[name](numbers)
    before = resident_bytes()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    for _ in range(5):
        step()
    return (peak_bytes() - before) / (4 * numbers.size)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="resnet50")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="*", help="parts of the contenders' names")
    parser.add_argument("--memory", metavar="NAME", help="measure this contender's memory instead")
    parser.add_argument("--output", type=pathlib.Path, help="also write the result here, as JSON")
    options = parser.parse_args()
    if options.memory:
        growth = memory(options.model, options.memory)
        print(f"{options.memory}: {growth:.2f} times the parameters beyond what it holds anyway")
        return
    result = race(options.model, options.rounds, options.only)
    print(f"{options.model}: {result['weights'] / 1e6:.1f} million weights, "
          f"{result['cpus']} CPUs, load average {result['load_average']:.1f}")  # fmt: skip
    for name, row in result["rows"].items():
        print(f"{name:28} minimum {row['minimum_ms']:8.1f} ms, median {row['median_ms']:8.1f} ms, "
              f"first call {row['first_call_processor_s']:5.1f} s of processor")  # fmt: skip
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
