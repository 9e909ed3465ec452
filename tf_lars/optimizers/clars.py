"""CLARS: complete layer-wise adaptive rate scaling (Huo, Gu, Huang 2020, arXiv 2002.01576)."""

import threading
import warnings

import keras
from keras import ops

from tf_lars.optimizers import arguments, trust_ratio
from tf_lars.optimizers.compiled import dense_gradient
from tf_lars.optimizers.lars import LARS

MOMENTUM_RULES = ("scaled", "trust_scaled", "unscaled")
_FIXED = ("denominator", "momentum_correction", "trust_clip", "min_trust_ratio")


@keras.saving.register_keras_serializable(package="tf_lars")
class CLARS(LARS):
    """LARS whose denominator is the mean norm of the parts' gradients, not the norm of their mean.

    With d = g + βw and ‖g_i‖ the norm of the gradient of part i (an example, in the paper):

        λ = min(λ_max, η‖w‖ / (mean_i ‖g_i‖ + ε)),  v = μv + d,  w −= γλv

    As mean‖g_i‖ ≥ ‖mean g_i‖, the ratio is never above that of LARS, which is what makes a warm-up
    unnecessary. `apply` takes the mean norms. With `gradient_accumulation_steps` they are taken
    from the accumulated gradients, each a part, when none are given. Without either the ratio is
    that of `LARS(denominator="joint")`, and a warning says so once.

    The authors' momentum gathers gradients of any size and lets today's ratio scale all of them:
    where gradients shrink quickly that is unstable. `momentum_rule="scaled"` is LARS's own momentum
    with CLARS's ratio; docs/results.md compares them.

    Args:
        learning_rate: γ: number ≥ 0, `LearningRateSchedule`, or callable of no arguments.
        momentum: μ in [0, 1).
        nesterov: step along d + μv.
        weight_decay: β: number ≥ 0, `LearningRateSchedule`, or callable of no arguments.
        trust_coefficient: η > 0.
        max_trust_ratio: λ_max > 0, or None.
        epsilon: ε ≥ 0.
        momentum_rule: "unscaled", as above; "scaled": v = μv + γλd, w −= v; "trust_scaled":
            v = μv + λd, w −= γv.
        exclude_from_weight_decay, exclude_from_layer_adaptation: as for `LARS`. The authors keep
            the decay on every variable: `exclude_from_weight_decay=None`.
        jit_compile: compile the update with XLA; "auto" does where the backend can.
        **shared_arguments: as for `LARS`.

    Raises:
        ValueError: an argument is out of its range.

    Example:

    >>> import keras, numpy as np
    >>> from tf_lars import CLARS
    >>> w = keras.Variable(np.ones((2, 2)))
    >>> optimizer = CLARS(learning_rate=1.0)
    >>> optimizer.apply([keras.ops.ones((2, 2))], [w], mean_gradient_norms=[4.0])
    >>> round(float(optimizer.trust_ratios[w.path]), 6)
    0.005
    """

    def __init__(
        self,
        learning_rate=0.1,
        momentum=0.9,
        nesterov=False,
        weight_decay=0.0,
        trust_coefficient=0.01,
        max_trust_ratio=0.1,
        epsilon=1e-6,
        momentum_rule="unscaled",
        **shared_arguments,
    ):
        super().__init__(
            learning_rate,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            trust_coefficient=trust_coefficient,
            epsilon=epsilon,
            momentum_rule=arguments.choice("momentum_rule", momentum_rule, MOMENTUM_RULES),
            denominator="joint",
            max_trust_ratio=max_trust_ratio,
            **shared_arguments,
        )
        self._given = _GivenNorms()

    def build(self, variables):
        """As the base; with accumulation, also the running sum of the parts' norms."""
        if self.built:
            return
        super().build(variables)
        if self.gradient_accumulation_steps:
            self._given.sums = self.add_variable((len(variables),), name="sum_of_norms")

    def apply(self, grads, trainable_variables=None, mean_gradient_norms=None):
        """Update the variables once.

        Args:
            grads: one gradient for each variable, or None.
            trainable_variables: the variables; may be left out once the optimizer is built.
            mean_gradient_norms: mean_i ‖g_i‖ for each variable: scalars, or one vector [K], at the
                scale of `grads` (before `loss_scale_factor` is divided out).

        Raises:
            ValueError: the number of mean norms is not that of the gradients.
        """
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            if not self.built:
                self.build(trainable_variables)
        variables = (
            self._trainable_variables if trainable_variables is None else trainable_variables
        )
        grads = [dense_gradient(gradient) for gradient in grads]
        if mean_gradient_norms is None and self.gradient_accumulation_steps:
            mean_gradient_norms = [None if g is None else self._program.norm(g) for g in grads]
        try:
            if mean_gradient_norms is not None:
                self._receive(mean_gradient_norms, grads, variables)
            super().apply(grads, trainable_variables)
        finally:
            self._given.forget()

    def _receive(self, mean_gradient_norms, grads, variables):
        if len(mean_gradient_norms) != len(grads):
            raise ValueError(
                f"mean_gradient_norms has {len(mean_gradient_norms)} entries for {len(grads)} "
                "gradients: give one for each."
            )
        scale = self.loss_scale_factor or 1.0
        indices = [self._get_variable_index(variable) for variable in variables]
        norms = {
            index: ops.cast(norm, "float32") / scale
            for index, norm, gradient in zip(indices, mean_gradient_norms, grads, strict=True)
            if gradient is not None
        }
        steps = self.gradient_accumulation_steps
        if steps:
            norms = self._averaged(norms, steps)
        self._given.norms = norms

    def _averaged(self, norms, steps):
        """The means over the accumulated steps so far; whole when Keras makes the update."""
        zero = ops.zeros((), "float32")
        vector = ops.stack([norms.get(k, zero) for k in range(len(self._trainable_variables))])
        sums = self._given.sums
        is_first = ops.equal(self._iterations % steps, 0)
        before = ops.convert_to_tensor(sums)
        total = vector + ops.where(is_first, ops.zeros_like(vector), before)
        sums.assign(total)
        means = total / steps
        return {index: means[index] for index in norms}

    def given_norms(self, layers):
        if self._given.norms:
            return {"mean_gradient": ops.stack([self._given.norms[a.index] for a in layers])}
        if not self._given.warned:
            self._given.warned = True
            warnings.warn(
                "CLARS.apply was given no mean_gradient_norms: it steps as LARS with "
                f"momentum_rule={self.momentum_rule!r} and denominator='joint'. Train with "
                "tf_lars.LargeBatchModel, or pass the mean norms yourself.",
                stacklevel=2,
            )
        return {}

    def ratios(self, norms, s):
        if "mean_gradient" not in norms:
            return super().ratios(norms, s)
        mean = ops.cast(norms["mean_gradient"], norms["weight"].dtype)
        ratio = trust_ratio.lars_joint(norms["weight"], mean, self.trust_coefficient, self.epsilon)
        return trust_ratio.bounded(ratio, maximum=self.max_trust_ratio)

    def get_config(self):
        config = super().get_config()
        return {name: value for name, value in config.items() if name not in _FIXED}


class _GivenNorms:
    """The mean norms of the step being made; a plain object, out of Keras's tracking.

    The replicas of a `tf.distribute` strategy are threads that take turns within a step.
    """

    def __init__(self):
        self._of_thread = {}
        self.sums = None
        self.warned = False

    @property
    def norms(self):
        """This thread's mean norms by the variable's index."""
        return self._of_thread.get(threading.get_ident(), {})

    @norms.setter
    def norms(self, norms):
        self._of_thread[threading.get_ident()] = norms

    def forget(self):
        """Drop this thread's mean norms."""
        self._of_thread.pop(threading.get_ident(), None)
