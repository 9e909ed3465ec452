"""LARS: layer-wise adaptive rate scaling (You, Gitman, Ginsburg 2017, arXiv 1708.03888)."""

import keras
from keras import ops

from tf_lars.optimizers import arguments, trust_ratio
from tf_lars.optimizers.layerwise import LayerwiseOptimizer
from tf_lars.optimizers.rule import decayed

MOMENTUM_RULES = ("scaled", "trust_scaled", "unscaled", "update_norm")
DENOMINATORS = ("sum", "joint")


@keras.saving.register_keras_serializable(package="tf_lars")
class LARS(LayerwiseOptimizer):
    """SGD with momentum whose rate is set for each layer by the trust ratio λ.

    With w the weights of one variable, g its gradient, γ the learning rate, μ the momentum, β the
    weight decay, η the trust coefficient and d = g + βw:

    - `denominator="sum"`: λ = η‖w‖ / (‖g‖ + β‖w‖ + ε), the paper's equation 6.
      `"joint"`: λ = η‖w‖ / (‖g + βw‖ + ε). Where a norm is zero, λ = 1.
    - `momentum_rule="scaled"`: v = μv + γλd; w −= v (the paper's Algorithm 1).
      `"trust_scaled"`: v = μv + λd; w −= γv.
      `"unscaled"`: v = μv + d; w −= γλv.
      `"update_norm"`: v = μv + d, u = v (Nesterov: d + μv), λ = η‖w‖/(‖u‖ + ε); w −= γλu. The
      denominator is ‖u‖ here, whatever `denominator` says.
    - `nesterov=True`: the step is taken with μv + (what was just added to v) in place of v.
    - `trust_clip=True`: λ ← min(λ/γ, 1); then λ is kept within the bounds.

    Args:
        learning_rate: γ: number ≥ 0, `LearningRateSchedule`, or callable of no arguments.
        momentum: μ in [0, 1).
        nesterov: use Nesterov's momentum.
        weight_decay: β: number ≥ 0, `LearningRateSchedule`, or callable of no arguments.
        trust_coefficient: η > 0.
        epsilon: ε ≥ 0, added to the denominator.
        momentum_rule: "scaled", "trust_scaled", "unscaled" or "update_norm".
        denominator: "sum" or "joint".
        momentum_correction: v ← v·γ_t/γ_{t−1} when γ has changed (Goyal et al. 2017, arXiv
            1706.02677, remark 2); only for "scaled", whose velocity holds γ.
        trust_clip: LARC's clipping.
        min_trust_ratio, max_trust_ratio: bounds of λ, or None.
        exclude_from_weight_decay, exclude_from_layer_adaptation: "1d" (variables with at most
            one dimension), None, a list of regular expressions on variable paths, variables,
            or callables.
        jit_compile: compile the update with XLA; "auto" does where the backend can.
        **shared_arguments: `learning_rate_multipliers`, `master_weights` and Keras's own
            (see `LayerwiseOptimizer`).

    Raises:
        ValueError: an argument is out of its range.

    Example:

    >>> import numpy as np, keras
    >>> from tf_lars import LARS
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.compile(optimizer=LARS(learning_rate=0.5, weight_decay=1e-4), loss="mse")
    >>> history = model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
    >>> sorted(model.optimizer.trust_ratios)
    ['dense/bias', 'dense/kernel']
    """

    slot_names = ("momentum",)
    elementwise = True

    def __init__(
        self,
        learning_rate=0.1,
        momentum=0.9,
        nesterov=False,
        weight_decay=0.0,
        trust_coefficient=0.001,
        epsilon=0.0,
        momentum_rule="scaled",
        denominator="sum",
        momentum_correction=False,
        trust_clip=False,
        min_trust_ratio=None,
        max_trust_ratio=None,
        **shared_arguments,
    ):
        super().__init__(
            learning_rate,
            weight_decay=weight_decay,
            **shared_arguments,
        )
        self.momentum = arguments.number("momentum", momentum, 0, 1, open_maximum=True)
        self.nesterov = arguments.flag("nesterov", nesterov)
        self.trust_coefficient = arguments.number(
            "trust_coefficient", trust_coefficient, 0, open_minimum=True
        )
        self.epsilon = arguments.number("epsilon", epsilon, 0)
        self.momentum_rule = arguments.choice("momentum_rule", momentum_rule, MOMENTUM_RULES)
        self.denominator = arguments.choice("denominator", denominator, DENOMINATORS)
        self.trust_clip = arguments.flag("trust_clip", trust_clip)
        self.momentum_correction = arguments.flag("momentum_correction", momentum_correction)
        if momentum_correction and momentum_rule != "scaled":
            raise ValueError(
                f"momentum_correction=True needs momentum_rule='scaled', not {momentum_rule!r}: "
                "only there does the velocity hold the learning rate."
            )
        self.min_trust_ratio, self.max_trust_ratio = arguments.bounds(
            ("min_trust_ratio", "max_trust_ratio"), min_trust_ratio, max_trust_ratio
        )

    @property
    def shared_slot_names(self):
        return ("previous_learning_rate",) if self.momentum_correction else ()

    @property
    def input_norms(self):
        uses_gradient = self.momentum_rule != "update_norm" and self.denominator == "sum"
        return ("weight", "gradient") if uses_gradient else ("weight",)

    @property
    def measured_names(self):
        if self.momentum_rule == "update_norm":
            return ("update",)
        return ("decayed_gradient",) if self.denominator == "joint" else ()

    def direction(self, layer, w, g, slots, s):
        d = decayed(w, g, s.weight_decay)
        if self.momentum_rule == "update_norm":
            v = self.momentum * slots["momentum"] + d
            return {"momentum": v}, {"update": d + self.momentum * v if self.nesterov else v}
        return {}, {"decayed_gradient": d} if self.denominator == "joint" else {}

    def ratios(self, norms, s):
        weight = norms["weight"]
        if self.momentum_rule == "update_norm":
            ratio = self._joint_ratio(weight, norms["update"])
        elif self.denominator == "joint":
            ratio = self._joint_ratio(weight, norms["decayed_gradient"])
        else:
            ratio = trust_ratio.lars_sum(
                weight, norms["gradient"], s.weight_decay, self.trust_coefficient, self.epsilon
            )
        if self.trust_clip:
            ratio = trust_ratio.larc_clipped(ratio, s.learning_rate)
        return trust_ratio.bounded(ratio, self.min_trust_ratio, self.max_trust_ratio)

    def _joint_ratio(self, weight_norm, other_norm):
        return trust_ratio.lars_joint(weight_norm, other_norm, self.trust_coefficient, self.epsilon)

    def step(self, layer, w, g, slots, measured, ratio, s):
        if self.momentum_rule == "update_norm":
            return w - (s.learning_rate * ratio) * measured["update"], {}
        # What enters the velocity is `added · d`; what the weights move by is `rate` times that.
        local_rate = s.learning_rate * ratio
        added, rate = {
            "scaled": (local_rate, None),
            "trust_scaled": (ratio, s.learning_rate),
            "unscaled": (None, local_rate),
        }[self.momentum_rule]
        d = decayed(w, g, s.weight_decay)
        if added is not None:
            d = added * d
        v = self.momentum * self._corrected(slots["momentum"], s) + d
        move = self.momentum * v + d if self.nesterov else v
        return w - (move if rate is None else rate * move), {"momentum": v}

    def _corrected(self, velocity, s):
        if not self.momentum_correction:
            return velocity
        now, before = s.base_learning_rate, s.shared["previous_learning_rate"]
        changed = before > 0
        return ops.where(changed, now / ops.where(changed, before, 1), 1) * velocity

    def shared_update(self, s):
        if not self.momentum_correction:
            return {}
        return {"previous_learning_rate": s.base_learning_rate}

    def get_config(self):
        config = super().get_config()
        names = (
            "momentum",
            "nesterov",
            "trust_coefficient",
            "epsilon",
            "momentum_rule",
            "denominator",
            "momentum_correction",
            "trust_clip",
            "min_trust_ratio",
            "max_trust_ratio",
        )
        return {**config, **{name: getattr(self, name) for name in names}}
