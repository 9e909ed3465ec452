"""What a run's settings must keep to; each check raises a ConfigError that names the flag."""

import math

from trainers.errors import ConfigError, check_choice


def check_option(name, kind, rules, value):
    """One option's value is of its type, one of its choices and in its range.

    Args:
        name: of the flag, without dashes.
        kind: the Python type.
        rules: what `trainers.config` says of the option: choices, above, low, high.
        value: what was given.
    """
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"--{name} takes {kind.__name__}; got {value!r}.")
    if rules["choices"] is not None:
        check_choice(name, value, list(rules["choices"]))
    if kind is float and not math.isfinite(value):
        raise ConfigError(f"--{name} must be a finite number; got {value}.")
    if rules["above"] is not None and not value > rules["above"]:
        raise ConfigError(f"--{name} must be greater than {rules['above']:g}; got {value}.")
    if rules["low"] is not None and not value >= rules["low"]:
        raise ConfigError(f"--{name} must be at least {rules['low']:g}; got {value}.")
    if rules["high"] is not None and not value <= rules["high"]:
        raise ConfigError(f"--{name} must be at most {rules['high']:g}; got {value}.")


def check_together(config):
    """No option is without effect, or without sense, beside the others."""
    if config.momentum_rule == "update_norm" and config.optimizer == "clars":
        raise ConfigError(
            "--momentum_rule=update_norm divides by the norm of the update, clars by mean norms of "
            "gradients: give scaled, trust_scaled or unscaled."
        )
    if config.mean_norms is not None and config.optimizer != "clars":
        raise ConfigError(
            f"--mean_norms={config.mean_norms} has no effect with --optimizer={config.optimizer}: "
            "only clars divides by mean norms. Leave it out."
        )
    if config.max_batch_size is not None and config.grow_batch_factor is None:
        raise ConfigError(
            f"--max_batch_size={config.max_batch_size} has no effect without --grow_batch_factor."
        )
    if config.grow_batch_factor is not None and not (config.lr_factor or 0.1) < 1:
        raise ConfigError(
            f"--lr_factor={config.lr_factor:g} must be below 1 with --grow_batch_factor: the batch "
            "grows in place of a rate that falls."
        )
    if config.layer_report_every is not None and config.optimizer == "sgd":
        raise ConfigError(
            f"--layer_report_every={config.layer_report_every} has no effect with --optimizer=sgd, "
            "which takes no trust ratios. Leave it out."
        )


def check_milestones(milestones, warmup_epochs, epochs):
    """The milestones, in epochs, rise between the warm-up and the end."""
    if not milestones:
        raise ConfigError("--lr_milestones must be given with --lr_schedule=step: 30,60,80, say.")
    if list(milestones) != sorted(set(milestones)) or not warmup_epochs <= milestones[0]:
        raise ConfigError(
            f"--lr_milestones must rise and stand after the warm-up "
            f"({warmup_epochs:g} epochs); got {milestones}."
        )
    if milestones[0] <= 0 or milestones[-1] >= epochs:
        raise ConfigError(
            f"--lr_milestones must lie between 0 and --epochs={epochs}; got {milestones}."
        )
