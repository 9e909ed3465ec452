"""NovoGrad: layer-wise second moments (Ginsburg et al. 2019, arXiv 1905.11286)."""

import keras
from keras import ops

from tf_lars.optimizers import arguments, trust_ratio
from tf_lars.optimizers.layerwise import LayerwiseOptimizer
from tf_lars.optimizers.rule import decayed


@keras.saving.register_keras_serializable(package="tf_lars")
class NovoGrad(LayerwiseOptimizer):
    """Momentum over gradients that are divided by a running norm of their layer.

    With w the weights of one variable, g its gradient, γ the learning rate and β the weight decay:

    - s = β₂s + (1−β₂)‖g‖² (on the first step s = ‖g‖²), one number for each variable,
    - m = β₁m + g/(√s + ε) + βw (both new terms times 1−β₁ with `grad_averaging`),
    - w −= γm.

    `trust_ratios` reports 1/(√s + ε). It is 1 where s is zero and where a variable is excluded from
    adaptation, which leaves plain momentum. As in the paper, no variable is by default.

    Args:
        learning_rate: γ: number ≥ 0, `LearningRateSchedule`, or callable of no arguments.
        beta_1: β₁ in [0, 1).
        beta_2: β₂ in [0, 1).
        epsilon: ε ≥ 0.
        weight_decay: β: number ≥ 0, `LearningRateSchedule`, or callable of no arguments.
        grad_averaging: weigh what enters the momentum by 1−β₁.
        exclude_from_weight_decay, exclude_from_layer_adaptation: see `tf_lars.optimizers.masks`.
        jit_compile: compile the update with XLA; "auto" does where the backend can.
        **shared_arguments: `learning_rate_multipliers`, `master_weights` and Keras's own
            (see `LayerwiseOptimizer`).

    Raises:
        ValueError: an argument is out of its range.

    Source: Ginsburg et al., "Stochastic Gradient Methods with Layer-wise Adaptive Moments for
    Training of Deep Networks", arXiv 1905.11286, Algorithm 1.

    Example:

    >>> import numpy as np, keras
    >>> from tf_lars import NovoGrad
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.compile(optimizer=NovoGrad(learning_rate=0.01, weight_decay=0.001), loss="mse")
    >>> history = model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
    >>> len(model.optimizer.trust_ratios)
    2
    """

    slot_names = ("momentum",)
    scalar_slot_names = ("velocity",)
    measured_names = ("root",)

    def __init__(
        self,
        learning_rate=0.01,
        beta_1=0.95,
        beta_2=0.98,
        epsilon=1e-8,
        weight_decay=0.0,
        grad_averaging=False,
        exclude_from_layer_adaptation=None,
        **shared_arguments,
    ):
        super().__init__(
            learning_rate,
            weight_decay=weight_decay,
            exclude_from_layer_adaptation=exclude_from_layer_adaptation,
            **shared_arguments,
        )
        self.beta_1 = arguments.number("beta_1", beta_1, 0, 1, open_maximum=True)
        self.beta_2 = arguments.number("beta_2", beta_2, 0, 1, open_maximum=True)
        self.epsilon = arguments.number("epsilon", epsilon, 0)
        self.grad_averaging = arguments.flag("grad_averaging", grad_averaging)

    def direction(self, layer, w, g, slots, s):
        squared_norm = ops.square(s.norms["gradient"])
        averaged = self.beta_2 * slots["velocity"] + (1 - self.beta_2) * squared_norm
        velocity = ops.where(s.step > 1, averaged, squared_norm)
        return {"velocity": velocity}, {"root": ops.sqrt(velocity)}

    def ratios(self, norms, s):
        return trust_ratio.reciprocal(norms["root"], self.epsilon, of_zero=1.0)

    def step(self, layer, w, g, slots, measured, ratio, s):
        added = decayed(w, ratio * g, s.weight_decay)
        if self.grad_averaging:
            added = (1 - self.beta_1) * added
        m = self.beta_1 * slots["momentum"] + added
        return w - s.learning_rate * m, {"momentum": m}

    def get_config(self):
        names = ("beta_1", "beta_2", "epsilon", "grad_averaging")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
