"""Evaluates a finished run: `python -m trainers.evaluate --run_dir=runs/NAME [--data_dir=…]`.

Loads the run's final.keras and counts every test image of its data set once, over all workers when
it runs behind `horovodrun -np N`. Exit codes: 0 done, 2 there is no such run.
"""

from absl import flags as absl_flags

from trainers import command, flags, startup
from trainers.data import DATASETS
from trainers.errors import ConfigError
from trainers.models import MODELS
from trainers.run_directory import RunDirectory

for _name in ("run_dir", "data_dir"):
    absl_flags.declare_key_flag(_name, flags.flags.FLAGS)


def evaluate(argv):
    if not _given("run_dir"):
        raise ConfigError("--run_dir must be given: the folder of a finished run.")
    run = RunDirectory(_given("run_dir"))
    config = run.config()
    if config is None or not run.path("final.keras").exists():
        raise ConfigError(f"--run_dir={run.folder} holds no finished run: no final.keras in it.")
    options = config.options_for(DATASETS[config.dataset])
    if _given("data_dir"):
        options["data_dir"] = _given("data_dir")
    dataset = DATASETS[config.dataset](**options)
    workers = startup.start()
    dataset = dataset.prepare(workers)
    from trainers.evaluation import Evaluator

    model = MODELS[config.model](dataset.image_shape, dataset.classes)
    model.load_weights(run.path("final.keras"))
    batch = max(config.global_batch_size // workers.size, 1)
    result = Evaluator(model, dataset, batch, workers)()
    if workers.rank == 0:
        examples = dataset.examples("test")
        print(f"Top-1 on {examples:,} test images: {result['top1']:.2%}, loss {result['loss']:.4f}")


def _given(name):
    return flags.flags.FLAGS[name].value


def main():
    command.run("trainers.evaluate", evaluate, flags.parse)


if __name__ == "__main__":
    main()
