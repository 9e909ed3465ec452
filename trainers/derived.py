"""What follows from the settings, the data set and the number of workers: printed and saved."""

import dataclasses
import functools

from tf_lars.schedules import WarmupStep, grow_batch, legw, scale_learning_rate
from trainers.errors import ConfigError
from trainers.timetable import Timetable


@dataclasses.dataclass(frozen=True)
class Plan:
    """The numbers of a run. Rates are per update, sizes are examples.

    A batch that grows has a stage for each size: `batches`, `learning_rates` and the epochs at
    which they begin, `stage_epochs`. The other figures are those of the first stage.
    """

    epochs: int
    world_size: int
    train_examples: int
    test_examples: int
    global_batch_size: int
    local_batch_size: int
    micro_batch_size: int
    steps_per_epoch: int
    updates: int
    peak_learning_rate: float
    warmup_learning_rate: float
    warmup_updates: int
    bn_momentum: float
    bn_updates: int
    eval_every: int
    batches: tuple
    stage_epochs: tuple
    learning_rates: tuple

    @functools.cached_property
    def timetable(self):
        """The Timetable of the run."""
        return Timetable(self.train_examples, self.epochs, self.batches, self.stage_epochs)

    def peak_and_warmup(self):
        """The arguments that every schedule takes."""
        return {
            "learning_rate": self.peak_learning_rate,
            "warmup_steps": self.warmup_updates,
            "start_learning_rate": self.warmup_learning_rate,
        }

    def boundaries(self, milestones):
        """The updates at which `milestones`, in epochs, are reached."""
        return [self.timetable.update_at(epoch) for epoch in milestones]


def derive(config, train_examples, test_examples, world_size):
    """The plan of a run.

    An epoch is N/B updates, rounded, at least one. The shuffled stream of examples goes on over the
    ends of the epochs, so that no example is dropped. BatchNorm's momentum lets its moving
    statistics forget over a tenth of the run: 1 − 10/(their moves), at most 0.99; they move once a
    micro-batch.

    Raises:
        ConfigError: the batch does not fit the data set or the number of workers, the micro-batch
            not the batch, or the schedule not the updates; statistics are asked for where there is
            nothing to take them from.
    """
    batch = config.global_batch_size
    _check_batch(config, batch, train_examples, world_size)
    local = batch // world_size
    _check_parts(config, local, world_size)
    steps_per_epoch = max(round(train_examples / batch), 1)
    updates = config.epochs * steps_per_epoch
    rate, warmup_epochs = config.learning_rate, config.warmup_epochs
    if config.lr_scaling == "legw":
        rate, warmup_epochs = legw(rate, warmup_epochs, batch, config.base_batch_size)
    else:
        rate = scale_learning_rate(rate, batch, config.base_batch_size, config.lr_scaling)
    warmup_updates = round(warmup_epochs * steps_per_epoch)
    if warmup_updates > updates:
        raise ConfigError(
            f"--lr_scaling=legw lengthens --warmup_epochs={config.warmup_epochs:g} to "
            f"{warmup_epochs:g}, more than --epochs={config.epochs}."
        )
    micro = config.micro_batch_size or local
    momentum = config.bn_momentum
    plan = Plan(
        epochs=config.epochs,
        world_size=world_size,
        train_examples=train_examples,
        test_examples=test_examples,
        global_batch_size=batch,
        local_batch_size=local,
        micro_batch_size=micro,
        steps_per_epoch=steps_per_epoch,
        updates=updates,
        peak_learning_rate=rate,
        warmup_learning_rate=config.warmup_learning_rate,
        warmup_updates=warmup_updates,
        bn_momentum=0.0 if momentum is None else momentum,
        bn_updates=_bn_updates(train_examples, config.precise_bn_examples, micro * world_size),
        eval_every=config.eval_every or max(config.epochs // 20, 1),
        batches=(batch,),
        stage_epochs=(0,),
        learning_rates=(rate,),
    )
    if config.lr_schedule == "step":
        _check_boundaries(plan, config.lr_milestones)
    if config.grow_batch_factor is not None:
        plan = _grown(plan, config)
    if momentum is None:
        moves = sum(s.updates * -(-s.batch // (world_size * micro)) for s in plan.timetable.left(0))
        plan = dataclasses.replace(plan, bn_momentum=min(max(1 - 10 / moves, 0.0), 0.99))
    return plan


def _bn_updates(examples, wanted, batch):
    """Batches that hold `wanted` examples, or all `examples`."""
    return min(-(-wanted // batch), max(round(examples / batch), 1))


def _check_batch(config, batch, examples, world_size):
    if batch % world_size:
        below = batch - batch % world_size
        near = [size for size in (below, below + world_size) if size]
        fewer = max(n for n in range(1, world_size) if batch % n == 0)
        raise ConfigError(
            f"--global_batch_size={batch} must be divisible by the {world_size} workers: "
            f"{' or '.join(map(str, near))}, say; or start {fewer} workers."
        )
    if batch > examples:
        raise ConfigError(
            f"--global_batch_size={batch} must be at most the {examples} training examples "
            f"of --dataset={config.dataset}."
        )


def _check_parts(config, local, world_size):
    """The micro-batches fit a worker's batch, and who compares parts of a batch has two of them."""
    micro = config.micro_batch_size
    if micro is not None and micro > local:
        of = f"each of the {world_size} workers takes of " if world_size > 1 else ""
        raise ConfigError(
            f"--micro_batch_size={micro} must be at most the {local} examples that {of}"
            f"{'' if of else 'make up '}--global_batch_size={config.global_batch_size}."
        )
    if world_size > 1:
        return
    source = config.mean_norms_used()
    if source == "worker":
        raise ConfigError(
            "--mean_norms=worker needs several workers (horovodrun -np N) and there is one. "
            "Allowed on one worker: microbatch and two_batch with --micro_batch_size, per_example."
        )
    asking = [f"--mean_norms={source}"] if source in ("microbatch", "two_batch") else []
    asking += ["--noise_scale"] if config.noise_scale else []
    if asking and (micro or local) == local:
        how = "is not set" if micro is None else f"is {micro}"
        raise ConfigError(
            f"{' and '.join(asking)}: this compares parts of the batch, and one worker with one "
            f"micro-batch of {local} has but one (--micro_batch_size {how}). Set "
            f"--micro_batch_size to at most {max(local // 2, 1)}, or start several workers."
        )


def _grown(plan, config):
    """The plan with the batch that grows at the milestones, see tf_lars.schedules.grow_batch.

    Sizes are multiples of the first batch, so that all are shared by whatever number of workers
    shares the first, and a run may go on with another number.
    """
    batch, examples = plan.global_batch_size, plan.train_examples
    cap, given = config.max_batch_size, f"--max_batch_size={config.max_batch_size}"
    if cap is None:
        cap = examples // 10
        given = f"--max_batch_size, by default a tenth of the examples ({cap}),"
    if cap > examples:
        raise ConfigError(
            f"{given} must be at most the {examples} training examples of "
            f"--dataset={config.dataset}: a batch cannot grow past them."
        )
    if cap < 2 * batch:
        raise ConfigError(
            f"{given} must be at least {2 * batch}: batches grow in multiples of "
            f"--global_batch_size={batch}."
        )
    decay = WarmupStep(
        plan.peak_learning_rate,
        plan.boundaries(config.lr_milestones),
        factor=0.1 if config.lr_factor is None else config.lr_factor,
        warmup_steps=plan.warmup_updates,
    )
    try:
        grown = grow_batch(
            decay,
            config.grow_batch_factor,
            cap,
            batch=batch,
            examples=examples,
            multiple_of=batch,
        )
    except ValueError as error:
        raise ConfigError(f"--grow_batch_factor={config.grow_batch_factor:g}: {error}") from error
    plan = dataclasses.replace(
        plan,
        batches=grown.batch_size.batches,
        stage_epochs=(0, *config.lr_milestones),
        learning_rates=grown.learning_rate.rates,
    )
    ends = plan.timetable.ends
    if any(a >= b for a, b in zip((0, *ends), ends, strict=False)) or not all(
        stretch.updates for stretch in plan.timetable.stretches
    ):
        raise ConfigError(
            f"--grow_batch_factor={config.grow_batch_factor:g} grows the batch to "
            f"{', '.join(map(str, plan.batches[1:]))} of {examples} examples: an epoch, or the "
            "time between two --lr_milestones, would have no update. Lower --max_batch_size."
        )
    return dataclasses.replace(plan, updates=plan.timetable.updates)


def _check_boundaries(plan, milestones):
    """Milestones that are apart in epochs may meet once they are rounded to updates."""
    boundaries = plan.boundaries(milestones)
    given = f"--lr_milestones={','.join(f'{epoch:g}' for epoch in milestones)}"
    at = f"{given} are updates {', '.join(map(str, boundaries))} of {plan.updates}"
    if boundaries[0] < 1 or boundaries[-1] >= plan.updates or boundaries != sorted(set(boundaries)):
        raise ConfigError(
            f"{at}, at {plan.steps_per_epoch} an epoch: they must be different, and lie between "
            "the first update and the last."
        )
    if boundaries[0] < plan.warmup_updates:
        raise ConfigError(
            f"{at}, but the warm-up takes {plan.warmup_updates}: it must end before the first. "
            "--lr_scaling=legw lengthens --warmup_epochs with the batch."
        )
