"""One run, from its settings to its summary."""

import dataclasses
import functools
import math

import keras

from tf_lars.training.callbacks import PreciseBatchNorm, batch_norm_layers
from trainers import curves
from trainers.checkpoints import Checkpoints, Saving
from trainers.data.augment import random_flip, random_shift
from trainers.data.mixing import Mixing
from trainers.data.pipeline import training_data
from trainers.data.sharding import SampleStream
from trainers.derived import derive
from trainers.errors import ConfigError
from trainers.evaluation import TOP, Evaluator
from trainers.models import MODELS
from trainers.optimizers import OPTIMIZERS
from trainers.precision import compiles, precision
from trainers.progress import Progress, duration
from trainers.recording import Divergence, Evaluation, Recorder, Speed, images_per_second
from trainers.run_directory import RunDirectory, default_folder
from trainers.schedules import LR_SCHEDULES
from trainers.target import Target, reached

_CACHED_BYTES = 256 * 2**20


def train(config, dataset, workers, began):
    """Trains as `config` says, from where the run directory has got to.

    Args:
        config: a TrainConfig.
        dataset: its data set, loaded.
        workers: this worker's view of all workers.
        began: `time.time()` at the start of the process.

    Returns:
        The run's summary, the same on every worker; None if SIGTERM has stopped the run.

    Raises:
        ConfigError: the settings do not fit the data, the workers or the run directory.
    """
    plan = derive(config, dataset.examples("train"), dataset.examples("test"), workers.size)
    run = RunDirectory(config.run_dir or default_folder(config))
    if workers.horovod:
        workers.horovod.check_same_settings(dataclasses.asdict(config), "flags")
    done = _open(run, config, plan, workers)
    if done is not None:
        _say(workers, f"This run is finished.\n{_result(done, run)}")
        return done
    model, schedule = build(config, plan, dataset, workers)
    _say(workers, describe(config, plan, dataset, model, run))
    checkpoints = Checkpoints(run, model, workers)
    progress = checkpoints.restore() or {"epoch": 0, "rows": []}
    if progress["epoch"]:
        _say(workers, f"Going on after epoch {progress['epoch']}")
    recorder = Recorder(plan, schedule, began, progress["rows"], run if workers.rank == 0 else None)
    diverged, stopped = _fit(
        config, plan, dataset, workers, model, checkpoints, recorder, progress["epoch"]
    )
    if stopped:
        _say(workers, f"Stopped by SIGTERM. The same command goes on after epoch {stopped}.")
        return None
    summary = summarise(plan, recorder, diverged, config.target_top1)
    if workers.rank == 0:
        _write_results(config, plan, model, recorder.rows, summary, run)
    _say(workers, _result(summary, run))
    return summary


def build(config, plan, dataset, workers):
    """The compiled model and its learning-rate schedule."""
    keras.utils.set_random_seed(config.seed)
    with precision(config.mixed_precision):
        model = MODELS[config.model](dataset.image_shape, dataset.classes)
    for layer in batch_norm_layers(model):
        layer.momentum = plan.bn_momentum
    make_schedule = LR_SCHEDULES[config.lr_schedule]
    schedule = make_schedule(plan, **config.options_for(make_schedule))
    make_optimizer = OPTIMIZERS[config.optimizer]
    options = config.options_for(make_optimizer) | {"learning_rate": schedule}
    optimizer = make_optimizer(**options)
    if workers.horovod:
        optimizer = workers.horovod.DistributedOptimizer(optimizer)
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=config.label_smoothing
        ),
        metrics=_accuracies(dataset.classes),
        jit_compile=compiles(config.jit_compile),
    )
    return model, schedule


def _accuracies(classes):
    metrics = [keras.metrics.CategoricalAccuracy(name="top1")]
    if classes > TOP:
        metrics.append(keras.metrics.TopKCategoricalAccuracy(TOP, name="top5"))
    return metrics


def describe(config, plan, dataset, model, run):
    """The settings of a run and what follows from them, for a person."""
    shape = "×".join(map(str, dataset.image_shape))
    batch = f"{plan.world_size} workers × {plan.local_batch_size} images"
    if plan.world_size == 1:
        batch = f"{plan.local_batch_size} images on one worker"
    return (
        f"Training {config.model} ({model.count_params():,} parameters) on {config.dataset}: "
        f"{plan.train_examples:,} images of {shape}, {plan.test_examples:,} more to test\n"
        f"{config.epochs} epochs of {plan.steps_per_epoch} updates, each of {batch}\n"
        f"{config.optimizer}, learning rate {plan.peak_learning_rate:g} after "
        f"{plan.warmup_updates} updates of warm-up, then {config.lr_schedule}\n"
        f"Run directory: {run.folder}"
    )


def summarise(plan, recorder, diverged, target=None):
    """The content of summary.json; the time to the target counts from the start of the run."""
    rows = recorder.rows
    accuracies = [row["val_top1"] for row in rows if "val_top1" in row]
    top5 = [row["val_top5"] for row in rows if "val_top5" in row]
    at_target = reached(rows, target) or {}
    return {
        "final_top1": accuracies[-1] if accuracies else None,
        "best_top1": max(accuracies, default=None),
        "final_top5": top5[-1] if top5 else None,
        "target_top1": target,
        "seconds_to_target": at_target.get("seconds"),
        "epochs_to_target": at_target.get("epoch"),
        "images_per_second": images_per_second(rows),
        "updates": rows[-1]["updates"],
        "epochs": rows[-1]["epoch"],
        "global_batch_size": plan.global_batch_size,
        "world_size": plan.world_size,
        "wall_seconds": recorder.seconds(),
        "diverged": diverged,
    }


def _open(run, config, plan, workers):
    """Opens the run directory; the summary if the run is finished. Rank 0 looks, all learn."""
    problem = done = None
    if workers.rank == 0:
        try:
            done = run.open(config, plan)
        except ConfigError as error:
            problem = str(error)
    problem, done = workers.broadcast((problem, done))
    if problem is not None:
        raise ConfigError(problem)
    return done


def _fit(config, plan, dataset, workers, model, checkpoints, recorder, first_epoch):
    """Trains; gives whether the loss diverged, and the epoch of a stop by SIGTERM."""
    stream = SampleStream(plan.train_examples, config.seed)
    augment = functools.partial(_augment, config, Mixing(config.mixup, config.cutmix))
    batches = functools.partial(
        training_data, dataset, stream, plan.global_batch_size, workers, augment
    )
    prepare = functools.partial(_average_moving_statistics, model, workers)
    if plan.bn_updates:
        precise = PreciseBatchNorm(_bn_batches(batches, plan, dataset), workers.sum)
        precise.set_model(model)
        prepare = precise.update
    evaluator = Evaluator(model, dataset, plan.local_batch_size, workers)
    divergence = Divergence()
    saving = Saving(checkpoints, recorder, prepare)
    callbacks = [
        *_synchronisation(workers),
        Speed(plan.global_batch_size),
        Evaluation(evaluator, prepare, plan.eval_every, config.epochs),
        divergence,
        recorder,
        saving,
    ]
    if workers.rank == 0:
        callbacks.append(Progress(plan, config.epochs, config.progress, recorder.schedule))
    callbacks.append(Target(config.target_top1, recorder.rows))
    there = reached(recorder.rows, config.target_top1)
    model.fit(
        batches(first_step=first_epoch * plan.steps_per_epoch),
        initial_epoch=first_epoch,
        epochs=first_epoch if there else config.epochs,
        steps_per_epoch=plan.steps_per_epoch,
        callbacks=callbacks,
        verbose=0,
        shuffle=False,
    )
    _check_in_sync(model, workers)
    return divergence.diverged, saving.stopped_after


def _bn_batches(batches, plan, dataset):
    """The batches from which BatchNorm's statistics are estimated, the same ones each time.

    They are kept in memory if they are small, float32 of small images; thousands of large images
    would take gigabytes on each worker, and are read and decoded again.
    """
    images = batches(steps=plan.bn_updates)
    size = 4 * plan.bn_updates * plan.local_batch_size * math.prod(dataset.image_shape)
    return images.cache() if size <= _CACHED_BYTES else images


def _check_in_sync(model, workers):
    """All workers have made the same updates, or else what they trained is worth nothing."""
    if workers.horovod:
        report = workers.horovod.check_in_sync(model)
        if not report:
            raise RuntimeError(str(report))
        _say(workers, f"The weights are identical on all {workers.size} workers")


def _write_results(config, plan, model, rows, summary, run):
    size = f"batch {plan.global_batch_size}, workers {plan.world_size}"
    title = f"{config.model} on {config.dataset}: {config.optimizer}, {size}"
    run.write("curves.png", lambda path: curves.draw(rows, title, path))
    run.write("final.keras", lambda path: _without_optimizer(model).save(path))
    run.write_json("summary.json", summary)  # the last: it says that the run is finished


def _augment(config, mixing, images, labels, seed):
    images = random_shift(images, config.random_shift, seed)
    if config.random_flip:
        images = random_flip(images, [seed[1], seed[0]])
    return mixing(images, labels, seed)


def _synchronisation(workers):
    if not workers.horovod:
        return []
    callbacks = workers.horovod.callbacks
    return [callbacks.BroadcastGlobalVariablesCallback(0), callbacks.MetricAverageCallback()]


def _average_moving_statistics(model, workers):
    """Gives all workers the mean of their BatchNorm statistics, which drift apart in training."""
    for layer in batch_norm_layers(model):
        for variable in (layer.moving_mean, layer.moving_variance):
            total = workers.sum(keras.ops.convert_to_numpy(variable).astype("float64"))
            variable.assign((total / workers.size).astype("float32"))


def _without_optimizer(model):
    """The same network, not compiled: what is saved needs neither Horovod nor the optimizer."""
    copy = type(model).from_config(model.get_config())  # clone_model would compile it again
    copy.set_weights(model.get_weights())
    return copy


def _result(summary, run):
    speed = f"{summary['images_per_second']:,.0f} images/s"
    lines = [
        f"{summary['updates']} updates in {duration(summary['wall_seconds'])}, {speed}",
        f"Curves: {run.path('curves.png')}",
    ]
    if summary["diverged"]:
        lines.append(
            f"DIVERGED in epoch {summary['epochs']}: the training loss is no longer finite. "
            "Lower --learning_rate or lengthen --warmup_epochs."
        )
    else:
        final, best = summary["final_top1"], summary["best_top1"]
        lines.append(f"Top-1 on the test images: {final:.2%} (best {best:.2%})")
        if summary["final_top5"] is not None:
            lines[-1] += f", top-5 {summary['final_top5']:.2%}"
        if summary["target_top1"] is not None:
            lines.append(_time_to_target(summary))
    return "\n".join(lines)


def _time_to_target(summary):
    target = f"The target of {summary['target_top1']:.2%}"
    if summary["seconds_to_target"] is None:
        return f"{target} was not reached"
    epochs, seconds = summary["epochs_to_target"], duration(summary["seconds_to_target"])
    return f"{target} was reached after {epochs} epochs and {seconds}, the start-up included"


def _say(workers, text):
    if workers.rank == 0:
        print(text, flush=True)
