"""OrScale: the trust ratio on Muon's orthogonalised update (Lou and You 2026, arXiv 2605.07815)."""

import math

import keras
from keras import ops

from tf_lars.optimizers import arguments, masks, trust_ratio
from tf_lars.optimizers.layerwise import LayerwiseOptimizer
from tf_lars.optimizers.rule import bias_correction, decayed

# (a, b, c) of each iteration X ← aX + (bA + cA²)X with A = XXᵀ, and the safety factor of the norm.
NEWTON_SCHULZ = {
    # Amsel et al. 2025, arXiv 2505.16932, as in the authors' code.
    "polar_express": (
        (
            (8.156554524902461, -22.48329292557795, 15.878769915207462),
            (4.042929935166739, -2.808917465908714, 0.5000178451051316),
            (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
            (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
            (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
        ),
        1.02,
    ),
    # Jordan et al. 2024, the original Muon.
    "muon": (((3.4445, -4.7750, 2.0315),) * 5, 1.0),
}


def orthogonalised(matrix, newton_schulz="polar_express"):
    """An approximation of UVᵀ for `matrix` = UΣVᵀ: five Newton–Schulz iterations.

    Args:
        matrix: tensor [m, n].
        newton_schulz: the coefficients, a key of `NEWTON_SCHULZ`.
    """
    coefficients, safety = NEWTON_SCHULZ[newton_schulz]
    tall = matrix.shape[0] > matrix.shape[1]
    x = ops.transpose(matrix) if tall else matrix
    x = x / (safety * ops.sqrt(ops.sum(ops.square(x))) + 1e-7)
    for a, b, c in coefficients:
        gram = ops.matmul(x, ops.transpose(x))
        x = a * x + ops.matmul(b * gram + c * ops.matmul(gram, gram), x)
    return ops.transpose(x) if tall else x


@keras.saving.register_keras_serializable(package="tf_lars")
class OrScale(LayerwiseOptimizer):
    """Muon whose step is scaled by the trust ratio of what is really subtracted.

    With W the weights of one variable as a matrix, G its gradient, γ the learning rate, μ the
    momentum and β the weight decay:

    - M = μM + G, Q = NewtonSchulz5(μM + G),
    - r = clip(‖W‖/(‖βW + Q‖ + ε), r_min, r_max); where a norm is zero, 1 (then clipped),
    - W −= γr(βW + Q).

    A kernel becomes the matrix [everything but the last axis, last axis]: for Keras's kernels
    [k, k, C_in, C_out] that is the transpose of PyTorch's [C_out, C_in·k·k] up to the order of its
    columns, which orthogonalisation respects, so both move alike.

    AdamW with the rate γ·`adamw_learning_rate_ratio` moves what is no such matrix: variables with
    at most one dimension or that flatten to one row or column, those in
    `exclude_from_orthogonalization`, and, with `adamw_stem_and_head`, the first and the last
    variable with two or more dimensions. Their trust ratio is reported as 1.

    Args:
        learning_rate: γ: number ≥ 0, `LearningRateSchedule`, or callable of no arguments.
        momentum: μ in [0, 1).
        weight_decay: β: number ≥ 0, `LearningRateSchedule`, or callable of no arguments.
        epsilon: ε ≥ 0.
        min_trust_ratio, max_trust_ratio: r_min and r_max, or None.
        newton_schulz: the coefficients: "polar_express" (the authors') or "muon".
        exclude_from_orthogonalization: variables for AdamW (embeddings, say), given as for the
            other exclusions.
        adamw_stem_and_head: give the first and the last layer's weights to AdamW.
        adamw_learning_rate_ratio: AdamW's rate over γ, ≥ 0.
        adamw_beta_1, adamw_beta_2: in [0, 1).
        adamw_epsilon: ≥ 0.
        exclude_from_weight_decay, exclude_from_layer_adaptation: see `tf_lars.optimizers.masks`; a
            matrix that does not adapt takes Muon's step, r = 1.
        jit_compile: compile the update with XLA; "auto" does where the backend can.
        **shared_arguments: `learning_rate_multipliers`, `master_weights` and Keras's own
            (see `LayerwiseOptimizer`).

    Raises:
        ValueError: an argument is out of its range.

    Source: Lou, You, "OrScale: Orthogonalised Optimization with Layer-Wise Trust-Ratio Scaling",
    arXiv 2605.07815. The authors iterate in bfloat16; here it is float32.

    Example:

    >>> import numpy as np, keras
    >>> from tf_lars import OrScale
    >>> layers = [keras.layers.Dense(width) for width in (8, 8, 2)]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> model.compile(optimizer=OrScale(learning_rate=0.02), loss="mse")
    >>> history = model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
    >>> len(model.optimizer.trust_ratios)
    6
    """

    slot_names = ("momentum",)
    measured_names = ("update",)

    def __init__(
        self,
        learning_rate=0.02,
        momentum=0.95,
        weight_decay=0.0,
        epsilon=1e-6,
        min_trust_ratio=0.5,
        max_trust_ratio=1.5,
        newton_schulz="polar_express",
        exclude_from_orthogonalization=None,
        adamw_stem_and_head=True,
        adamw_learning_rate_ratio=0.05,
        adamw_beta_1=0.9,
        adamw_beta_2=0.999,
        adamw_epsilon=1e-8,
        exclude_from_layer_adaptation=None,
        **shared_arguments,
    ):
        super().__init__(
            learning_rate,
            weight_decay=weight_decay,
            exclude_from_layer_adaptation=exclude_from_layer_adaptation,
            **shared_arguments,
        )
        number = arguments.number
        self.momentum = number("momentum", momentum, 0, 1, open_maximum=True)
        self.epsilon = number("epsilon", epsilon, 0)
        self.min_trust_ratio, self.max_trust_ratio = arguments.bounds(
            ("min_trust_ratio", "max_trust_ratio"), min_trust_ratio, max_trust_ratio
        )
        self.newton_schulz = arguments.choice("newton_schulz", newton_schulz, NEWTON_SCHULZ)
        # A tuple: Keras would track, and on TensorFlow wrap, a list.
        self._adamw_entries = tuple(
            masks.normalise("exclude_from_orthogonalization", exclude_from_orthogonalization)
        )
        self.adamw_stem_and_head = arguments.flag("adamw_stem_and_head", adamw_stem_and_head)
        self.adamw_learning_rate_ratio = number(
            "adamw_learning_rate_ratio", adamw_learning_rate_ratio, 0
        )
        self.adamw_beta_1 = number("adamw_beta_1", adamw_beta_1, 0, 1, open_maximum=True)
        self.adamw_beta_2 = number("adamw_beta_2", adamw_beta_2, 0, 1, open_maximum=True)
        self.adamw_epsilon = number("adamw_epsilon", adamw_epsilon, 0)

    def resolved(self, variables):
        on_adamw = self._on_adamw(variables)
        self._adamw_ids = frozenset(
            id(v) for v, is_adamw in zip(variables, on_adamw, strict=True) if is_adamw
        )
        return [
            self._as_adamw(fields) if is_adamw else fields
            for fields, is_adamw in zip(super().resolved(variables), on_adamw, strict=True)
        ]

    def _on_adamw(self, variables):
        listed = masks.excluded(
            "exclude_from_orthogonalization", list(self._adamw_entries), variables
        )
        kernels = [k for k, variable in enumerate(variables) if len(variable.shape) > 1]
        ends = {kernels[0], kernels[-1]} if kernels and self.adamw_stem_and_head else set()
        return [
            is_listed or k in ends or min(_matrix_shape(variable.shape)) <= 1
            for k, (variable, is_listed) in enumerate(zip(variables, listed, strict=True))
        ]

    def _as_adamw(self, fields):
        factor = fields["learning_rate_multiplier"] * self.adamw_learning_rate_ratio
        return {**fields, "adapts": False, "learning_rate_multiplier": factor}

    def _create_slots(self, variable):
        slots = super()._create_slots(variable)
        if id(variable) in self._adamw_ids:
            slots["velocity"] = self.add_variable_from_reference(variable, name="velocity")
        return slots

    def direction(self, layer, w, g, slots, s):
        if "velocity" in slots:
            new_slots, update = self._adamw_direction(g, slots, s.step)
        else:
            m = self.momentum * slots["momentum"] + g
            new_slots, update = {"momentum": m}, self._orthogonalised(self.momentum * m + g)
        return new_slots, {"update": decayed(w, update, s.weight_decay)}

    def _adamw_direction(self, g, slots, step):
        m = self.adamw_beta_1 * slots["momentum"] + (1 - self.adamw_beta_1) * g
        v = self.adamw_beta_2 * slots["velocity"] + (1 - self.adamw_beta_2) * ops.square(g)
        root = ops.sqrt(v / bias_correction(self.adamw_beta_2, step))
        update = m / (bias_correction(self.adamw_beta_1, step) * (root + self.adamw_epsilon))
        return {"momentum": m, "velocity": v}, update

    def _orthogonalised(self, update):
        matrix = ops.reshape(update, _matrix_shape(update.shape))
        return ops.reshape(orthogonalised(matrix, self.newton_schulz), update.shape)

    def ratios(self, norms, s):
        ratio = trust_ratio.lars_joint(norms["weight"], norms["update"], 1.0, self.epsilon)
        return trust_ratio.bounded(ratio, self.min_trust_ratio, self.max_trust_ratio)

    def step(self, layer, w, g, slots, measured, ratio, s):
        return w - (s.learning_rate * ratio) * measured["update"], {}

    def get_config(self):
        names = (
            "momentum", "epsilon", "min_trust_ratio", "max_trust_ratio", "newton_schulz",
            "adamw_stem_and_head", "adamw_learning_rate_ratio", "adamw_beta_1", "adamw_beta_2",
            "adamw_epsilon",
        )  # fmt: skip
        entries = masks.serialise("exclude_from_orthogonalization", list(self._adamw_entries))
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names},
            "exclude_from_orthogonalization": entries,
        }


def _matrix_shape(shape):
    """[everything but the last axis, last axis] of a variable's shape."""
    return (math.prod(shape[:-1]), shape[-1]) if len(shape) > 1 else (1, math.prod(shape))
