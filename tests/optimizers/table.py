"""The table of optimizers that every contract test walks through: one row for each."""

import dataclasses

from tests.optimizers.reference import ReferenceCLARS, ReferenceLAMB, ReferenceLARS
from tests.optimizers.reference_relatives import ReferenceLANS, ReferenceNovoGrad
from tf_lars.optimizers import CLARS, LAMB, LANS, LARS, NovoGrad, OrScale

# The step by hand of every row: w = [[3, 4]], g = [[0.6, 0.8]], so that ‖w‖ = 5 and ‖g‖ = 1.
HAND_WEIGHT = [[3.0, 4.0]]
HAND_GRADIENT = [[0.6, 0.8]]


@dataclasses.dataclass(frozen=True)
class Row:
    """One optimizer and what is known of it."""

    make: type  # called as make(learning_rate=…, **options)
    options: dict  # a value other than the default for every option of its own
    by_hand: tuple  # (options, [[w₀, w₁]]) after one step with the gradient above
    reference: type | None = None  # as in reference.py: (w, **options).step(g, rate) → w
    scale_options: dict | None = None  # with these it ignores the gradients' scale; None: never
    adapts: bool = True  # it has trust ratios that differ from 1

    @property
    def name(self):
        return self.make.__name__


ROWS = [
    Row(
        make=LARS,
        options={
            "momentum": 0.8, "nesterov": True, "weight_decay": 0.01, "trust_coefficient": 0.02,
            "epsilon": 1e-7, "momentum_rule": "trust_scaled", "denominator": "joint",
            "trust_clip": True, "min_trust_ratio": 1e-3, "max_trust_ratio": 10.0,
        },
        by_hand=({"learning_rate": 1.0, "trust_coefficient": 0.1}, [[2.7, 3.6]]),
        reference=ReferenceLARS,
        scale_options={"trust_coefficient": 0.1},
    ),
    Row(
        make=LAMB,
        options={
            "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-5, "weight_decay": 0.01,
            "bias_correction": False, "grad_averaging": False, "nesterov": True,
            "decoupled_weight_decay": True, "min_trust_ratio": 1e-3, "max_trust_ratio": 10.0,
            "min_weight_norm": 0.01, "max_weight_norm": 10.0,
        },
        by_hand=({"learning_rate": 0.1, "epsilon": 0.0}, [[3 - 0.5 / 2**0.5, 4 - 0.5 / 2**0.5]]),
        reference=ReferenceLAMB,
        scale_options={"epsilon": 0.0},
    ),
    Row(
        make=CLARS,
        options={
            "momentum": 0.8, "nesterov": True, "weight_decay": 0.01, "trust_coefficient": 0.02,
            "max_trust_ratio": 0.2, "epsilon": 1e-7, "momentum_rule": "trust_scaled",
        },
        by_hand=({"learning_rate": 1.0, "trust_coefficient": 0.1}, [[2.94, 3.92]]),
        reference=ReferenceCLARS,
        # Its velocity holds d itself: only the first step ignores the scale.
    ),
    Row(
        make=LANS,
        options={
            "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-5, "weight_decay": 0.01,
            "min_weight_norm": 0.01, "max_weight_norm": 10.0,
        },
        by_hand=({"learning_rate": 0.1, "epsilon": 0.0}, [[3 - 0.5 / 2**0.5, 4 - 0.5 / 2**0.5]]),
        reference=ReferenceLANS,
        scale_options={"epsilon": 0.0},
    ),
    Row(
        make=NovoGrad,
        options={
            "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-5, "weight_decay": 0.01,
            "grad_averaging": True,
        },
        by_hand=({"learning_rate": 1.0}, [[2.4, 3.2]]),
        reference=ReferenceNovoGrad,
        scale_options={"epsilon": 0.0},
    ),
    Row(
        make=OrScale,
        options={
            "momentum": 0.8, "weight_decay": 0.01, "epsilon": 1e-5, "min_trust_ratio": 0.1,
            "max_trust_ratio": 10.0, "newton_schulz": "muon", "adamw_stem_and_head": False,
            "exclude_from_orthogonalization": ["embedding"], "adamw_learning_rate_ratio": 0.5,
            "adamw_beta_1": 0.8, "adamw_beta_2": 0.99, "adamw_epsilon": 1e-6,
        },
        # A matrix with one row is AdamW's.
        by_hand=({"learning_rate": 1.0}, [[2.95, 3.95]]),
        scale_options={"adamw_stem_and_head": False, "adamw_epsilon": 0.0},
        adapts=False,  # the variables of these tests are 1-D, the first or the last
    ),
]  # fmt: skip
