"""The published recipes by name: which constructor arguments make our rule theirs.

Learning rates and schedules are not part of a preset. `differs` says how the row departs from the
class's defaults or from the paper; `source` is the public code or paper that was followed.
"""

import dataclasses
import difflib


@dataclasses.dataclass(frozen=True)
class Preset:
    """One row of the table."""

    arguments: dict
    source: str
    differs: str


_NO_EXCLUSIONS = {"exclude_from_weight_decay": None, "exclude_from_layer_adaptation": None}
_BARLOW_TWINS = {"weight_decay": 1e-6, "momentum_rule": "trust_scaled", "denominator": "joint"}

PRESETS = {
    "LARS": {
        "paper": Preset(
            {"weight_decay": 5e-4, **_NO_EXCLUSIONS},
            "You, Gitman, Ginsburg 2017, arXiv 1708.03888, Algorithm 1",
            "every variable decays and adapts, biases and norms too",
        ),
        "mlperf": Preset(
            {"weight_decay": 1e-4},
            "MLPerf training's ResNet reference for TensorFlow, lars_optimizer.py",
            "the paper's rule; biases and BatchNorm neither decay nor adapt",
        ),
        "simclr": Preset(
            {"weight_decay": 1e-6, "denominator": "joint"},
            "google-research/simclr, lars_optimizer.py (classic momentum)",
            "‖g + βw‖ in the denominator",
        ),
        "barlow_twins": Preset(
            {**_BARLOW_TWINS, "learning_rate_multipliers": {"1d": 0.0048 / 0.2}},
            "facebookresearch/barlowtwins, main.py",
            "the rate stays out of the velocity; 1-D variables learn at 0.0048 where weights "
            "learn at 0.2",
        ),
        "vicreg": Preset(
            _BARLOW_TWINS,
            "facebookresearch/vicreg, main_vicreg.py",
            "as barlow_twins, with one rate for all variables",
        ),
        "mae": Preset(
            {"momentum_rule": "trust_scaled", "denominator": "joint"},
            "facebookresearch/mae, util/lars.py (linear probing)",
            "as vicreg, without decay",
        ),
        "optax": Preset(
            {"denominator": "joint", **_NO_EXCLUSIONS},
            "google-deepmind/optax, optax.lars defaults",
            "‖g + βw‖ in the denominator; nothing excluded; no decay",
        ),
        "timm": Preset(
            {"momentum_rule": "trust_scaled", "epsilon": 1e-8},
            "huggingface/pytorch-image-models, timm/optim/lars.py with momentum 0.9",
            "the rate stays out of the velocity; timm switches adaptation off where there is no "
            "decay unless always_adapt, we do not",
        ),
        "larc": Preset(
            {
                "momentum_rule": "trust_scaled",
                "trust_coefficient": 0.02,
                "epsilon": 1e-8,
                "trust_clip": True,
                **_NO_EXCLUSIONS,
            },
            "NVIDIA/apex, apex/parallel/LARC.py over SGD",
            "η 0.02 and λ ← min(λ/γ, 1)",
        ),
    },
    "LAMB": {
        "paper": Preset(
            {"weight_decay": 0.01, **_NO_EXCLUSIONS},
            "You et al. 2019, arXiv 1904.00962, Algorithm 2",
            "every variable decays and adapts",
        ),
        "nvlamb": Preset(
            {"weight_decay": 0.01, "global_clipnorm": 1.0, "exclude_from_layer_adaptation": None},
            "NVIDIA/apex, apex/optimizers/fused_lamb.py with use_nvlamb=True",
            "gradients clipped to a global norm of 1; 1-D variables do not decay but adapt",
        ),
        "keras": Preset(
            {"epsilon": 1e-7, "decoupled_weight_decay": True, **_NO_EXCLUSIONS},
            "keras.optimizers.Lamb",
            "the decay stands outside the ratio; every variable adapts",
        ),
        "google_resnet50": Preset(
            {
                "weight_decay": 1.5,
                "bias_correction": False,
                "global_clipnorm": 1.0,
                "exclude_from_weight_decay": ["(gamma|beta)$"],
                "exclude_from_layer_adaptation": ["(gamma|beta)$"],
            },
            "github.com/fastalgo/imagenet_resnet50_lamb, optimization.py and run.sh",
            "no bias correction, clipping to a global norm of 1, a decay of 1.5; BatchNorm "
            "neither decays nor adapts, the last layer's bias does both",
        ),
        "optax": Preset(
            _NO_EXCLUSIONS,
            "google-deepmind/optax, optax.lamb defaults",
            "no decay; every variable adapts",
        ),
        "timm": Preset(
            {"weight_decay": 0.01, "global_clipnorm": 1.0},
            "huggingface/pytorch-image-models, timm/optim/lamb.py",
            "gradients clipped to a global norm of 1; 1-D variables neither decay nor adapt "
            "(timm puts them in a group without decay, which does not adapt)",
        ),
    },
    "CLARS": {
        "paper": Preset(
            {"weight_decay": 5e-4, "exclude_from_weight_decay": None},
            "Huo, Gu, Huang 2020, arXiv 2002.01576, and its authors' code",
            "the decay is kept on biases and norms, which do not adapt",
        ),
    },
}


def find(class_name, preset):
    """The row `preset` of a class's table.

    Raises:
        ValueError: there is none; the message lists those that there are.
    """
    table = PRESETS.get(class_name, {})
    if preset not in table:
        near = difflib.get_close_matches(str(preset), table)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        names = ", ".join(map(repr, table)) or "none"
        raise ValueError(f"preset={preset!r} is not one of {class_name}'s: {names}.{hint}")
    return table[preset]
