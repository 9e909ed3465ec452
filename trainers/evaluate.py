"""Evaluates a run: `python -m trainers.evaluate --run_dir=runs/NAME [--checkpoint=best]`.

Loads what the run ended with, or a checkpoint (`newest`, `best` or a file), and counts every test
image of its data set once, over all workers when it runs behind `horovodrun -np N`. Averages of the
weights are what is evaluated where the run keeps them. Exit codes: 0 done, 2 there is no such run.
"""

import contextlib

from absl import flags as absl_flags

from trainers import command, flags, startup
from trainers.data import DATASETS
from trainers.finished import begun_run, checkpoint_file, finished_run, given, restored

_CHECKPOINT = absl_flags.DEFINE_string(
    "checkpoint", None, "What to evaluate in place of the end: newest, best, or a file."
)
_MOST_IMAGES = 256  # that a worker takes at once
for _name in ("run_dir", "data_dir"):
    absl_flags.declare_key_flag(_name, flags.flags.FLAGS)


def evaluate(argv):
    run, config = begun_run() if _CHECKPOINT.value else finished_run()
    file = _CHECKPOINT.value and checkpoint_file(run, _CHECKPOINT.value)
    options = config.options_for(DATASETS[config.dataset])
    if given("data_dir"):
        options["data_dir"] = given("data_dir")
    dataset = DATASETS[config.dataset](**options)
    workers = startup.start()
    dataset = dataset.prepare(workers)
    from trainers.averages import averaged_weights
    from trainers.evaluation import Evaluator
    from trainers.network import load_network

    if file:
        model = restored(run, config, dataset, file)
        averages = averaged_weights(model)
    else:
        model = load_network(run.path("final.keras"))
        averages = contextlib.nullcontext()
    batch = min(max(config.global_batch_size // workers.size, 1), _MOST_IMAGES)
    with averages:
        result = Evaluator(model, dataset, batch, workers)()
    if workers.rank == 0:
        examples = dataset.examples("test")
        top5 = f"top-5 {result['top5']:.2%}, " if "top5" in result else ""
        print(
            f"Top-1 on {examples:,} test images: {result['top1']:.2%}, "
            f"{top5}loss {result['loss']:.4f}"
        )


def main():
    command.run("trainers.evaluate", evaluate, flags.parse)


if __name__ == "__main__":
    main()
