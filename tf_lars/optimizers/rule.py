"""The mathematics of a layer-wise rule: pure functions from tensors to tensors.

A rule is one small file: a subclass of `LayerwiseOptimizer`, and so of `Rule`, that says what it
keeps for each variable and how one variable moves. `Rule` makes one step of many layers of it:
float32 arithmetic for half precision variables, learning-rate multipliers, decay where it applies,
ratios as one stacked vector, 1 where a layer does not adapt.

The hooks of a rule
-------------------
`slot_names`         names of the state variables of each weight, shaped like it.
`scalar_slot_names`  names of the scalar state variables of each weight.
`shared_slot_names`  names of the scalar state variables of the whole optimizer.
`input_norms`        which of "weight" and "gradient" the ratio needs.
`measured_names`     the names of the tensors that `direction` hands over to be measured.
`elementwise`        whether a layer that does not adapt moves weight by weight, without any norm:
                     several such layers are then updated as one vector.

`direction(layer, w, g, slots, s)` → (new_slots, measured)
    The part before the ratio is known. `new_slots` is a dict of the slots that change here;
    `measured` a dict from names to tensors whose norms the ratio needs ("update", say).
`ratios(norms, s)` → ratios
    The ratios of all layers at once, from `tf_lars.optimizers.trust_ratio`. `norms` maps the
    names of `input_norms` and `measured_names` to vectors [K]; so are the entries of `s`. The
    result is a vector [K], or [K, n] for a rule with n ratios a layer. The base puts 1 for layers
    that do not adapt.
`step(layer, w, g, slots, measured, ratio, s)` → (new_w, new_slots)
    The rest: `slots` holds what `direction` returned. `ratio` is the layer's scalar, or vector
    [n].
`given_norms(layers)` → dict
    Vectors [K] from elsewhere that `ratios` finds among its norms.
`shared_update(s)` → dict
    New values of the shared slots, after the step.

`layer` is a `Layer`: index, path, dtype, `decays`, `adapts`, `learning_rate_multiplier`. `s` is a
`Scalars`: `learning_rate` (the layer's multiplier is in it), `base_learning_rate` (it is not),
`weight_decay`, `step` (1 for the first update), `norms`, a dict of the norms in `input_norms`,
and `shared`, a dict of the shared slots. An elementwise rule gets no norms for a single layer.
`s.weight_decay` is None where the layer does not decay, 0 in the stacked vectors. Tensors are in
the layer's compute type: float32, or float64 for float64 variables. Hooks use `keras.ops` only
and hold no state of their own.
"""

import dataclasses
import math

from keras import ops

from tf_lars.optimizers.compiled import l2_norm


@dataclasses.dataclass(frozen=True)
class Layer:
    """What is fixed about one variable once the optimizer is built."""

    index: int
    path: str
    shape: tuple
    dtype: str
    compute_dtype: str
    decays: bool
    adapts: bool
    learning_rate_multiplier: float
    slots: dict  # name → keras.Variable


@dataclasses.dataclass(frozen=True)
class Scalars:
    """The numbers of one step, for one layer or stacked over all."""

    learning_rate: object
    base_learning_rate: object
    weight_decay: object
    step: object
    norms: dict
    shared: dict


def decayed(w, g, weight_decay):
    """d = g + βw, and g itself where nothing decays."""
    return g if weight_decay is None else g + weight_decay * w


def bias_correction(beta, step):
    """1 − βᵗ; `expm1` keeps the digits that 1 − 0.999 would lose in float32."""
    return -ops.expm1(step * math.log(beta)) if beta else ops.ones_like(step)


class Rule:
    """One step of many layers; see the module's docstring for the hooks of a rule."""

    slot_names = ()
    scalar_slot_names = ()
    shared_slot_names = ()
    input_norms = ("weight", "gradient")
    measured_names = ()
    elementwise = False

    def taken_norms(self):
        """The norms of weights and gradients to take: the rule's and the recorded one."""
        extra = self.record_gradient_norms and "gradient" not in self.input_norms
        return (*self.input_norms, "gradient") if extra else self.input_norms

    def given_norms(self, layers):
        """Vectors [K] that reach `ratios` beside the measured norms; none by default."""
        return {}

    def shared_update(self, s):
        """New values of the shared slots; none by default."""
        return {}

    def norms_of_inputs(self, layers, weights, grads, slots, norm):
        """The vectors [K] of `taken_norms`, each norm taken by `norm`."""
        names, taken = self.taken_norms(), {}
        if "weight" in names:
            taken["weight"] = [
                norm(current_weight(*each)) for each in zip(layers, weights, slots, strict=True)
            ]
        if "gradient" in names:
            taken["gradient"] = [norm(g) for g in grads]
        return {name: self._stacked(values) for name, values in taken.items()}

    def norms_of_measured(self, measured, norm):
        """The vectors [K] of `measured_names`, each norm taken by `norm`."""
        return {
            name: self._stacked([norm(tensors[name]) for tensors in measured])
            for name in measured[0]
        }

    def _stacked(self, values):
        return ops.stack([ops.cast(value, self._plan.vector_dtype) for value in values])

    def updated(self, layers, weights, grads, slots, norms, numbers, shared):
        """One step of all layers: `directions`, the norms of what they measure, and `steps`.

        Args:
            layers: the `Layer`s.
            weights, grads: tensors, one for each layer.
            slots: a dict of tensors for each layer.
            norms: a dict of vectors [K]: `taken_norms` and `given_norms`.
            numbers: (γ, β, step).
            shared: a dict of the shared slots.

        Returns:
            (new weights, new slots, new shared slots, telemetry: a dict of vectors [K]).
        """
        slots, measured = self.directions(layers, weights, grads, slots, norms, numbers, shared)
        norms = {**norms, **self.norms_of_measured(measured, l2_norm)}
        weights, slots, shared, ratios = self.steps(
            layers, weights, grads, slots, measured, norms, numbers, shared
        )
        return weights, slots, shared, self.telemetry(ratios, norms)

    def directions(self, layers, weights, grads, slots, norms, numbers, shared):
        """The part of a step before its ratios: (slots, measured), each a dict for each layer."""
        changed, measured = [], []
        for k, layer in enumerate(layers):
            s = self._layer_scalars(layer, k, numbers, norms, shared)
            w, g = _computed(layer, weights[k], grads[k], slots[k])
            new_slots, tensors = self.direction(layer, w, g, slots[k], s)
            changed.append({**slots[k], **new_slots})
            measured.append(tensors)
        return changed, measured

    def steps(self, layers, weights, grads, slots, measured, norms, numbers, shared):
        """The part after all norms: (new weights, new slots, new shared slots, ratios [K])."""
        stacked = self._stacked_scalars(layers, numbers, norms, shared)
        ratios = self._ratios_of(layers, norms, stacked)
        new_weights, changed = [], []
        for k, layer in enumerate(layers):
            s = self._layer_scalars(layer, k, numbers, norms, shared)
            w, g = _computed(layer, weights[k], grads[k], slots[k])
            ratio = ops.cast(ratios[k], layer.compute_dtype)
            w, new_slots = self.step(layer, w, g, slots[k], measured[k], ratio, s)
            master = {"master": w} if "master" in slots[k] else {}
            changed.append({**slots[k], **new_slots, **master})
            new_weights.append(ops.cast(w, layer.dtype))
        return new_weights, changed, self.shared_update(stacked), ratios

    def telemetry(self, ratios, norms):
        """What is recorded of a step: a dict of vectors [K]."""
        first = ratios if len(ratios.shape) == 1 else ratios[:, 0]
        recorded = (*self.taken_norms(), *self.measured_names)
        return {"trust_ratio": first, **{name: norms[name] for name in recorded}}

    def _layer_scalars(self, layer, k, numbers, norms, shared):
        dtype = layer.compute_dtype
        learning_rate, weight_decay, step = (ops.cast(value, dtype) for value in numbers)
        factor = layer.learning_rate_multiplier
        return Scalars(
            learning_rate=learning_rate if factor == 1.0 else learning_rate * factor,
            base_learning_rate=learning_rate,
            weight_decay=weight_decay if layer.decays and not self._decay_is_off() else None,
            step=step,
            norms={}
            if self.elementwise
            else {name: ops.cast(values[k], dtype) for name, values in norms.items()},
            shared={name: ops.cast(value, dtype) for name, value in shared.items()},
        )

    def _decay_is_off(self):
        return isinstance(self.weight_decay, float) and self.weight_decay == 0.0

    def _stacked_scalars(self, layers, numbers, norms, shared):
        learning_rate, weight_decay, step = numbers
        factors = [layer.learning_rate_multiplier for layer in layers]
        decays = [float(layer.decays) for layer in layers]
        dtype = self._plan.vector_dtype
        return Scalars(
            learning_rate=learning_rate * ops.convert_to_tensor(factors, dtype=dtype),
            base_learning_rate=learning_rate,
            weight_decay=weight_decay * ops.convert_to_tensor(decays, dtype=dtype),
            step=step,
            norms=norms,
            shared=shared,
        )

    def _ratios_of(self, layers, norms, stacked):
        if self.elementwise and not any(layer.adapts for layer in layers):
            return ops.ones((len(layers),), dtype=self._plan.vector_dtype)
        ratios = self.ratios(norms, stacked)
        if all(layer.adapts for layer in layers):
            return ratios
        adapts = ops.convert_to_tensor([layer.adapts for layer in layers], dtype="bool")
        adapts = ops.reshape(adapts, (-1,) + (1,) * (len(ratios.shape) - 1))
        return ops.where(adapts, ratios, ops.ones_like(ratios))


def _computed(layer, weight, gradient, slots):
    """Weight and gradient in the layer's compute type."""
    return current_weight(layer, weight, slots), ops.cast(gradient, layer.compute_dtype)


def current_weight(layer, variable, slots):
    """The weight in its compute type: the master copy, unless the variable was set from outside."""
    w = ops.cast(variable, layer.compute_dtype)
    if "master" not in slots:
        return w
    master = slots["master"]
    return ops.where(ops.cast(master, layer.dtype) == variable, master, w)
