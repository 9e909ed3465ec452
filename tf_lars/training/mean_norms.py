"""Where CLARS's denominator, the mean norm of the gradients of single parts, comes from.

CLARS (Huo, Gu and Huang 2020, arXiv 2002.01576) divides by the mean norm of per-example gradients,
(1/B) Σ ‖∇f_i(w)‖. The sources differ in what they estimate and in what they cost; a source is
called once an update and gives a float32 vector with a number for each trainable variable.
"""

import keras
import tensorflow as tf

from tf_lars.training.accumulation import dense
from tf_lars.training.state import checked
from tf_lars.training.statistics import norms


class MicrobatchNorms:
    """mean‖g_n‖ over all micro-batches of all workers: free, and dependent on their size n.

    E‖g_n‖² = |G|² + tr(Σ)/n, so that the value falls towards ‖G‖ as n grows (and the trust ratio
    rises towards that of LARS). It is the paper's own quantity at n = 1.
    """

    name = "microbatch"
    needs_parts = True

    def check(self, alone):
        """Nothing beyond several parts."""

    def __call__(self, model, statistics, batch):
        return statistics.mean_norm


class WorkerNorms:
    """mean‖g_w‖ over workers, each with the gradient of its whole part of the batch: free.

    As `MicrobatchNorms` with n = B/W, for jobs that do not accumulate.
    """

    name = "worker"
    needs_parts = False

    def check(self, alone):
        if alone:
            raise ValueError(
                "mean_norms='worker' needs several workers and there is one: use 'microbatch' or "
                "'two_batch' with a micro_batch_size, 'per_example', or train with horovodrun and "
                "tf_lars.horovod.DistributedOptimizer."
            )

    def __call__(self, model, statistics, batch):
        return statistics.mean_worker_norm


class TwoBatchNorms:
    """√(|G|² + tr Σ): the root mean square norm of per-example gradients, whatever n is. Free.

    From ‖G_B‖² and mean‖g_n‖², see `LayerStatistics.per_example_norm`. Above the mean norm by
    Jensen's inequality: √(mean² + variance of the norms).
    """

    name = "two_batch"
    needs_parts = True

    def check(self, alone):
        """Nothing beyond several parts."""

    def __call__(self, model, statistics, batch):
        return statistics.per_example_norm()


class PerExampleNorms:
    """(1/m) Σ ‖∇f_i(w)‖, exact on the first m rows of each worker's batch, every k updates.

    ∇f_i is the gradient of row i's loss with the m rows normalised together, as in training; the
    gradients of the rows then add up to that of the probe, with BatchNormalization too. Moving
    statistics, seeds and metrics are put back. Costs m forward and backward passes of m rows, that
    is m² rows every k updates. In between the last norms are used again. The model's loss must heed
    `sample_weight`, which is how a row is singled out.

    Args:
        examples: m, at least 1.
        every: k, at least 1.
    """

    name = "per_example"
    needs_parts = False

    def __init__(self, examples=8, every=10):
        for argument, value in (("examples", examples), ("every", every)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{argument}={value!r} must be a whole number, at least 1.")
        self.examples, self.every = examples, every
        self._norms = None

    def check(self, alone):
        """Works everywhere."""

    def __call__(self, model, statistics, batch):
        with tf.init_scope():
            self._create(len(model.trainable_weights))
        due = tf.equal(tf.cast(model.optimizer.iterations, tf.int64) % self.every, 0)
        due = tf.logical_or(due, self._norms[0] < 0)
        return tf.cond(
            due,
            lambda: tf.identity(self._norms.assign(self._over_workers(model, batch))),
            lambda: tf.identity(self._norms),
        )

    def _create(self, count):
        if self._norms is None:
            self._norms = tf.Variable(tf.fill([count], -1.0))  # negative: not measured yet
        if self._norms.shape[0] != count:
            raise ValueError(
                f"PerExampleNorms holds norms of {self._norms.shape[0]} variables, and the model "
                f"trains {count}: it was used with another model."
            )

    def get_state(self):
        """The norms of the last probe, as JSON takes them; see `tf_lars.training.state`."""
        return {"norms": None if self._norms is None else self._norms.numpy().tolist()}

    def set_state(self, state):
        """Goes on from what `get_state` gave; without, the next update begins with a probe.

        Raises:
            ValueError: it is no such state, or that of another model.
        """
        (norms,) = checked(self, state, ("norms",))
        if norms is not None:
            self._create(len(norms))
            self._norms.assign(norms)
        elif self._norms is not None:
            self._norms.assign(tf.fill(self._norms.shape, -1.0))

    def _over_workers(self, model, batch):
        total, count = self.sums(model, batch)
        workers = model.workers
        if workers is not None:
            summed = workers.reduction.sum(tf.concat([total, [count]], 0))
            total, count = summed[:-1], summed[-1]
        return tf.math.divide_no_nan(total, count)

    def sums(self, model, batch):
        """(Σ ‖∇f_i‖ as a vector [K], the number of rows) over this worker's probe."""
        x, y, sample_weight = keras.tree.map_structure(
            lambda t: None if t is None else t[: self.examples], batch
        )
        count = tf.shape(keras.tree.flatten(x)[0])[0]
        scale = tf.cast(model.optimizer.scale_loss(tf.constant(1.0)), tf.float32)
        state = [*model.non_trainable_variables, *model.metrics_variables]
        before = [tf.identity(variable) for variable in state]

        def body(i, total):
            only = tf.one_hot(i, count) * tf.cast(count, tf.float32)
            with tf.GradientTape() as tape:
                y_pred = model.forward(x)
                loss = model.batch_loss(x, y, y_pred, _singled_out(only, sample_weight))
                scaled = model.optimizer.scale_loss(loss)
            gradients = tape.gradient(scaled, model.trainable_weights)
            return i + 1, total + norms([dense(g) for g in gradients]) / scale

        _, total = tf.while_loop(
            lambda i, total: i < count,
            body,
            (tf.constant(0), tf.zeros([len(model.trainable_weights)])),
            parallel_iterations=1,
        )
        with tf.control_dependencies([total]):
            for variable, value in zip(state, before, strict=True):
                variable.assign(value)
        return total, tf.cast(count, tf.float32)


def _singled_out(only, sample_weight):
    """Weights that leave the loss of one row: its weight times `only`, which is 0 elsewhere."""
    if sample_weight is None:
        return only

    def times(weight):
        weight = tf.cast(weight, tf.float32)
        return weight * tf.reshape(only, [-1] + [1] * (weight.shape.rank - 1))

    return keras.tree.map_structure(times, sample_weight)


_BY_NAME = {
    source.name: source for source in (MicrobatchNorms, WorkerNorms, PerExampleNorms, TwoBatchNorms)
}


def source(value):
    """A source from its name, from what `serialise` gave, or the object itself.

    Raises:
        ValueError: the name is unknown, or the object no source.
    """
    if isinstance(value, str) and value in _BY_NAME:
        return _BY_NAME[value]()
    if isinstance(value, dict):
        return PerExampleNorms(**value)
    if isinstance(value, tuple(_BY_NAME.values())):
        return value
    raise ValueError(
        f"mean_norms={value!r} must be one of {', '.join(map(repr, _BY_NAME))}, or an object such "
        "as PerExampleNorms(examples=8, every=10)."
    )


def serialise(value):
    """A source as a name, or as a dict of `PerExampleNorms`' arguments."""
    if isinstance(value, PerExampleNorms):
        return {"examples": value.examples, "every": value.every}
    return value.name
