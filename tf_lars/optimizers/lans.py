"""LANS: LAMB with normalised gradients and Nesterov's momentum (Zheng et al. 2020)."""

import keras
from keras import ops

from tf_lars.optimizers import arguments, trust_ratio
from tf_lars.optimizers.layerwise import LayerwiseOptimizer
from tf_lars.optimizers.rule import bias_correction, decayed


@keras.saving.register_keras_serializable(package="tf_lars")
class LANS(LayerwiseOptimizer):
    """Two LAMB steps in one: along the averaged gradient, and along today's.

    With w the weights of one variable, g its gradient, γ the learning rate and β the weight decay:

    - g ← g/‖g‖ (0 where ‖g‖ is 0),
    - m = β₁m + (1−β₁)g, s = β₂s + (1−β₂)g², m̂ = m/(1−β₁ᵗ), ŝ = s/(1−β₂ᵗ),
    - r = m̂/(√ŝ + ε) + βw, c = g/(√ŝ + ε) + βw,
    - w −= γφ(‖w‖)·(β₁r/‖r‖ + (1−β₁)c/‖c‖), φ(z) = min(max(z, γ_l), γ_u).

    Where a norm is zero, or a variable is excluded from adaptation, the ratio φ(‖w‖)/‖·‖ is 1.
    Every gradient is normalised, that of an excluded variable too. `trust_ratios` reports
    φ(‖w‖)/‖r‖.

    Args:
        learning_rate: γ: number ≥ 0, `LearningRateSchedule`, or callable of no arguments.
        beta_1: β₁ in [0, 1).
        beta_2: β₂ in [0, 1).
        epsilon: ε ≥ 0.
        weight_decay: β: number ≥ 0, `LearningRateSchedule`, or callable of no arguments.
        min_weight_norm, max_weight_norm: γ_l and γ_u, or None.
        exclude_from_weight_decay, exclude_from_layer_adaptation: see `tf_lars.optimizers.masks`.
        jit_compile: compile the update with XLA; "auto" does where the backend can.
        **shared_arguments: `learning_rate_multipliers`, `master_weights` and Keras's own
            (see `LayerwiseOptimizer`).

    Raises:
        ValueError: an argument is out of its range.

    Source: Zheng, Lin, Zha, Li, "Accelerated Large Batch Optimization of BERT Pretraining in 54
    minutes", arXiv 2006.13484, Algorithm 2.

    Example:

    >>> import numpy as np, keras
    >>> from tf_lars import LANS
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.compile(optimizer=LANS(learning_rate=0.01, weight_decay=0.01), loss="mse")
    >>> history = model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
    >>> len(model.optimizer.trust_ratios)
    2
    """

    slot_names = ("momentum", "velocity")
    measured_names = ("averaged", "current")

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        weight_decay=0.0,
        min_weight_norm=None,
        max_weight_norm=None,
        **shared_arguments,
    ):
        super().__init__(
            learning_rate,
            weight_decay=weight_decay,
            **shared_arguments,
        )
        self.beta_1 = arguments.number("beta_1", beta_1, 0, 1, open_maximum=True)
        self.beta_2 = arguments.number("beta_2", beta_2, 0, 1, open_maximum=True)
        self.epsilon = arguments.number("epsilon", epsilon, 0)
        self.min_weight_norm, self.max_weight_norm = arguments.bounds(
            ("min_weight_norm", "max_weight_norm"), min_weight_norm, max_weight_norm
        )

    def direction(self, layer, w, g, slots, s):
        g = g * trust_ratio.reciprocal(s.norms["gradient"])
        m = self.beta_1 * slots["momentum"] + (1 - self.beta_1) * g
        v = self.beta_2 * slots["velocity"] + (1 - self.beta_2) * ops.square(g)
        scale = ops.sqrt(v / bias_correction(self.beta_2, s.step)) + self.epsilon
        averaged = decayed(w, m / (bias_correction(self.beta_1, s.step) * scale), s.weight_decay)
        current = decayed(w, g / scale, s.weight_decay)
        return {"momentum": m, "velocity": v}, {"averaged": averaged, "current": current}

    def ratios(self, norms, s):
        bounds = (self.min_weight_norm, self.max_weight_norm)
        return ops.stack(
            [
                trust_ratio.lamb(norms["weight"], norms[name], *bounds)
                for name in self.measured_names
            ],
            axis=1,
        )

    def step(self, layer, w, g, slots, measured, ratio, s):
        averaged = (self.beta_1 * ratio[0]) * measured["averaged"]
        current = ((1 - self.beta_1) * ratio[1]) * measured["current"]
        return w - s.learning_rate * (averaged + current), {}

    def get_config(self):
        names = ("beta_1", "beta_2", "epsilon", "min_weight_norm", "max_weight_norm")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
