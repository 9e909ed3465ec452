"""Plans a run: `python -m trainers.plan --model=resnet50 --dataset=imagenet2012 --workers=64
--batch_per_worker=256`, or `--target_hours=2` in place of `--workers`.

Prints the recipe with the published one it rests on, updates, memory, and the predicted time of a
step and of the run; `--write_flags=FILE` writes what `trainers.train --flagfile=FILE` takes. The
trainer's other flags override the recipe; --global_batch_size, --run_dir and --elastic are refused.
Exit codes: 0 done, 2 it cannot work.
"""

import dataclasses
import inspect
import math
import pathlib
import types

from absl import flags as absl_flags

from trainers import command, flags, startup
from trainers.config import TrainConfig
from trainers.cost_model import GBIT
from trainers.data import DATASETS
from trainers.data.known import KNOWN
from trainers.errors import ConfigError, check_choice
from trainers.forecast import Network, forecast
from trainers.models import MODELS
from trainers.recipes import moved, nearest

absl_flags.DEFINE_integer("workers", None, "Number of workers.", lower_bound=1)
absl_flags.DEFINE_integer("batch_per_worker", None, "Images a worker and update.", lower_bound=1)
absl_flags.DEFINE_float(
    "target_hours", None, "Take the fewest workers, 1, 2, 4 …, that train in this time."
)
absl_flags.DEFINE_float(
    "images_per_second", None, "Training speed of one worker alone; measured here if unset."
)
absl_flags.DEFINE_float("network_gbit", 25.0, "Gbit/s of a worker's link.")
absl_flags.DEFINE_float("hop_us", 30.0, "Microseconds of a message between neighbours.")
absl_flags.DEFINE_float("call_ms", 1.0, "Milliseconds that any exchange takes.")
absl_flags.DEFINE_string("write_flags", None, "Where to write the flags file.")

_MOST_WORKERS = 4096
_MEASURED_IMAGES = 8  # in a step when the speed is measured here, without micro-batches
_RULES = {
    "legw": "the rate by the square root, the warm-up in proportion",
    "linear": "the rate in proportion",
}
_FAR = 2  # times the batch of a recipe: nobody has published what is beyond


def plan(argv):
    given = flags.flags.FLAGS
    _check(given)
    workers = given.workers or 1
    startup.start()
    first = Candidate(given, workers)
    model = first.model()
    speed = given.images_per_second or first.measure(model)
    gradients = 4 * sum(math.prod(v.shape) for v in model.trainable_variables)
    network = Network(given.network_gbit * GBIT, given.hop_us / 1e6, given.call_ms / 1e3)
    chosen = first
    if given.target_hours is not None:
        chosen = _fewest_workers(given, first.data, speed, gradients, network)
    prediction = forecast(chosen.plan, speed, gradients, network)
    print(_report(chosen, given, model, speed, gradients, prediction))
    if given.write_flags:
        _write(pathlib.Path(given.write_flags), chosen)


class Candidate:
    """The run on a given number of workers: recipe, config, data and plan.

    Args:
        given: the parsed flags.
        workers: how many.
        data: sizes of the data set, looked up if None.
    """

    def __init__(self, given, workers, data=None):
        batch = workers * given.batch_per_worker
        overrides = _overrides(given)
        target, optimizer = (overrides.get(name) for name in ("target_top1", "optimizer"))
        self.workers = workers
        self.recipe = nearest(given.model, given.dataset, batch, optimizer, target)
        options = inspect.signature(DATASETS[given.dataset]).parameters
        config = moved(self.recipe, given.model, given.dataset, batch, options)
        if config.micro_batch_size:
            micro = min(config.micro_batch_size, given.batch_per_worker)
            config = dataclasses.replace(config, micro_batch_size=micro)
        self.config = dataclasses.replace(config, **overrides)
        from trainers.derived import derive  # loads Keras

        self.data = data or _sizes(self.config)
        self.plan = derive(self.config, self.data.train, self.data.test, workers)

    def model(self):
        """The network with its optimizer, compiled; it does not depend on the workers."""
        from trainers.loop import build

        return build(self.config, self.plan, self.data, startup.Workers())[0]

    def measure(self, model):
        """Images a second of `model` on this machine."""
        from trainers.footprint import images_per_second

        micro = self.config.micro_batch_size
        images = min(2 * micro if micro else _MEASURED_IMAGES, self.plan.local_batch_size)
        return images_per_second(model, self.data.image_shape, self.data.classes, images)


def _check(given):
    for name in ("model", "dataset", "batch_per_worker"):
        if given[name].value is None:
            raise ConfigError(f"--{name} must be given.")
    check_choice("model", given.model, list(MODELS))
    check_choice("dataset", given.dataset, list(DATASETS))
    if (given.workers is None) == (given.target_hours is None):
        raise ConfigError("give either --workers or --target_hours.")
    for name in ("target_hours", "images_per_second", "network_gbit"):
        value = given[name].value
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"--{name} must be greater than 0 and finite; got {value:g}.")
    for name in ("hop_us", "call_ms"):
        if not 0 <= given[name].value < math.inf:
            raise ConfigError(f"--{name} must be at least 0 and finite; got {given[name].value:g}.")
    if given["global_batch_size"].present:
        raise ConfigError(
            f"--global_batch_size={given.global_batch_size}: it is --workers times "
            "--batch_per_worker. Leave it out."
        )
    for name in ("run_dir", "elastic"):
        if given[name].present:
            raise ConfigError(
                f"--{name} belongs to the start of a run, not to its plan: give it to "
                "trainers.train."
            )
    if given.write_flags and pathlib.Path(given.write_flags).exists():
        raise ConfigError(f"--write_flags={given.write_flags} exists: give another, or remove it.")


def _overrides(given):
    """{option: value} of the trainer's flags on the command line."""
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    values = {name: given[name].value for name in names if given[name].present}
    if values.get("lr_milestones") is not None:
        values["lr_milestones"] = flags.numbers("lr_milestones", values["lr_milestones"])
    return {name: values[name] for name in values if name not in ("model", "dataset")}


def _sizes(config):
    """Sizes of the data set; only what has no sizes of its own is looked at on the disk."""
    known = KNOWN.get(config.dataset)
    if known is None:
        data = DATASETS[config.dataset](**config.options_for(DATASETS[config.dataset]))
        data = data.prepare(startup.Workers())
        examples = {split: data.examples(split) for split in ("train", "test")}
        return types.SimpleNamespace(image_shape=data.image_shape, classes=data.classes, **examples)
    side = config.image_size or 224
    return dataclasses.replace(known, image_shape=known.image_shape or (side, side, 3))


def _fewest_workers(given, data, speed, gradients, network):
    workers, hours = 1, []
    while workers <= _MOST_WORKERS and workers * given.batch_per_worker <= data.train:
        candidate = Candidate(given, workers, data)
        hours.append(forecast(candidate.plan, speed, gradients, network).hours)
        if hours[-1] <= given.target_hours:
            return candidate
        workers *= 2
    best = min(range(len(hours)), key=hours.__getitem__)
    raise ConfigError(
        f"--target_hours={given.target_hours:g} is out of reach: the best is {hours[best]:.3g} "
        f"hours on {2**best} workers, at {speed:,.1f} images/s a worker."
    )


def _report(chosen, given, model, speed, gradients, prediction):
    from trainers.footprint import footprint

    config, plan, recipe = chosen.config, chosen.plan, chosen.recipe
    memory = footprint(model, plan.micro_batch_size, config.mixed_precision)
    how = "given" if given.images_per_second else "measured here on random images"
    lines = [
        f"Recipe      {recipe.name}: {recipe.title}",
        *(f"            {line}" for line in _neighbour(chosen)),
        f"Optimizer   {config.optimizer}{_settings(config)}",
        f"Rate        {plan.peak_learning_rate:.4g} after {plan.warmup_updates} updates of "
        f"warm-up, then {config.lr_schedule}",
        f"Batch       {_batches(plan)}",
        f"Length      {config.epochs} epochs of {plan.train_examples:,} images, "
        f"{plan.updates:,} updates",
        f"Memory      {_size(memory.total)} a worker",
        f"  counted   parameters {_size(memory.parameters)}, gradients {_size(memory.gradients)}, "
        f"optimizer {_size(memory.state)}",
        f"  computed  activations of {plan.micro_batch_size} images "
        f"{_size(memory.activations)}; workspaces not counted",
        f"Speed       {speed:,.1f} images/s on one worker ({how})",
        f"Step        {prediction.own:.4g} s, then {prediction.exchange:.4g} s to exchange "
        f"{_size(gradients)} (predicted)",
        f"Efficiency  {prediction.efficiency:.1%} of {chosen.workers} workers, nothing overlapped "
        "(predicted)",
        f"Time        {prediction.hours:.3g} hours for all updates (predicted); evaluation, "
        "start-up and input not counted",
    ]
    return "\n".join(lines)


def _neighbour(chosen):
    """What is published, and how far this run is from it."""
    recipe, config = chosen.recipe, chosen.config
    theirs, batch = recipe.config, config.global_batch_size
    accuracy = "no accuracy" if recipe.published is None else f"top-1 {recipe.published:g} %"
    yield f"published {accuracy} by {recipe.source}"
    for what in ("dataset", "model"):
        if getattr(theirs, what) != getattr(config, what):
            yield f"published for --{what}={getattr(theirs, what)}, not {getattr(config, what)}"
    if batch == theirs.global_batch_size:
        return
    rule = _RULES.get(config.lr_scaling, f"--lr_scaling={config.lr_scaling}")
    yield f"moved from batch {theirs.global_batch_size:,} to {batch:,}: {rule}"
    if not 1 / _FAR <= batch / theirs.global_batch_size <= _FAR:
        yield "that is far from what was published: measure before a long run"


def _settings(config):
    names = ("momentum", "nesterov", "weight_decay", "trust_coefficient", "beta_1", "beta_2")
    set_ = ((name, getattr(config, name)) for name in names)
    return "".join(f", {name} {value}" for name, value in set_ if value is not None)


def _batches(plan):
    text = f"{plan.global_batch_size:,} = {plan.world_size} workers × {plan.local_batch_size}"
    if plan.micro_batch_size != plan.local_batch_size:
        text += f", {plan.micro_batch_size} at once"
    stages = zip(plan.batches, plan.batches[1:], plan.stage_epochs[1:], strict=False)
    grown = [f"; {batch:,} from epoch {epoch:g}" for last, batch, epoch in stages if batch != last]
    return text + "".join(grown)


def _size(count):
    """Bytes as 102.2 MB."""
    power = min(int(math.log(max(count, 1), 1000)), 4)
    return f"{count / 1000**power:.4g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _write(file, chosen):
    launcher = f"horovodrun -np {chosen.workers} " if chosen.workers > 1 else ""
    run = f"{launcher}python -m trainers.train --flagfile={file}"
    lines = [
        f"# {chosen.config.model} on {chosen.config.dataset}, planned from configs/"
        f"{chosen.recipe.name}.flags.",
        *(f"# {line}" for line in _neighbour(chosen)),
        f"#   {run}",
        *flags.to_flags(chosen.config),
    ]
    file.write_text("\n".join(lines) + "\n")
    print(f"Written to {file}. To run it:\n  {run}")


def main():
    command.run("trainers.plan", plan, flags.parse)


if __name__ == "__main__":
    main()
