"""What follows from the settings, the data set and the number of workers: printed and saved."""

import dataclasses

from tf_lars.schedules import legw, scale_learning_rate
from trainers.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Plan:
    """The numbers of a run. Rates are per update, sizes are examples."""

    world_size: int
    train_examples: int
    test_examples: int
    global_batch_size: int
    local_batch_size: int
    steps_per_epoch: int
    updates: int
    peak_learning_rate: float
    warmup_learning_rate: float
    warmup_updates: int
    bn_momentum: float
    bn_updates: int
    eval_every: int

    def peak_and_warmup(self):
        """The arguments that every schedule takes."""
        return {
            "learning_rate": self.peak_learning_rate,
            "warmup_steps": self.warmup_updates,
            "start_learning_rate": self.warmup_learning_rate,
        }

    def boundaries(self, milestones):
        """The updates at which `milestones`, in epochs, are reached."""
        return [round(epoch * self.steps_per_epoch) for epoch in milestones]


def derive(config, train_examples, test_examples, world_size):
    """The plan of a run.

    An epoch is N/B updates, rounded, at least one. The shuffled stream of examples goes on over the
    ends of the epochs, so that no example is dropped. BatchNorm's momentum lets its moving
    statistics forget over a tenth of the run: 1 − 10/updates, at most 0.99.

    Raises:
        ConfigError: the batch does not fit the data set or the number of workers, or the schedule
            does not fit the updates.
    """
    batch = config.global_batch_size
    if batch % world_size:
        below = batch - batch % world_size
        near = [size for size in (below, below + world_size) if size]
        raise ConfigError(
            f"--global_batch_size={batch} must be divisible by the {world_size} workers: "
            f"{' or '.join(map(str, near))}, say."
        )
    if batch > train_examples:
        raise ConfigError(
            f"--global_batch_size={batch} must be at most the {train_examples} training examples "
            f"of --dataset={config.dataset}."
        )
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
    momentum = config.bn_momentum
    if momentum is None:
        momentum = min(max(1 - 10 / updates, 0.0), 0.99)
    plan = Plan(
        world_size=world_size,
        train_examples=train_examples,
        test_examples=test_examples,
        global_batch_size=batch,
        local_batch_size=batch // world_size,
        steps_per_epoch=steps_per_epoch,
        updates=updates,
        peak_learning_rate=rate,
        warmup_learning_rate=config.warmup_learning_rate,
        warmup_updates=warmup_updates,
        bn_momentum=momentum,
        bn_updates=min(-(-config.precise_bn_examples // batch), steps_per_epoch),
        eval_every=config.eval_every or max(config.epochs // 20, 1),
    )
    if config.lr_schedule == "step":
        _check_boundaries(plan, config.lr_milestones)
    return plan


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
