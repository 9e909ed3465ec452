"""Evaluates a finished run: `python -m trainers.evaluate --run_dir=runs/NAME [--data_dir=…]`.

Loads the run's final.keras and counts every test image of its data set once, over all workers when
it runs behind `horovodrun -np N`. Exit codes: 0 done, 2 there is no such run.
"""

from absl import flags as absl_flags

from trainers import command, flags, startup
from trainers.data import DATASETS
from trainers.finished import finished_run, given

for _name in ("run_dir", "data_dir"):
    absl_flags.declare_key_flag(_name, flags.flags.FLAGS)


def evaluate(argv):
    run, config = finished_run()
    options = config.options_for(DATASETS[config.dataset])
    if given("data_dir"):
        options["data_dir"] = given("data_dir")
    dataset = DATASETS[config.dataset](**options)
    workers = startup.start()
    dataset = dataset.prepare(workers)
    from trainers.evaluation import Evaluator
    from trainers.network import load_network

    model = load_network(run.path("final.keras"))
    batch = max(config.global_batch_size // workers.size, 1)
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
