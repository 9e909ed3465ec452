"""One run, from its settings to its summary."""

import dataclasses
import functools
import math

import keras

from tf_lars.training.callbacks import PreciseBatchNorm, batch_norm_layers
from tf_lars.training.large_batch_model import large_batch
from tf_lars.training.layer_report import LayerReport
from tf_lars.training.noise_scale import NoiseScale
from trainers.agreement import Agreement, Signals
from trainers.checkpoints import Checkpoints
from trainers.data.augment import random_flip, random_shift
from trainers.data.mixing import Mixing
from trainers.data.pipeline import growing_data, training_data
from trainers.data.sharding import SampleStream
from trainers.derived import derive
from trainers.divergence import Diverged, Divergence
from trainers.evaluation import TOP, Evaluator
from trainers.interval import Interval
from trainers.network import network
from trainers.optimizers import OPTIMIZERS
from trainers.position import Position
from trainers.precision import compiles
from trainers.progress import Progress
from trainers.recording import Evaluation, Recorder, Speed
from trainers.results import describe, result, summarise, write_results
from trainers.run_directory import RunDirectory, default_folder
from trainers.schedules import LR_SCHEDULES
from trainers.survival import Stopped, Survival
from trainers.target import Target, reached

_CACHED_BYTES = 256 * 2**20


def train(config, dataset, workers, began, membership=None):
    """Trains as `config` says, from where the run directory has got to.

    Args:
        config: a TrainConfig.
        dataset: its data set, loaded.
        workers: this worker's view of all workers.
        began: `time.time()` at the start of the process.
        membership: the Membership of an elastic job.

    Returns:
        The run's summary, the same on every worker; None if a signal has stopped the run.

    Raises:
        ConfigError: the settings do not fit the data, the workers or the run directory.
        WriteError: a file of the run cannot be written.
        HostsUpdatedInterrupt: workers join an elastic job.
    """
    plan = derive(config, dataset.examples("train"), dataset.examples("test"), workers.size)
    run = RunDirectory(config.run_dir or default_folder(config))
    if workers.horovod:
        workers.horovod.check_same_settings(dataclasses.asdict(config), "flags")
    try:
        done = workers.by_rank_0(run.open, config, plan)
        if done is not None:
            _say(workers, f"This run is finished.\n{result(done, run)}")
            return done
        return _go_on(config, plan, dataset, workers, began, membership, run)
    finally:
        run.close()


def _go_on(config, plan, dataset, workers, began, membership, run):
    """Trains from the newest checkpoint on; see `train`."""
    model, schedule = build(config, plan, dataset, workers)
    _say(workers, describe(config, plan, dataset, model, run))
    checkpoints = Checkpoints(run, model, workers, config.keep_checkpoints)
    progress = checkpoints.restore() or {"update": 0, "rows": [], "states": {}}
    position = Position(plan.timetable, progress["update"])
    _say_where_from(workers, progress, position)
    recorder = Recorder(position, schedule, began, workers, run, progress["rows"])
    divergence = None
    signals = Signals()
    survival = Survival(
        checkpoints,
        recorder,
        Interval.parse("checkpoint_every", config.checkpoint_every),
        Agreement(workers),
        signals,
        membership,
    )
    try:
        with signals.heeded():
            _fit(config, plan, dataset, workers, model, survival, progress["states"])
    except Stopped as stopped:
        _say(
            workers,
            f"Stopped by {stopped} after update {position.update} of {plan.updates}, in epoch "
            f"{position.epoch + 1}. The same command goes on from there.",
        )
        workers.meet()
        return None
    except Diverged as diverged:
        divergence = str(diverged)
    finally:
        checkpoints.close()
        recorder.close()
    summary = summarise(plan, recorder, divergence, config.target_top1)
    workers.by_rank_0(write_results, config, plan, model, recorder.rows, summary, run)
    _say(workers, result(summary, run))
    workers.meet()
    return summary


def build(config, plan, dataset, workers):
    """The compiled model and its learning-rate schedule."""
    keras.utils.set_random_seed(config.seed)
    model = network(config, dataset.image_shape, dataset.classes)
    for layer in batch_norm_layers(model):
        layer.momentum = plan.bn_momentum
    mean_norms = config.mean_norms_used()
    if config.micro_batch_size or config.noise_scale or mean_norms:
        model = large_batch(model, config.micro_batch_size, mean_norms or "microbatch")
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


def _fit(config, plan, dataset, workers, model, survival, states):
    """Trains to the end. Raises what Survival and Divergence do where the run ends before."""
    recorder, checkpoints = survival.recorder, survival.checkpoints
    position, timetable = recorder.position, plan.timetable
    stream = SampleStream(plan.train_examples, config.seed)
    augment = functools.partial(_augment, config, Mixing(config.mixup, config.cutmix))
    prepare = functools.partial(_average_moving_statistics, model, workers)
    if plan.bn_updates:
        batches = _bn_batches(dataset, stream, plan, workers, augment)
        precise = PreciseBatchNorm(batches, workers.sum)
        precise.set_model(model)
        prepare = precise.update
    evaluator = Evaluator(model, dataset, plan.micro_batch_size, workers)
    noise = NoiseScale(log_dir=recorder.board_folder) if config.noise_scale else None
    divergence = Divergence(dataset.classes, recorder.schedule, position)
    speed = Speed(position)
    things = {"speed": speed, "seconds": recorder, "noise_scale": noise, "divergence": divergence}
    things["mean_norms"] = getattr(model, "mean_norms", None)
    survival.watch(divergence, _remembering(things, states))
    callbacks = [
        position,
        *_synchronisation(workers, checkpoints.moving),
        speed,
        *([noise] if noise else []),
        Evaluation(evaluator, prepare, plan.eval_every, config.epochs),
        recorder,
        survival,
        divergence,
    ]
    if workers.rank == 0:
        callbacks.append(Progress(position, config.epochs, config.progress, recorder.schedule))
        if config.layer_report_every is not None:
            callbacks.append(LayerReport(recorder.run.folder, config.layer_report_every))
    callbacks.append(Target(config.target_top1, recorder.rows))
    there = reached(recorder.rows, config.target_top1)
    first_epoch = position.epoch
    # fit wants to see a batch, also where no update is left
    left = timetable.left(min(position.update, timetable.updates - 1))
    model.fit(
        growing_data(dataset, stream, left, workers, augment),
        initial_epoch=first_epoch,
        epochs=first_epoch if there else config.epochs,
        steps_per_epoch=timetable.longest_epoch,  # shorter ones are ended by the Position
        callbacks=callbacks,
        verbose=0,
        shuffle=False,
    )
    checkpoints.finish()
    _check_in_sync(model, workers)


def _remembering(things, states):
    """Those of {name: thing} that have a state to save with a checkpoint, given back theirs."""
    remembering = {name: thing for name, thing in things.items() if hasattr(thing, "get_state")}
    for name, state in states.items():
        remembering[name].set_state(state)
    return remembering


def _bn_batches(dataset, stream, plan, workers, augment):
    """The batches from which BatchNorm's statistics are estimated, the same ones each time.

    They are kept in memory if they are small, float32 of small images; thousands of large images
    would take gigabytes on each worker, and are read and decoded again.
    """
    batch = plan.micro_batch_size
    images = training_data(
        dataset, stream, batch * workers.size, workers, augment, steps=plan.bn_updates
    )
    size = 4 * plan.bn_updates * batch * math.prod(dataset.image_shape)
    return images.cache() if size <= _CACHED_BYTES else images


def _check_in_sync(model, workers):
    """All workers have made the same updates, or else what they trained is worth nothing."""
    if workers.horovod:
        report = workers.horovod.check_in_sync(model)
        if not report:
            raise RuntimeError(str(report))
        _say(workers, f"The weights are identical on all {workers.size} workers")


def _augment(config, mixing, images, labels, seed):
    images = random_shift(images, config.random_shift, seed)
    if config.random_flip:
        images = random_flip(images, [seed[1], seed[0]])
    return mixing(images, labels, seed)


def _synchronisation(workers, own):
    """The callbacks that keep workers alike; each keeps what is its `own`, a list of variables."""
    if not workers.horovod:
        return []
    callbacks = workers.horovod.callbacks
    return [
        callbacks.BroadcastGlobalVariablesCallback(0, local_variables=own),
        callbacks.MetricAverageCallback(),
    ]


def _average_moving_statistics(model, workers):
    """Gives all workers the mean of their BatchNorm statistics, which drift apart in training."""
    if workers.horovod:
        workers.horovod.callbacks.average_batch_norm_statistics(model)


def _say_where_from(workers, progress, position):
    """Where a run goes on, and what another number of workers means for it."""
    if not position.update:
        return
    text = f"Going on after update {position.update} of {position.timetable.updates}"
    before = progress["world_size"]
    if before != workers.size:
        text += (
            f", with {workers.size} workers in place of {before}: the same examples at the same "
            "rates, but sums are rounded differently, so the weights will not be the same bit for "
            "bit"
        )
    _say(workers, text)


def _say(workers, text):
    if workers.rank == 0:
        print(text, flush=True)
