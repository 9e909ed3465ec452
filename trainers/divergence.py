"""When a run has diverged, and what it says then."""

import math
import time

import keras

from tf_lars.training.layer_report import recording_optimizer

FAR = 10.0
_DECAY = 0.95
_SECONDS_BETWEEN_LOOKS = 0.5
_NAMED = 3  # layers of the largest and of the smallest ratios


class Diverged(Exception):
    """The run cannot come to anything any more; the message says where it stood."""


class Divergence(keras.callbacks.Callback):
    """Watches the training loss over all workers.

    A run has diverged when its loss is no longer finite, or when the moving average of the loss
    (each update counts 0.05, the start 1) is above ten times the loss of the start, the larger of
    the first update's and ln(classes), which is that of guessing. One bad update is no divergence.

    Args:
        classes: number of classes.
        schedule: the learning-rate schedule.
        position: the run's Position.
    """

    def __init__(self, classes, schedule, position):
        super().__init__()
        self.chance = math.log(max(classes, 2))
        self.schedule, self.position = schedule, position
        self.start = self.average = None
        self._judged = 0
        self._totals = (0.0, 0.0)
        self._ratios, self._ratios_at, self._looked = {}, 0, 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self._judged = self.position.update
        self._totals = self._read()

    def get_state(self):
        return {"start": self.start, "average": self.average}

    def set_state(self, state):
        self.start, self.average = state["start"], state["average"]

    def measure(self):
        """[sum of the loss, sum of the weights] over this worker's updates since the last call."""
        totals, before = self._read(), self._totals
        self._totals = totals
        return [now - then for now, then in zip(totals, before, strict=True)]

    def judge(self, total, count):
        """Judges the sums of all workers.

        Raises:
            Diverged: see above.
        """
        update, updates = self.position.update, self.position.update - self._judged
        if not count or not updates:
            return
        self._judged = update
        loss = total / count
        if not math.isfinite(loss):
            raise Diverged(self._message("the training loss is no longer finite"))
        if self.start is None:
            self.start = self.average = max(loss, self.chance)
        kept = _DECAY**updates
        self.average = kept * self.average + (1 - kept) * loss
        if self.average > FAR * self.start:
            raise Diverged(
                self._message(
                    f"the training loss, {self.average:.4g} on average, is above "
                    f"{FAR:g} times that of the start, {self.start:.4g}"
                )
            )
        self._look_at_layers()

    def _read(self):
        tracker = next(metric for metric in self.model.metrics if metric.name == "loss")
        return float(tracker.total), float(tracker.count)

    def _look_at_layers(self):
        """Remembers the trust ratios, now and then: those of a diverged update are no numbers."""
        if time.monotonic() - self._looked < _SECONDS_BETWEEN_LOOKS:
            return
        self._looked = time.monotonic()
        try:
            ratios = recording_optimizer(self.model.optimizer).trust_ratios
        except ValueError:  # SGD takes none
            return
        values = keras.ops.convert_to_numpy(keras.ops.stack(list(ratios.values())))
        self._ratios = dict(zip(ratios, map(float, values), strict=True))
        self._ratios_at = self.position.update

    def _message(self, what):
        update = self.position.update
        rate = float(self.schedule(update - 1))
        text = f"DIVERGED at update {update}, learning rate {rate:.4g}: {what}."
        # a ratio of exactly 1 is that of a variable that is not adapted
        adapted = {path: ratio for path, ratio in self._ratios.items() if ratio != 1.0}
        order = sorted(adapted, key=adapted.get)
        if order:
            smallest, largest = order[:_NAMED], order[: -_NAMED - 1 : -1]
            text += (
                f" Trust ratios after update {self._ratios_at}: largest {_listed(largest, adapted)}"
                f"; smallest {_listed(smallest, adapted)}."
            )
        return text


def _listed(paths, ratios):
    return ", ".join(f"{path} {ratios[path]:.3g}" for path in paths)
