"""LAMB: layer-wise adaptive moments (You et al. 2019, arXiv 1904.00962)."""

import keras
from keras import ops

from tf_lars.optimizers import arguments, trust_ratio
from tf_lars.optimizers.layerwise import LayerwiseOptimizer
from tf_lars.optimizers.rule import bias_correction, decayed


@keras.saving.register_keras_serializable(package="tf_lars")
class LAMB(LayerwiseOptimizer):
    """Adam whose step is scaled for each layer by ‖w‖/‖u‖ (Algorithm 2 of the paper).

    With w the weights of one variable, g its gradient, t the step counted from 1:

        m = β₁m + (1−β₁)g          s = β₂s + (1−β₂)g²
        m̂ = m/(1−β₁ᵗ)              ŝ = s/(1−β₂ᵗ)
        u = m̂/(√ŝ + ε) + βw        w −= γ · φ(‖w‖)/‖u‖ · u

    φ(z) = min(max(z, γ_l), γ_u); the ratio is 1 where a norm is zero.

    Args:
        learning_rate: γ: number ≥ 0, `LearningRateSchedule`, or callable of no arguments.
        beta_1: β₁ in [0, 1).
        beta_2: β₂ in [0, 1).
        epsilon: ε ≥ 0.
        weight_decay: β: number ≥ 0, `LearningRateSchedule`, or callable of no arguments.
        bias_correction: divide by 1−β₁ᵗ and 1−β₂ᵗ; Google's first code and pytorch-lamb do not.
        grad_averaging: False leaves (1−β₁) out of m.
        nesterov: N-LAMB (the paper's appendix): m̂ = β₁m/(1−β₁ᵗ⁺¹) + (1−β₁)g/(1−β₁ᵗ).
        decoupled_weight_decay: w −= γβw before the step and u without βw, as
            `keras.optimizers.Lamb` does; ‖w‖ is that of the decayed weights.
        min_trust_ratio, max_trust_ratio: bounds of the ratio, or None (LAMBC has a maximum).
        min_weight_norm, max_weight_norm: γ_l and γ_u, or None.
        exclude_from_weight_decay, exclude_from_layer_adaptation: "1d" (variables with at most
            one dimension), None, a list of regular expressions on variable paths, variables,
            or callables.
        jit_compile: compile the update with XLA; "auto" does where the backend can.
        **shared_arguments: `learning_rate_multipliers`, `master_weights` and Keras's own
            (see `LayerwiseOptimizer`); NVIDIA's clipping is `global_clipnorm=1.0`.

    Raises:
        ValueError: an argument is out of its range.

    Example:

    >>> import numpy as np, keras
    >>> from tf_lars import LAMB
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.compile(optimizer=LAMB(learning_rate=0.01, weight_decay=0.01), loss="mse")
    >>> history = model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
    """

    slot_names = ("momentum", "velocity")
    input_norms = ("weight",)
    measured_names = ("update",)
    elementwise = True

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        weight_decay=0.0,
        bias_correction=True,
        grad_averaging=True,
        nesterov=False,
        decoupled_weight_decay=False,
        min_trust_ratio=None,
        max_trust_ratio=None,
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
        self.bias_correction = arguments.flag("bias_correction", bias_correction)
        self.grad_averaging = arguments.flag("grad_averaging", grad_averaging)
        self.nesterov = arguments.flag("nesterov", nesterov)
        self.decoupled_weight_decay = arguments.flag(
            "decoupled_weight_decay", decoupled_weight_decay
        )
        self.min_trust_ratio, self.max_trust_ratio = arguments.bounds(
            ("min_trust_ratio", "max_trust_ratio"), min_trust_ratio, max_trust_ratio
        )
        self.min_weight_norm, self.max_weight_norm = arguments.bounds(
            ("min_weight_norm", "max_weight_norm"), min_weight_norm, max_weight_norm
        )

    def direction(self, layer, w, g, slots, s):
        weight_of_g = 1 - self.beta_1 if self.grad_averaging else 1.0
        m = self.beta_1 * slots["momentum"] + weight_of_g * g
        v = self.beta_2 * slots["velocity"] + (1 - self.beta_2) * ops.square(g)
        m_hat = m / self._correction(self.beta_1, s.step)
        if self.nesterov:
            ahead = self.beta_1 / self._correction(self.beta_1, s.step + 1)
            today = weight_of_g / self._correction(self.beta_1, s.step)
            m_hat = ahead * m + today * g
        u = m_hat / (ops.sqrt(v / self._correction(self.beta_2, s.step)) + self.epsilon)
        if not self.decoupled_weight_decay:
            u = decayed(w, u, s.weight_decay)
        return {"momentum": m, "velocity": v}, {"update": u}

    def _correction(self, beta, step):
        return bias_correction(beta, step) if self.bias_correction else 1.0

    def ratios(self, norms, s):
        weight = norms["weight"]
        if self.decoupled_weight_decay:
            weight = weight * ops.abs(1 - s.learning_rate * s.weight_decay)
        ratio = trust_ratio.lamb(
            weight, norms["update"], self.min_weight_norm, self.max_weight_norm
        )
        return trust_ratio.bounded(ratio, self.min_trust_ratio, self.max_trust_ratio)

    def step(self, layer, w, g, slots, measured, ratio, s):
        if self.decoupled_weight_decay and s.weight_decay is not None:
            w = w * (1 - s.learning_rate * s.weight_decay)
        return w - (s.learning_rate * ratio) * measured["update"], {}

    def get_config(self):
        config = super().get_config()
        names = (
            "beta_1", "beta_2", "epsilon", "bias_correction", "grad_averaging", "nesterov",
            "decoupled_weight_decay", "min_trust_ratio", "max_trust_ratio", "min_weight_norm",
            "max_weight_norm",
        )  # fmt: skip
        return {**config, **{name: getattr(self, name) for name in names}}
