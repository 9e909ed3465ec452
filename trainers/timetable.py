"""Which update takes which examples, and where the epochs end: the clock of a run.

Plain arithmetic on updates, the same on every worker and after every start.
"""

import bisect
import dataclasses


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Updates of one batch size, one after the other.

    Args:
        batch: rows of the global batch.
        update: number of the first update, from 0.
        position: the place of its first example in the stream of examples.
        updates: how many.
    """

    batch: int
    update: int
    position: int
    updates: int


class Timetable:
    """The updates of a run whose batch may grow at given epochs.

    With batch B an epoch is N/B updates, rounded, at least one. The stream of examples goes on over
    the ends of epochs and stages, so that no example is dropped.

    Args:
        examples: N, training examples.
        epochs: epochs of the run.
        batches: rows of the global batch in each stage.
        starts: epochs at which the stages begin, fractions too; the first is 0.

    Attributes:
        ends: updates done at the end of each epoch.
        stretches: a Stretch for each stage.

    Example:
        >>> timetable = Timetable(examples=100, epochs=4, batches=(10, 50), starts=(0, 2))
        >>> timetable.ends
        (10, 20, 22, 24)
        >>> timetable.batch(20), timetable.position(21)
        (50, 250)
    """

    def __init__(self, examples, epochs, batches, starts=(0,)):
        self.starts = tuple(starts)
        self._steps = tuple(max(round(examples / batch), 1) for batch in batches)
        stretches, update, position = [], 0, 0
        stops = (*self.starts[1:], epochs)
        for batch, steps, start, stop in zip(batches, self._steps, starts, stops, strict=True):
            updates = round((stop - start) * steps)
            stretches.append(Stretch(batch, update, position, updates))
            update, position = update + updates, position + updates * batch
        self.stretches = tuple(stretches)
        self.ends = tuple(self.update_at(epoch) for epoch in range(1, epochs + 1))

    @property
    def updates(self):
        """Updates of the whole run."""
        return self.ends[-1]

    @property
    def longest_epoch(self):
        """Updates of the epoch that has most."""
        return max(b - a for a, b in zip((0, *self.ends), self.ends, strict=False))

    def update_at(self, epochs):
        """Updates done when `epochs` epochs are, a fraction too."""
        stage = max(bisect.bisect_left(self.starts, epochs) - 1, 0)
        done = round((epochs - self.starts[stage]) * self._steps[stage])
        return self.stretches[stage].update + done

    def epochs_done(self, update):
        """Whole epochs in the first `update` updates: the epoch that the next one belongs to."""
        return bisect.bisect_right(self.ends, update)

    def batch(self, update):
        """Rows of the global batch of an update, counted from 0."""
        return self._stretch(update).batch

    def position(self, update):
        """Examples taken before an update: its place in the stream."""
        stretch = self._stretch(update)
        return stretch.position + (update - stretch.update) * stretch.batch

    def left(self, update):
        """What remains of each stretch after the first `update` updates; nothing of those done."""
        for stretch in self.stretches:
            done = min(max(update - stretch.update, 0), stretch.updates)
            yield Stretch(
                stretch.batch,
                stretch.update + done,
                stretch.position + done * stretch.batch,
                stretch.updates - done,
            )

    def _stretch(self, update):
        begins = [stretch.update for stretch in self.stretches]
        return self.stretches[bisect.bisect_right(begins, update) - 1]
