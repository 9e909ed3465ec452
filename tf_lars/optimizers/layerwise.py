"""The shared Keras optimizer of all layer-wise rules.

A rule is one small file: a subclass of `LayerwiseOptimizer` that says what it keeps for each
variable and how one variable moves. The base does everything else: float32 arithmetic for half
precision variables, dense gradients from IndexedSlices, norms, ratios as one stacked vector, one
compiled update over all variables, assignment, tf.distribute, exclusions, learning-rate
multipliers, weight-decay schedules, master copies and telemetry; Keras adds gradient accumulation,
clipping and EMA. The mathematics is in `rule.py`, how it runs on a backend in `compiled.py`.
"""

import keras
from keras import ops

from tf_lars.optimizers import arguments, masks, presets
from tf_lars.optimizers.compiled import at_least_float32, dense_gradient, make_program
from tf_lars.optimizers.rule import Layer, Rule


class Plan:
    """What `build` resolves and creates; a plain object, so that Keras does not track inside it."""

    def __init__(self, layers, shared, telemetry):
        self.layers = layers
        self.shared = shared
        self.telemetry = telemetry
        wide = any(layer.compute_dtype == "float64" for layer in layers)
        self.vector_dtype = "float64" if wide else "float32"


class LayerwiseOptimizer(Rule, keras.optimizers.Optimizer):
    """Base of the layer-wise adaptive optimizers; see `rule.py` for its hooks.

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
                shape=tuple(variable.shape),
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
            self._current_weight_decay(dtype),
            ops.cast(self.iterations + 1, dtype),
        )

    def _current_weight_decay(self, dtype):
        decay = self.weight_decay
        if isinstance(decay, float):
            return ops.convert_to_tensor(decay, dtype=dtype)  # a cast would round to float32 first
        if isinstance(decay, keras.optimizers.schedules.LearningRateSchedule):
            return ops.cast(decay(self._iterations), dtype)
        return ops.cast(decay(), dtype)

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
