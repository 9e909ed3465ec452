"""LARC: LARS as a gradient transform in front of any Keras optimizer."""

import keras
from keras import ops

from tf_lars.optimizers import arguments, trust_ratio
from tf_lars.optimizers.compiled import l2_norm, place
from tf_lars.optimizers.layerwise import LayerwiseOptimizer
from tf_lars.optimizers.rule import decayed

# What Keras does around an update. It must be done around the transform, so it moves to LARC.
KERAS_SETTINGS = {
    "clipnorm": None,
    "clipvalue": None,
    "global_clipnorm": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
}
WRAPPERS = (keras.optimizers.LossScaleOptimizer, keras.optimizers.MultiOptimizer)


@keras.saving.register_keras_serializable(package="tf_lars")
class LARC(LayerwiseOptimizer):
    """Scales each variable's gradient by its trust ratio and hands it to another optimizer.

    With w the weights of one variable, g its gradient (averaged, accumulated and clipped), γ the
    inner optimizer's learning rate, η the trust coefficient and β the weight decay:

    - λ = η‖w‖ / (‖g‖ + β‖w‖ + ε); where a norm is zero, λ = 1,
    - `trust_clip=True`: λ ← min(λ/γ, 1), so that a layer's own rate never exceeds γ,
    - the inner optimizer gets λ(g + βw) in place of g.

    The inner optimizer brings its rule, state and learning rate. Its decoupled weight decay, if it
    has one, becomes β; a decay inside the rule of one of this package's optimizers stays there.
    Its clipping, averaging (EMA), gradient accumulation and loss scale move to LARC, so that they
    see the gradients that they would have seen without it. `learning_rate` is the inner one's, to
    read and to set. A `LossScaleOptimizer` goes around LARC.

    Args:
        optimizer: a `keras.optimizers.Optimizer` that has made no step yet.
        trust_coefficient: η > 0.
        trust_clip: clip λ/γ at 1 ("clip"); False scales by λ ("scale").
        epsilon: ε ≥ 0.
        weight_decay: β: number ≥ 0, `LearningRateSchedule`, callable of no arguments, or None for
            the inner optimizer's.
        exclude_from_weight_decay, exclude_from_layer_adaptation: see `tf_lars.optimizers.masks`;
            apex excludes nothing, which is `None`.
        **keras_optimizer_arguments: clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
            ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name; by
            default the inner optimizer's.

    Raises:
        ValueError: an argument is out of its range, or `optimizer` cannot be wrapped.

    Source: You, Gitman, Ginsburg 2017, arXiv 1708.03888; NVIDIA apex, apex/parallel/LARC.py.

    Example:

    >>> import numpy as np, keras
    >>> from tf_lars import LARC
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.compile(optimizer=LARC(keras.optimizers.Adam(0.01)), loss="mse")
    >>> history = model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
    >>> len(model.optimizer.trust_ratios)
    2
    """

    input_norms = ("weight", "gradient")

    def __init__(
        self,
        optimizer,
        trust_coefficient=0.02,
        trust_clip=True,
        epsilon=1e-8,
        weight_decay=None,
        exclude_from_weight_decay="1d",
        exclude_from_layer_adaptation="1d",
        **keras_optimizer_arguments,
    ):
        _check(optimizer)
        own_decay = None if isinstance(optimizer, LayerwiseOptimizer) else optimizer.weight_decay
        moved = {name: getattr(optimizer, name) for name in KERAS_SETTINGS}
        super().__init__(
            learning_rate=_InnerRate(optimizer),
            weight_decay=(own_decay or 0.0) if weight_decay is None else weight_decay,
            exclude_from_weight_decay=exclude_from_weight_decay,
            exclude_from_layer_adaptation=exclude_from_layer_adaptation,
            **{**moved, **keras_optimizer_arguments},
        )
        for name, value in KERAS_SETTINGS.items():
            setattr(optimizer, name, value)
        self.optimizer = optimizer
        self.trust_coefficient = arguments.number(
            "trust_coefficient", trust_coefficient, 0, open_minimum=True
        )
        self.trust_clip = arguments.flag("trust_clip", trust_clip)
        self.epsilon = arguments.number("epsilon", epsilon, 0)

    def build(self, variables):
        """Create the state for `variables`, the inner optimizer's too."""
        if self.built:
            return
        self.optimizer.build(variables)
        super().build(variables)

    @property
    def variables(self):
        """All state: LARC's own, then the inner optimizer's."""
        return super().variables + self.optimizer.variables

    @property
    def learning_rate(self):
        """The inner optimizer's learning rate."""
        return self._get_current_learning_rate()

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.optimizer.learning_rate = learning_rate

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        layers = self._layers_of(trainable_variables)
        adapted = self._adapted(layers, grads, trainable_variables, self._numbers(learning_rate))
        self.optimizer._backend_update_step(adapted, trainable_variables, learning_rate)
        self.optimizer._iterations.assign_add(1)

    def _adapted(self, layers, grads, variables, numbers):
        weights = [ops.convert_to_tensor(variable) for variable in variables]
        norms = self.norms_of_inputs(layers, weights, grads, [{}] * len(layers), l2_norm)
        ratios = self._ratios_of(layers, norms, self._stacked_scalars(layers, numbers, norms, {}))
        for name, values in {"trust_ratio": ratios, **norms}.items():
            record = self._plan.telemetry[name]
            record.assign(place(record, layers, values))
        adapted = []
        for k, (layer, w, g) in enumerate(zip(layers, weights, grads, strict=True)):
            s = self._layer_scalars(layer, k, numbers, {}, {})
            d = decayed(ops.cast(w, layer.compute_dtype), g, s.weight_decay)
            adapted.append(
                ops.cast(ratios[k] / self._times_summed_again(), layer.compute_dtype) * d
            )
        return adapted

    def _times_summed_again(self):
        """How often a Keras optimizer adds up the gradients of tf.distribute's replicas, which are
        whole already; this package's own do so before `_backend_update_step`."""
        strategy = getattr(self, "_distribution_strategy", None)
        if strategy is None or isinstance(self.optimizer, LayerwiseOptimizer):
            return 1
        return strategy.num_replicas_in_sync

    def ratios(self, norms, s):
        ratio = trust_ratio.lars_sum(
            norms["weight"], norms["gradient"], s.weight_decay, self.trust_coefficient, self.epsilon
        )
        return trust_ratio.larc_clipped(ratio, s.learning_rate) if self.trust_clip else ratio

    def get_config(self):
        config = super().get_config()
        for name in ("learning_rate", "learning_rate_multipliers", "master_weights", "jit_compile"):
            del config[name]
        config.update(
            optimizer=keras.saving.serialize_keras_object(self.optimizer),
            trust_coefficient=self.trust_coefficient,
            trust_clip=self.trust_clip,
            epsilon=self.epsilon,
        )
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        inner = keras.saving.deserialize_keras_object(
            config["optimizer"], custom_objects=custom_objects
        )
        return cls(**{**config, "optimizer": inner})


class _InnerRate(keras.optimizers.schedules.LearningRateSchedule):
    """The inner optimizer's rate, at LARC's step.

    Under gradient accumulation the inner optimizer counts updates, but Keras's schedules count
    every step.
    """

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def __call__(self, step):
        rate = self.optimizer._learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            return rate(step)
        return self.optimizer.learning_rate

    def get_config(self):
        return {}  # the inner optimizer's configuration has the rate


def _check(optimizer):
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(f"optimizer={optimizer!r} must be a keras.optimizers.Optimizer.")
    if isinstance(optimizer, WRAPPERS):
        raise ValueError(
            f"optimizer={type(optimizer).__name__} holds other optimizers: put LARC inside it, "
            "around each of them."
        )
    if optimizer.built:
        raise ValueError(
            f"optimizer={optimizer.name!r} is built already: LARC wraps an optimizer before its "
            "first step."
        )
    if getattr(optimizer, "_exclude_from_weight_decay", None) or getattr(
        optimizer, "_exclude_from_weight_decay_pattern", None
    ):
        raise ValueError(
            f"optimizer={optimizer.name!r} has variables excluded from weight decay: give them to "
            "LARC's exclude_from_weight_decay instead."
        )
