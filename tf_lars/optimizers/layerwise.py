"""The shared Keras optimizer of all layer-wise rules.

A rule is one small file: a subclass of `LayerwiseOptimizer` that says what it keeps for each
variable and how one variable moves. The base does everything else: float32 arithmetic for half
precision variables, dense gradients from IndexedSlices, norms, ratios as one stacked vector, one
compiled call over all variables, assignment, tf.distribute, exclusions, learning-rate
multipliers, weight-decay schedules, master copies and telemetry; Keras adds gradient accumulation,
clipping and EMA.

The hooks of a rule
-------------------
`slot_names`         names of the state variables of each weight, shaped like it.
`scalar_slot_names`  names of the scalar state variables of each weight.
`shared_slot_names`  names of the scalar state variables of the whole optimizer.
`input_norms`        which of "weight" and "gradient" the ratio needs. They are taken outside
                     the compiled call, where TensorFlow's reduction uses all cores.
`measured_names`     the names of the tensors that `direction` hands over to be measured.

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
and `shared`, a dict of the shared slots.
`s.weight_decay` is None where the layer does not decay, 0 in the stacked vectors. Tensors are in
the layer's compute type: float32, or float64 for float64 variables. Hooks use `keras.ops` only
and hold no state of their own.
"""

import dataclasses
import math

import keras
from keras import ops

from tf_lars.optimizers import arguments, masks, presets
from tf_lars.optimizers.compiled import (
    at_least_float32,
    dense_gradient,
    l2_norm,
    make_program,
)


@dataclasses.dataclass(frozen=True)
class Layer:
    """What is fixed about one variable once the optimizer is built."""

    index: int
    path: str
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


class Plan:
    """What `build` resolves and creates; a plain object, so that Keras does not track inside it."""

    def __init__(self, layers, shared, telemetry):
        self.layers = layers
        self.shared = shared
        self.telemetry = telemetry
        wide = any(layer.compute_dtype == "float64" for layer in layers)
        self.vector_dtype = "float64" if wide else "float32"


def decayed(w, g, weight_decay):
    """d = g + βw, and g itself where nothing decays."""
    return g if weight_decay is None else g + weight_decay * w


def bias_correction(beta, step):
    """1 − βᵗ; `expm1` keeps the digits that 1 − 0.999 would lose in float32."""
    return -ops.expm1(step * math.log(beta)) if beta else ops.ones_like(step)


class LayerwiseOptimizer(keras.optimizers.Optimizer):
    """Base of the layer-wise adaptive optimizers; see the module's docstring for its hooks.

    Args:
        learning_rate: γ, a number ≥ 0, a `LearningRateSchedule`, or a callable of no arguments.
        weight_decay: β, a number ≥ 0, a `LearningRateSchedule` (of the iteration), or a callable of
            no arguments. It is part of the rule; Keras's own decay is never used.
        exclude_from_weight_decay: variables that do not decay (see `tf_lars.optimizers.masks`).
        exclude_from_layer_adaptation: variables whose trust ratio is 1.
        learning_rate_multipliers: a dict from regular expressions on variable paths (or "1d") to
            factors of the learning rate; the first match counts.
        master_weights: keep a float32 copy of float16 and bfloat16 variables and update that.
        record_gradient_norms: take ‖g‖ for `gradient_norms` where the rule does not need it, at
            the price of one more pass over the gradients.
        jit_compile: compile the update with XLA; "auto" does where the backend can.
        **keras_optimizer_arguments: clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
            ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name.

    Raises:
        ValueError: an argument is out of its range; the message names it and what is allowed.
    """

    slot_names = ()
    scalar_slot_names = ()
    shared_slot_names = ()
    input_norms = ("weight", "gradient")
    measured_names = ()

    def __init__(
        self,
        learning_rate,
        weight_decay=0.0,
        exclude_from_weight_decay="1d",
        exclude_from_layer_adaptation="1d",
        learning_rate_multipliers=None,
        master_weights=False,
        record_gradient_norms=False,
        jit_compile="auto",
        **keras_optimizer_arguments,
    ):
        super().__init__(
            learning_rate=arguments.learning_rate(learning_rate), **keras_optimizer_arguments
        )
        self.weight_decay = arguments.rate("weight_decay", weight_decay)
        self.jit_compile = arguments.choice("jit_compile", jit_compile, ("auto", True, False))
        self.master_weights = arguments.flag("master_weights", master_weights)
        self.record_gradient_norms = arguments.flag("record_gradient_norms", record_gradient_norms)
        self._masks = masks.Masks(
            exclude_from_weight_decay, exclude_from_layer_adaptation, learning_rate_multipliers
        )

    @classmethod
    def from_preset(cls, preset, learning_rate, **overrides):
        """The optimizer as a published implementation has it; see `tf_lars.optimizers.presets`.

        Args:
            preset: a name in the class's table of presets.
            learning_rate: γ.
            **overrides: constructor arguments that differ from the preset.

        Raises:
            ValueError: no such preset; the message lists them.
        """
        chosen = presets.find(cls.__name__, preset).arguments
        return cls(learning_rate=learning_rate, **{**chosen, **overrides})

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Exclude more variables from weight decay, as on every Keras optimizer.

        Args:
            var_list: variables.
            var_names: regular expressions searched in the variables' names.

        Raises:
            ValueError: the optimizer is built already.
        """
        if self.built:
            raise ValueError(
                "exclude_from_weight_decay() must be called before the optimizer is built."
            )
        self._masks.add_to_weight_decay(var_list or [], var_names or [])

    def build(self, variables):
        """Resolve the exclusions and create the state for `variables`."""
        if self.built:
            return
        super().build(variables)
        layers = tuple(
            Layer(
                index=index,
                path=masks.path_of(variable),
                dtype=keras.backend.standardize_dtype(variable.dtype),
                compute_dtype=at_least_float32(variable.dtype),
                slots=self._create_slots(variable),
                **resolved,
            )
            for index, (variable, resolved) in enumerate(
                zip(variables, self.resolved(variables), strict=True)
            )
        )
        self._plan = Plan(
            layers,
            shared={name: self.add_variable((), name=name) for name in self.shared_slot_names},
            telemetry={
                name: self.add_variable(
                    (len(layers),), name=name, dtype="float32", aggregation="only_first_replica"
                )
                for name in ("trust_ratio", *self.taken_norms(), *self.measured_names)
            },
        )
        self._program = make_program(self, self._plan)

    def resolved(self, variables):
        """For each variable a dict of decays, adapts and learning_rate_multiplier."""
        return self._masks.resolve(variables)

    def taken_norms(self):
        """The norms that are taken outside the compiled call: the rule's and the recorded one."""
        extra = self.record_gradient_norms and "gradient" not in self.input_norms
        return (*self.input_norms, "gradient") if extra else self.input_norms

    def _create_slots(self, variable):
        slots = {
            name: self.add_variable_from_reference(variable, name=name) for name in self.slot_names
        }
        dtype = at_least_float32(variable.dtype)
        for name in self.scalar_slot_names:
            slots[name] = self.add_variable(
                (), name=f"{masks.path_of(variable).replace('/', '_')}_{name}", dtype=dtype
            )
        if self.master_weights and dtype != keras.backend.standardize_dtype(variable.dtype):
            slots["master"] = self.add_variable_from_reference(variable, name="master")
        return slots

    def add_variable(self, shape, initializer="zeros", dtype=None, **kwargs):
        """Add a state variable; state is never kept in less than float32."""
        if dtype is not None and "float" in str(dtype):
            dtype = at_least_float32(dtype)
        return super().add_variable(shape, initializer=initializer, dtype=dtype, **kwargs)

    def apply(self, grads, trainable_variables=None):
        """Update the variables once.

        Args:
            grads: one gradient for each variable, or None; IndexedSlices are made dense, which adds
                up rows that occur twice before anything is squared.
            trainable_variables: the variables; may be left out once the optimizer is built.
        """
        super().apply([dense_gradient(gradient) for gradient in grads], trainable_variables)

    def _apply_weight_decay(self, variables):
        """Nothing: the decay is part of each rule."""

    def _clip_gradients(self, grads):
        """Clip the whole gradient: Keras would clip each replica's part of it."""
        return super()._clip_gradients(self._program.reduced(grads))

    def _overwrite_model_variables_with_average_value(self, trainable_variables):
        """As Keras's, but right for half precision variables, whose averages are float32."""
        self._program.overwrite(trainable_variables, self._model_variables_moving_average)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        layers = self._layers_of(trainable_variables)
        numbers = self._numbers(learning_rate)
        self._program.run(layers, grads, trainable_variables, numbers, self.given_norms(layers))

    def _layers_of(self, variables):
        return tuple(self._plan.layers[self._get_variable_index(v)] for v in variables)

    def _numbers(self, learning_rate):
        dtype = self._plan.vector_dtype
        return (
            ops.cast(learning_rate, dtype),
            ops.cast(self._current_weight_decay(), dtype),
            ops.cast(self.iterations + 1, dtype),
        )

    def given_norms(self, layers):
        """Vectors [K] that reach `ratios` beside the measured norms; none by default."""
        return {}

    def _current_weight_decay(self):
        decay = self.weight_decay
        if isinstance(decay, keras.optimizers.schedules.LearningRateSchedule):
            return decay(self._iterations)
        return decay() if callable(decay) else decay

    def norms_of_inputs(self, layers, weights, grads, slots, norm):
        """The vectors [K] of `taken_norms`, each norm taken by `norm`."""
        names, taken = self.taken_norms(), {}
        if "weight" in names:
            taken["weight"] = [
                norm(current_weight(*each)) for each in zip(layers, weights, slots, strict=True)
            ]
        if "gradient" in names:
            taken["gradient"] = [norm(g) for g in grads]
        return {
            name: ops.stack([ops.cast(value, self._plan.vector_dtype) for value in values])
            for name, values in taken.items()
        }

    def updated(self, layers, weights, grads, slots, input_norms, numbers, shared):
        """One step of all layers as a pure function.

        Args:
            layers: the `Layer`s.
            weights, grads: tensors, one for each layer.
            slots: a dict of tensors for each layer.
            input_norms: a dict of vectors [K]: `taken_norms` and `given_norms`.
            numbers: (γ, β, step).
            shared: a dict of the shared slots.

        Returns:
            (new weights, new slots, new shared slots, telemetry: a dict of vectors [K]).
        """
        weights = [current_weight(*each) for each in zip(layers, weights, slots, strict=True)]
        grads = [ops.cast(g, layer.compute_dtype) for layer, g in zip(layers, grads, strict=True)]
        scalars = [
            self._layer_scalars(layer, numbers, {n: v[k] for n, v in input_norms.items()}, shared)
            for k, layer in enumerate(layers)
        ]
        stacked = self._stacked_scalars(layers, numbers, input_norms, shared)

        changed, measured = [], []
        for layer, w, g, slot, s in zip(layers, weights, grads, slots, scalars, strict=True):
            new_slots, tensors = self.direction(layer, w, g, slot, s)
            changed.append({**slot, **new_slots})
            measured.append(tensors)
        norms = {**input_norms, **self._measured_norms(measured)}
        ratios = self._masked(layers, self.ratios(norms, stacked))

        new_weights = []
        for k, layer in enumerate(layers):
            ratio = ops.cast(ratios[k], layer.compute_dtype)
            w, new_slots = self.step(
                layer, weights[k], grads[k], changed[k], measured[k], ratio, scalars[k]
            )
            changed[k].update(new_slots)
            if "master" in changed[k]:
                changed[k]["master"] = w
            new_weights.append(ops.cast(w, layer.dtype))
        first = ratios if len(ratios.shape) == 1 else ratios[:, 0]
        recorded = (*self.taken_norms(), *self.measured_names)
        telemetry = {"trust_ratio": first, **{name: norms[name] for name in recorded}}
        return new_weights, changed, self.shared_update(stacked), telemetry

    def _layer_scalars(self, layer, numbers, norms, shared):
        dtype = layer.compute_dtype
        learning_rate, weight_decay, step = (ops.cast(value, dtype) for value in numbers)
        factor = layer.learning_rate_multiplier
        return Scalars(
            learning_rate=learning_rate if factor == 1.0 else learning_rate * factor,
            base_learning_rate=learning_rate,
            weight_decay=weight_decay if layer.decays and not self._decay_is_off() else None,
            step=step,
            norms={name: ops.cast(value, dtype) for name, value in norms.items()},
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

    def _measured_norms(self, measured):
        dtype = self._plan.vector_dtype
        return {
            name: ops.stack([ops.cast(l2_norm(tensors[name]), dtype) for tensors in measured])
            for name in measured[0]
        }

    def _masked(self, layers, ratios):
        if all(layer.adapts for layer in layers):
            return ratios
        adapts = ops.convert_to_tensor([layer.adapts for layer in layers], dtype="bool")
        adapts = ops.reshape(adapts, (-1,) + (1,) * (len(ratios.shape) - 1))
        return ops.where(adapts, ratios, ops.ones_like(ratios))

    def shared_update(self, s):
        """New values of the shared slots; none by default."""
        return {}

    @property
    def trust_ratios(self):
        """The last step's trust ratio of each variable: a dict from path to tensor."""
        return self._by_path("trust_ratio")

    @property
    def weight_norms(self):
        """The last step's ‖w‖, before it, of each variable: a dict from path to tensor."""
        return self._by_path("weight")

    @property
    def gradient_norms(self):
        """The last step's ‖g‖, as clipped, of each variable: a dict from path to tensor.

        Raises:
            ValueError: this rule does not need ‖g‖ and `record_gradient_norms` is off.
        """
        return self._by_path("gradient")

    @property
    def update_norms(self):
        """The last step's norm of what the ratio divides by, ‖u‖ or ‖g + βw‖, of each variable."""
        return self._by_path((*self.measured_names, "gradient")[0])

    def _by_path(self, name):
        if not self.built:
            raise ValueError(f"{type(self).__name__} is not built yet: it has made no step.")
        if name not in self._plan.telemetry:
            raise ValueError(
                f"{type(self).__name__} does not take the {name} norms for its ratio; "
                "record_gradient_norms=True has them recorded."
            )
        values = ops.convert_to_tensor(self._plan.telemetry[name])
        return {layer.path: values[layer.index] for layer in self._plan.layers}

    def get_config(self):
        """The constructor's arguments.

        Raises:
            ValueError: a callable among them is not registered with Keras.
        """
        config = super().get_config()
        if callable(self._learning_rate) and not isinstance(
            self._learning_rate, keras.optimizers.schedules.LearningRateSchedule
        ):
            arguments.serialised_callable("learning_rate", self._learning_rate)
        config["weight_decay"] = arguments.serialised_rate("weight_decay", self.weight_decay)
        config.update(self._masks.get_config())
        config["master_weights"] = self.master_weights
        config["record_gradient_norms"] = self.record_gradient_norms
        config["jit_compile"] = self.jit_compile
        return config


def current_weight(layer, variable, slots):
    """The weight in its compute type: the master copy, unless the variable was set from outside."""
    w = ops.cast(variable, layer.compute_dtype)
    if "master" not in slots:
        return w
    master = slots["master"]
    return ops.where(ops.cast(master, layer.dtype) == variable, master, w)
