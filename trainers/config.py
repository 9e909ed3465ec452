"""The settings of a run: one frozen, validated value.

Every option is declared here, once; trainers/flags.py makes the command-line flags from it. Nothing
here imports TensorFlow, so that bad input is answered at once.
"""

import dataclasses
import inspect

from trainers.checks import check_milestones, check_option, check_together
from trainers.data import DATASETS
from trainers.errors import ConfigError
from trainers.interval import Interval
from trainers.models import MODELS
from trainers.optimizers import OPTIMIZERS
from trainers.schedules import LR_SCHEDULES


def _option(help, default=dataclasses.MISSING, *, choices=None, above=None, low=None, high=None):
    """A field; `above` is an exclusive bound, `low` and `high` are inclusive."""
    rules = {"help": help, "choices": choices, "above": above, "low": low, "high": high}
    return dataclasses.field(default=default, metadata=rules)


def option_type(field):
    """The Python type of an option's value: `int` for a field annotated `int | None`."""
    return next(t for t in getattr(field.type, "__args__", (field.type,)) if t is not type(None))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What `trainers.train` is asked for. `None` is derived or left to the library's default.

    Raises:
        ConfigError: a value is unknown or out of its range, or two values contradict each other.
    """

    # Data
    dataset: str = _option("Data set to train on.", choices=DATASETS)
    data_dir: str | None = _option("Where the data lies or is prepared, if not in a package.", None)
    global_batch_size: int = _option("Examples in one update, over all workers.", low=1)
    micro_batch_size: int | None = _option(
        "Examples that a worker takes through the network at once, adding up their gradients; its "
        "whole part of the batch if unset. BatchNorm sees one micro-batch.",
        None,
        low=1,
    )

    image_size: int | None = _option("Side of training images; 224 if unset.", None, low=1)
    eval_image_size: int | None = _option(
        "Side of test images; --image_size if unset.", None, low=1
    )
    crop: str | None = _option(
        "Window of a large image: inception (8 to 100 % of the area, aspect 3/4 to 4/3), lars "
        "(warped to 256/224 of the size) or whole; inception if unset.",
        None,
        choices=("inception", "lars", "whole"),
    )
    max_corrupt_images: int | None = _option(
        "Images that a worker may leave out because they do not decode; 100 if unset.", None, low=0
    )
    synthetic_classes: int | None = _option("Classes of noise; 1000 if unset.", None, low=1)
    synthetic_examples: int | None = _option("Images of noise; ImageNet's if unset.", None, low=1)
    random_shift: int = _option("Shift training images by up to this many pixels.", 0, low=0)
    random_flip: bool = _option("Mirror training images at random.", False)
    rand_augment: float | None = _option(
        "RandAugment: strength of two random changes of a large image.", None, low=0.0, high=1.0
    )
    mixup: float = _option("MixUp: α of the shares; 0 for none.", 0.0, low=0.0, high=1.0)
    cutmix: float = _option("CutMix: bound of the Beta's a; 0 for none.", 0.0, low=0.0, high=1.0)

    # Model
    model: str = _option("Network to train.", choices=MODELS)
    label_smoothing: float = _option("Share of the target spread evenly.", 0.0, low=0.0, high=0.99)
    bn_momentum: float | None = _option(
        "Momentum of BatchNorm's moving statistics; derived from the number of updates.",
        None,
        low=0.0,
        high=0.9999,
    )
    precise_bn_examples: int = _option(
        "Training examples, over all workers, from which BatchNorm's statistics are estimated "
        "before an evaluation; 0 averages the workers' moving statistics instead.",
        8192,
        low=0,
    )

    probe_of: str | None = _option(
        "Freeze the network in this file (FILE.keras) and train a new last layer behind it.", None
    )
    mixed_precision: str = _option(
        "Number format of the layers; variables stay float32. float16 scales the loss.",
        "none",
        choices=("none", "bfloat16", "float16"),
    )
    jit_compile: str = _option(
        "Forward and backward pass under XLA: on, off, or auto, which is on for a GPU.",
        "auto",
        choices=("auto", "on", "off"),
    )

    # Optimizer
    optimizer: str = _option("Update rule.", choices=OPTIMIZERS)
    learning_rate: float = _option("Learning rate at --base_batch_size.", above=0.0)
    base_batch_size: int = _option("Batch size that --learning_rate is meant for.", 256, low=1)
    lr_scaling: str = _option(
        "How the rate follows the batch: linear (k), sqrt (√k), legw (√k, warm-up k), none.",
        "none",
        choices=("none", "linear", "sqrt", "legw"),
    )
    momentum: float | None = _option("Momentum; 0.9 if unset.", None, low=0.0, high=0.9999)
    nesterov: bool | None = _option("Nesterov's form of momentum.", None)
    weight_decay: float | None = _option(
        "Decay of weights with 2 or more axes only, with clars or --adapt_1d of all; 0 if unset.",
        None,
        low=0.0,
    )
    trust_coefficient: float | None = _option(
        "LARS and CLARS: η; 0.001 and 0.01 if unset.", None, above=0.0
    )
    momentum_rule: str | None = _option(
        "LARS and CLARS: where rate and trust ratio enter the momentum; scaled and unscaled if "
        "unset, update_norm with LARS alone.",
        None,
        choices=("scaled", "trust_scaled", "unscaled", "update_norm"),
    )
    denominator: str | None = _option(
        "LARS: norm below the trust ratio; sum if unset.", None, choices=("sum", "joint")
    )
    mean_norms: str | None = _option(
        "CLARS: whose mean gradient norm is below the trust ratio: that of micro-batches, of "
        "workers, of examples as two batch sizes tell it, or of eight examples, measured every ten "
        "updates; microbatch if unset.",
        None,
        choices=("microbatch", "worker", "two_batch", "per_example"),
    )
    max_trust_ratio: float | None = _option(
        "CLARS: largest trust ratio; 0.1 if unset.", None, above=0.0
    )
    adapt_1d: bool | None = _option(
        "LARS: let biases and BatchNorm decay and be adapted as well, as in the paper.", None
    )
    beta_1: float | None = _option("LAMB: β₁; 0.9 if unset.", None, low=0.0, high=0.9999)
    beta_2: float | None = _option("LAMB: β₂; 0.999 if unset.", None, low=0.0, high=0.999999)
    bias_correction: bool | None = _option("LAMB: divide by 1 − βᵗ; true if unset.", None)
    global_clipnorm: float | None = _option(
        "LAMB: largest norm of all gradients together; no bound if unset.", None, above=0.0
    )

    ema_momentum: float | None = _option(
        "Evaluate and export averages of the weights, w̄ = m·w̄ + (1 − m)·w; none if unset.",
        None,
        above=0.0,
        high=0.999999,
    )

    # Schedule
    epochs: int = _option("Passes over the training data.", low=1)
    lr_schedule: str = _option("Decay after the warm-up.", "polynomial", choices=LR_SCHEDULES)
    warmup_epochs: float = _option("Epochs of rising learning rate.", 0.0, low=0.0)
    warmup_learning_rate: float = _option("Learning rate at update 0 of a warm-up.", 0.0, low=0.0)
    end_learning_rate: float | None = _option("Rate at the end; 0 if unset.", None, low=0.0)
    lr_power: float | None = _option("Polynomial: exponent; 2 if unset.", None, above=0.0)
    decay_from: str | None = _option(
        "Polynomial, cosine: count the decay from the end of the warm-up or from update 0; "
        "warmup if unset.",
        None,
        choices=("warmup", "start"),
    )
    lr_milestones: tuple | None = _option("Step: epochs at which the rate falls.", None)
    lr_factor: float | None = _option("Step: what the rate is multiplied by; 0.1.", None, above=0.0)
    grow_batch_factor: float | None = _option(
        "Step: multiply the batch by this at --lr_milestones, so that only what is left of "
        "--lr_factor falls on the rate (Smith et al. 2018); the batch stays if unset.",
        None,
        above=1.0,
    )
    max_batch_size: int | None = _option(
        "Step: the largest batch to grow to; a tenth of the training examples if unset.",
        None,
        low=1,
    )

    # Run
    seed: int = _option("Seed of weights, shuffle and masks.", 0, low=0, high=2**31 - 1)
    eval_every: int | None = _option("Epochs between evaluations; a twentieth of all.", None, low=1)
    target_top1: float | None = _option(
        "Stop at the first evaluation with this top-1 accuracy on the test images, 0.759 say.",
        None,
        above=0.0,
        high=1.0,
    )
    noise_scale: bool = _option(
        "Measure the gradient noise scale (McCandlish et al. 2018), the batch beyond which updates "
        "gain little; needs micro-batches or several workers.",
        False,
    )
    layer_report_every: int | None = _option(
        "Updates between records of each layer's trust ratio and norms, for TensorBoard and "
        "layers.jsonl; none if unset. Not with sgd.",
        None,
        low=1,
    )
    checkpoint_every: str = _option(
        "Updates (500), seconds (90s) or minutes (10m) between checkpoints; there is one after "
        "each evaluation as well.",
        "10m",
    )
    keep_checkpoints: int = _option(
        "Newest checkpoints to keep, beside that of the best evaluation.", 2, low=1
    )
    elastic: bool = _option(
        "Go on when workers are lost or join, in a job that horovodrun has started with "
        "--host-discovery-script.",
        False,
    )
    run_dir: str | None = _option(
        "Folder of the run; runs/DATASET_MODEL_OPTIMIZER_bBATCH if unset, with _seedN behind it "
        "for a seed other than 0.",
        None,
    )
    progress: str = _option(
        "How progress is shown: auto, bar, lines or none.",
        "auto",
        choices=("auto", "bar", "lines", "none"),
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                check_option(field.name, option_type(field), field.metadata, value)
        self._check_taken("optimizer", OPTIMIZERS, _OPTIMIZER_OPTIONS)
        self._check_taken("lr_schedule", LR_SCHEDULES, _SCHEDULE_OPTIONS)
        self._check_taken("dataset", DATASETS, _DATA_OPTIONS)
        if self.warmup_epochs > self.epochs:
            raise ConfigError(
                f"--warmup_epochs={self.warmup_epochs:g} must be at most --epochs={self.epochs}."
            )
        if self.lr_schedule == "step":
            check_milestones(self.lr_milestones, self.warmup_epochs, self.epochs)
        check_together(self)
        Interval.parse("checkpoint_every", self.checkpoint_every)

    def mean_norms_used(self):
        """Where the optimizer gets its mean norms, a choice of --mean_norms; None if nowhere."""
        return (self.mean_norms or "microbatch") if self.optimizer == "clars" else None

    @classmethod
    def from_values(cls, values):
        """A config from {option: value}; says which required options are missing."""
        missing = [
            f"--{field.name}"
            for field in dataclasses.fields(cls)
            if field.default is dataclasses.MISSING and values.get(field.name) is None
        ]
        if missing:
            raise ConfigError(
                f"{', '.join(missing)} must be given: --flagfile=configs/NAME.flags "
                "sets what a run needs."
            )
        return cls(**values)

    def options_for(self, function):
        """The options that `function` takes by name and that are set, as keyword arguments."""
        taken = inspect.signature(function).parameters
        values = {name: getattr(self, name) for name in taken if hasattr(self, name)}
        return {name: value for name, value in values.items() if value is not None}

    def _check_taken(self, flag, functions, options):
        chosen = getattr(self, flag)
        taken = inspect.signature(functions[chosen]).parameters
        for option in options:
            value = getattr(self, option)
            if value is not None and option not in taken:
                raise ConfigError(
                    f"--{option}={value} has no effect with --{flag}={chosen}. Leave it out."
                )


def _named_in(functions):
    """The options of TrainConfig that some function of a registry takes."""
    names = {name for function in functions.values() for name in _parameters(function)}
    return sorted(names & {field.name for field in _optional_fields()})


def _parameters(function):
    return inspect.signature(function).parameters


def _optional_fields():
    return [field for field in dataclasses.fields(TrainConfig) if field.default is None]


_DATA_OPTIONS = _named_in(DATASETS)
_OPTIMIZER_OPTIONS = _named_in(OPTIMIZERS)
_SCHEDULE_OPTIONS = _named_in(LR_SCHEDULES)
