"""The gradient noise scale: is the batch too small, or larger than it needs to be?"""

import dataclasses
import math
import pathlib

import keras
import numpy as np
import tensorflow as tf

from tf_lars.training.state import checked


@dataclasses.dataclass(frozen=True)
class Noise:
    """What is known of the noise of the gradient, of all variables or of one.

    Attributes:
        squared_norm: |G|², the mean of its unbiased estimates; may be negative while it is lost in
            the noise.
        trace: tr Σ, likewise: the variance of the gradient of a single row.
        error: standard error of `simple`; infinite where |G|² does not stand out.
    """

    squared_norm: float
    trace: float
    error: float

    @property
    def simple(self):
        """B_simple = tr Σ/|G|², in rows; infinite if |G|² is not positive."""
        return self.trace / self.squared_norm if self.squared_norm > 0 else math.inf


class NoiseScale(keras.callbacks.Callback):
    """Measures B_simple = tr Σ/|G|² while a `LargeBatchModel` trains, and says what it means.

    Each step gives unbiased estimates of |G|² and tr Σ from the norms of the gradients of the
    micro-batches and of the batch (see `LayerStatistics.noise`). Their exponential moving averages,
    corrected for the start, give B_simple; its standard error follows from their scatter by the
    delta method. (A ratio of means is itself biased by an amount of the order of error²/B_simple.)
    An update of batch B makes 1/(1 + B_simple/B) of the progress that one with the exact gradient
    would make.

    At the end of an epoch `noise_scale` and `noise_scale_error` are put into the logs (before the
    callbacks that stand later in the list), and, if asked for, written to TensorBoard with the
    value of each variable, and printed in words.

    Args:
        decay: of the moving averages per step, in [0, 1).
        log_dir: TensorBoard's folder, or None.
        verbose: whether to print `words()` at the end of an epoch.

    Attributes:
        history: list of (update, batch, `Noise`) at the end of each epoch.

    Raises:
        ValueError: `decay` is out of range, or the model is no `LargeBatchModel`; `fit` refuses one
            micro-batch on one worker, from which there is nothing to estimate.

    Example:
        >>> noise = NoiseScale(verbose=True)
        >>> model.fit(images, labels, batch_size=1024, callbacks=[noise])
        Batch 1,024, noise scale 9,200 ± 400. A bigger batch would help: with twice the batch, …

    Source: McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", arXiv 1812.06162,
    section 2.2 and appendix A.
    """

    def __init__(self, decay=0.98, log_dir=None, verbose=False):
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay!r} must be in [0, 1).")
        self.decay, self.log_dir, self.verbose = decay, log_dir, verbose
        self.history = []
        self._moments = None
        self._writer = None

    def set_model(self, model):
        super().set_model(model)
        if not hasattr(model, "observers"):
            raise ValueError(
                "NoiseScale needs a LargeBatchModel, whose micro-batches it compares; see "
                "tf_lars.training.large_batch_model.large_batch."
            )

    def observe(self, statistics):
        """Adds one step, inside the graph; steps without an estimate or not finite do not count."""
        squared, trace = statistics.noise()
        total = lambda values: tf.concat([values, [tf.reduce_sum(values)]], 0)  # noqa: E731
        squared, trace = total(squared), total(trace)
        with tf.init_scope():
            self._create(squared.shape[0])
        new = tf.stack([squared, trace, squared**2, trace**2, squared * trace])
        share = 1.0 - self.decay
        weights = tf.stack(
            [
                self.decay * self._weights[0] + share,
                self.decay**2 * self._weights[1] + share**2,
                statistics.batch,
            ]
        )
        usable = tf.logical_and(statistics.usable, tf.reduce_all(tf.math.is_finite(new)))
        moments = self.decay * self._moments + share * new
        self._moments.assign(tf.where(usable, moments, self._moments))
        self._weights.assign(tf.where(usable, weights, self._weights))

    def _create(self, columns):
        if self._moments is None:
            self._moments = tf.Variable(tf.zeros([5, columns]))
            # Σ of the weights, Σ of their squares, and the batch of the last step.
            self._weights = tf.Variable(tf.zeros([3]))
        if self._moments.shape[1] != columns:
            raise ValueError(
                f"NoiseScale holds averages of {self._moments.shape[1] - 1} variables, and the "
                f"model trains {columns - 1}: its state comes from another model."
            )

    def get_state(self):
        """The averages and the history, as JSON takes them; see `tf_lars.training.state`."""
        seen = self._moments is not None
        return {
            "moments": self._moments.numpy().tolist() if seen else None,
            "weights": self._weights.numpy().tolist() if seen else None,
            "history": [
                [update, batch, noise.squared_norm, noise.trace, _or_none(noise.error)]
                for update, batch, noise in self.history
            ],
        }

    def set_state(self, state):
        """Goes on from what `get_state` gave.

        Raises:
            ValueError: it is no such state, or that of another model.
        """
        moments, weights, history = checked(self, state, ("moments", "weights", "history"))
        self.history = [
            (update, batch, Noise(squared, trace, math.inf if error is None else error))
            for update, batch, squared, trace, error in history
        ]
        if moments is not None:
            self._create(len(moments[0]))
            self._moments.assign(moments)
            self._weights.assign(weights)
        elif self._moments is not None:
            self._moments.assign(tf.zeros_like(self._moments))
            self._weights.assign(tf.zeros_like(self._weights))

    @property
    def batch(self):
        """Rows of the global batch of the last step that counted."""
        return int(self._weights[2].numpy()) if self._moments is not None else 0

    def noise(self):
        """The `Noise` of all variables together."""
        return self._noises()[-1]

    def layers(self):
        """The `Noise` of each trainable variable, by its path."""
        paths = [variable.path for variable in self.model.trainable_variables]
        return dict(zip(paths, self._noises()[:-1], strict=True))

    def _noises(self):
        if self._moments is None or not self._weights[0].numpy():
            raise ValueError("NoiseScale has seen no step yet: call fit with it first.")
        total, squares, _ = self._weights.numpy().astype(float)
        moments = self._moments.numpy().astype(float) / total
        # The variance of a weighted mean of independent steps, from their weighted scatter.
        used = squares / total**2
        factor = used / max(1 - used, 1e-12)
        squared, trace, squared_2, trace_2, product = moments
        var_squared = factor * np.maximum(squared_2 - squared**2, 0)
        var_trace = factor * np.maximum(trace_2 - trace**2, 0)
        covariance = factor * (product - squared * trace)
        return [
            Noise(g, s, _error(g, s, vg, vs, c))
            for g, s, vg, vs, c in zip(
                squared, trace, var_squared, var_trace, covariance, strict=True
            )
        ]

    def words(self):
        """One or two sentences for a person: the noise scale, and whether a bigger batch helps."""
        noise, batch = self.noise(), self.batch
        if not noise.error < noise.simple < math.inf:
            return (
                f"Batch {batch:,}: the gradient does not stand out of the noise. The noise scale "
                "is far above the batch, or needs more steps to be measured."
            )
        needed = (1 + noise.simple / (2 * batch)) / (1 + noise.simple / batch)
        verdict = "would help" if needed < 0.6 else "would hardly help"
        if 0.6 <= needed < 0.85:
            verdict = "would help a little"
        return (
            f"Batch {batch:,}, noise scale {noise.simple:,.0f} ± {noise.error:,.0f}. A bigger "
            f"batch {verdict}: with twice the batch, about {1 - needed:.0%} fewer updates (never "
            f"more than 50%) for {2 * needed - 1:.0%} more examples."
        )

    def on_epoch_end(self, epoch, logs=None):
        try:
            noise = self.noise()
        except ValueError:  # every step overflowed
            return
        update = int(self.model.optimizer.iterations)
        self.history.append((update, self.batch, noise))
        if logs is not None:
            logs.update(noise_scale=noise.simple, noise_scale_error=noise.error)
        if self.log_dir is not None:
            self._write(epoch, noise)
        if self.verbose:
            print(self.words())

    def _write(self, epoch, noise):
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self.log_dir))
        with self._writer.as_default(step=epoch):
            tf.summary.scalar("noise_scale/all", noise.simple)
            tf.summary.scalar("noise_scale/batch", self.batch)
            for path, layer in self.layers().items():
                tf.summary.scalar(f"noise_scale/{path}", layer.simple)
        self._writer.flush()

    def plot(self, path):
        """Draws B_simple with its error and the batch over the updates, to a PNG or PDF."""
        import matplotlib.pyplot as plt

        found = [entry for entry in self.history if math.isfinite(entry[2].simple)]
        updates, batches, noises = zip(*found, strict=True) if found else ((), (), ())
        figure, axes = plt.subplots(figsize=(6, 4))
        errors = [noise.error if math.isfinite(noise.error) else 0 for noise in noises]
        axes.errorbar(updates, [noise.simple for noise in noises], errors, label="noise scale")
        axes.plot(updates, batches, "--", label="batch")
        axes.set(xlabel="update", ylabel="rows", yscale="log")
        axes.legend()
        figure.tight_layout()
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
        plt.close(figure)


def _or_none(value):
    return value if math.isfinite(value) else None


def _error(squared, trace, var_squared, var_trace, covariance):
    """Standard error of trace/squared by the delta method; infinite unless squared is positive."""
    if squared <= 0:
        return math.inf
    ratio = trace / squared
    variance = (var_trace - 2 * ratio * covariance + ratio**2 * var_squared) / squared**2
    return math.sqrt(max(variance, 0.0))
