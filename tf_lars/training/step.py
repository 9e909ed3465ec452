"""One update from any batch on any device: micro-batches in a compiled loop, one reduction.

What happens in a step, for a batch of B rows over W workers in micro-batches of n rows:

1. Each worker runs its micro-batches one after another in a `tf.while_loop` and adds up
   rows·gradient in float32. Memory is that of one micro-batch, and the number of micro-batches is a
   number in the graph, so it may change from step to step without a new trace.
2. One small all-reduce adds up the rows, and the layer statistics if somebody asks for them. The
   gradients then go through the distributed optimizer's own reduction, weighted so that the result
   is the mean over the global batch, however its rows lie on workers and micro-batches.
3. Observers see the statistics; the optimizer updates once.

BatchNormalization takes its statistics from the n rows of a micro-batch, as it would on a worker
with n rows (Goyal et al. 2017, arXiv 1706.02677, section 3.1), so the weights do not depend on how
many micro-batches make up a batch or on which worker they run. Its moving statistics move once in a
micro-batch, as those of a GhostBatchNormalization with virtual batches of n rows do; how far they
look back is a matter of rows, not of the size of the batch.

The contract with whoever joins the workers
-------------------------------------------
This package knows no Horovod. It looks for the attribute `reduction` on the optimizer that the
model is compiled with, as `tf_lars.horovod.DistributedOptimizer` has it (also around a
LossScaleOptimizer), and takes from such an optimizer

- `optimizer.reduction.alone`: whether there is only this worker, a bool;
- `optimizer.reduction.sum(tensor)`: a small tensor summed over the workers, uncompressed;
- `optimizer.reduce_gradients(gradients, variables)`: their mean over the workers;
- `optimizer.local`: the same optimizer, whose `apply` does not reduce;
- `optimizer.compile_update`, if it is there: whether XLA was asked for with `jit_compile`.

In return the model has `must_agree()`: what has to be the same on all workers, which is compared
when `fit` begins. Workers that collect other statistics would wait for each other.
"""

import dataclasses
import inspect

import keras
import tensorflow as tf

from tf_lars.training import accumulation, mean_norms, micro_batches, requests
from tf_lars.training.combination import combine


@dataclasses.dataclass
class Settings:
    """What a step needs to know, out of the reach of Keras's attribute tracking."""

    micro_batch_size: int | None
    source: object
    observers: tuple = ()
    counted_by: str = "rows"
    jit_compile: bool = False


class LargeBatchStep:
    """The step, as a mixin in front of a `keras.Model` class; see `LargeBatchModel`."""

    @property
    def micro_batch_size(self):
        """Rows of a micro-batch; None: the whole batch of a worker at once."""
        return self._large_batch.micro_batch_size

    @property
    def mean_norms(self):
        """The source of the mean norms, an object of `tf_lars.training.mean_norms`."""
        return self._large_batch.source

    @property
    def observers(self):
        """Objects whose `observe(statistics)` is called in every step, within the graph.

        `fit` takes them from its callbacks. With several workers all need the same ones, which is
        compared when `fit` begins.
        """
        return self._large_batch.observers

    @observers.setter
    def observers(self, observers):
        if tuple(observers) != self._large_batch.observers:
            self._large_batch.observers = tuple(observers)
            self.train_function = None

    def _prepare(self):
        """Settles what follows from `compile`'s arguments, and refuses what cannot work."""
        if self.distribute_strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "LargeBatchModel does not work inside a tf.distribute strategy with "
                f"{self.distribute_strategy.num_replicas_in_sync} replicas: start one process a "
                "device and compile with tf_lars.horovod.DistributedOptimizer."
            )
        settings = self._large_batch
        settings.counted_by = micro_batches.counted_by(self.loss)

    def fit(self, x=None, y=None, batch_size=None, *args, **kwargs):
        given = inspect.signature(super().fit).bind(x, y, batch_size, *args, **kwargs)
        callbacks = given.arguments.get("callbacks") or []
        self.observers = [
            callback
            for callback in getattr(callbacks, "callbacks", callbacks)
            if hasattr(callback, "observe")
        ]
        if self.compiled:
            self._prepare()
            self._check_rows(_batch_rows(x, batch_size))
        return super().fit(x, y, batch_size, *args, **kwargs)

    def make_train_function(self, force=False):
        # XLA takes neither a loop over pieces of a batch of any size nor Horovod's operations, so
        # where Keras would compile the step, the micro-batch inside it is compiled instead.
        self._prepare()
        compiled, self.jit_compile = self.jit_compile, False
        # A distributed optimizer may have taken jit_compile over, for the same reason.
        asked = compiled or getattr(self.workers, "compile_update", False)
        self._large_batch.jit_compile = asked
        try:
            super().make_train_function(force)
        finally:
            self.jit_compile = compiled
        return self.train_function

    def train_step(self, data):
        batch = keras.utils.unpack_x_y_sample_weight(data)
        self._check_rows(micro_batches.static_rows(batch))
        self._symbolic_build(data_batch=batch)  # all variables, before the loop needs them
        gradients, squares, sums, parts = self._local_means(batch)
        gradients, squares, statistics = combine(
            self.workers,
            self.trainable_weights,
            gradients,
            squares,
            sums,
            parts,
            scale=tf.cast(self.optimizer.scale_loss(tf.constant(1.0)), tf.float32),
            wanted=self._statistics_wanted(),
        )
        # At the end of the data TensorFlow runs what does not depend on them, the counting of the
        # update too, before it notices.
        with tf.control_dependencies([sums.count]):
            for observer in self.observers:
                observer.observe(statistics)
            self._update(gradients, squares, statistics, batch)
        return self.get_metrics_result()

    # ---- one worker ------------------------------------------------------------------------------

    def _local_means(self, batch):
        """This worker's mean gradients and squares, their `Sums`, and the number of parts."""
        rows = micro_batches.rows(batch)
        size = self.micro_batch_size or tf.maximum(rows, 1)
        parts = (rows + size - 1) // size
        gradients_of = self._micro_batch_function()
        missing = [False] * len(self.trainable_weights)

        def body(index, sums):
            part = micro_batches.part(batch, index, size)
            gradients = gradients_of(part)
            missing[:] = [gradient is None for gradient in gradients]
            count = micro_batches.count(self._large_batch.counted_by, part)
            return index + 1, sums.plus(count, gradients)

        zero = accumulation.Sums.zeros(
            self.trainable_weights,
            with_norms=self._statistics_wanted(),
            with_squares="mean_squared_gradients" in self._asked(),
        )
        _, sums = tf.while_loop(
            lambda index, sums: index < parts, body, (tf.constant(0), zero), parallel_iterations=1
        )

        def means(totals):
            return [
                None if gone else accumulation.mean(total, sums.count)
                for gone, total in zip(missing, totals, strict=True)
            ]

        squares = means(sums.squares) if sums.squares else []
        return means(sums.gradients), squares, sums, tf.cast(parts, tf.float32)

    def _micro_batch_function(self):
        """`gradients of one micro-batch`, compiled by XLA where the step would have been."""
        if not self._large_batch.jit_compile or self.run_eagerly:
            return self._micro_batch
        return tf.function(self._micro_batch, jit_compile=True, reduce_retracing=True)

    def _micro_batch(self, batch):
        x, y, sample_weight = batch
        with tf.GradientTape() as tape:
            y_pred = self.forward(x)
            loss = self.batch_loss(x, y, y_pred, sample_weight)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_weights)
        self._loss_tracker.update_state(loss, sample_weight=micro_batches.rows(x))
        self.compute_metrics(x, y, y_pred, sample_weight)
        return [accumulation.dense(gradient) for gradient in gradients]

    def forward(self, x):
        return self(x, training=True) if self._call_has_training_arg else self(x)

    def batch_loss(self, x, y, y_pred, sample_weight):
        return self._compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
        )

    # ---- all workers -----------------------------------------------------------------------------

    @property
    def workers(self):
        """The optimizer, if it joins the workers (see the module's contract); None if not."""
        return self.optimizer if hasattr(self.optimizer, "reduction") else None

    def _asked(self):
        """Names of the statistics that the optimizer's `apply` takes."""
        return requests.asked_for(self.optimizer)

    def _statistics_wanted(self):
        return bool(self.observers) or "mean_gradient_norms" in self._asked()

    def _update(self, gradients, squares, statistics, batch):
        given = {}
        # What the gradients are scaled by when they reach the rule; a LossScaleOptimizer's own
        # scale is out of them by then.
        scale = requests.innermost(self.optimizer).loss_scale_factor or 1.0
        if "mean_gradient_norms" in self._asked():
            norms = self._large_batch.source(self, statistics, batch)
            given["mean_gradient_norms"] = tf.unstack(norms * scale)
        if "mean_squared_gradients" in self._asked():
            given["mean_squared_gradients"] = [
                None if square is None else square * scale**2 for square in squares
            ]
        optimizer = self.optimizer if self.workers is None else self.workers.local
        requests.apply(optimizer, gradients, self.trainable_weights, **given)

    def must_agree(self):
        """What has to be the same on all workers, by name."""
        return {
            "observers": [type(observer).__name__ for observer in self.observers],
            "mean_norms": mean_norms.serialise(self.mean_norms),
            "rows counted by": self._large_batch.counted_by,
        }

    # ---- bad input -------------------------------------------------------------------------------

    def _check_rows(self, rows):
        """Refuses what cannot work with `rows` rows a step on this worker (None: not known)."""
        size = self.micro_batch_size
        if rows is not None and size is not None and size > rows:
            raise ValueError(
                f"micro_batch_size={size} is larger than the batch of a worker, {rows} rows: take "
                f"at least {size} rows a worker, or a micro_batch_size of at most {rows}."
            )
        alone = self.workers is None or self.workers.reduction.alone
        single = size is None or (rows is not None and rows <= size)
        asking = [type(observer).__name__ for observer in self.observers]
        if "mean_gradient_norms" in self._asked():
            source = self._large_batch.source
            source.check(alone)
            asking += [f"mean_norms={source.name!r}"] * source.needs_parts
        if "mean_squared_gradients" in self._asked():
            asking.append(type(requests.innermost(self.optimizer)).__name__)
        if asking and single and alone:
            raise ValueError(
                f"{' and '.join(asking)}: this needs gradients of parts of the batch, and there is "
                f"one micro-batch (micro_batch_size={size}, {rows or 'an unknown number of'} rows) "
                "on one worker. Set micro_batch_size to at most half the batch, or train on "
                "several workers with tf_lars.horovod.DistributedOptimizer."
            )


def _batch_rows(x, batch_size):
    """Rows of a step as far as `fit`'s arguments tell: its first one, None if they do not."""
    if isinstance(x, tf.data.Dataset):
        return micro_batches.static_rows(x.element_spec)
    arrays = [a for a in keras.tree.flatten(x) if getattr(a, "shape", None)]
    return min(batch_size or 32, arrays[0].shape[0]) if arrays else None
