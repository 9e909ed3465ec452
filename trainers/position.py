"""How far a run has got."""

import keras


class _EndOfEpoch:
    """Ends `fit`'s loop over batches; whoever else wants to end the training says True."""


_END_OF_EPOCH = _EndOfEpoch()


class Position(keras.callbacks.Callback):
    """The number of updates done, for all other callbacks: the first of them in the list.

    It ends the epochs within `fit`, which takes as many steps in each, where the timetable does:
    epochs have fewer updates once the batch has grown, and the first of a run that goes on has only
    those that it lacks.

    Args:
        timetable: the run's Timetable.
        update: updates done before.
    """

    def __init__(self, timetable, update=0):
        super().__init__()
        self.timetable, self.update = timetable, update

    @property
    def epoch(self):
        """Whole epochs done."""
        return self.timetable.epochs_done(self.update)

    @property
    def at_end_of_epoch(self):
        return self.update == 0 or self.update in self.timetable.ends

    @property
    def examples(self):
        """Examples seen, over all workers."""
        return self.timetable.position(self.update)

    @property
    def batch(self):
        """Rows of the global batch of the last update."""
        return self.timetable.batch(max(self.update - 1, 0))

    def on_train_batch_end(self, batch, logs=None):
        self.update += 1
        if self.at_end_of_epoch:
            self.model.stop_training = self.model.stop_training or _END_OF_EPOCH

    def on_epoch_end(self, epoch, logs=None):
        if self.model.stop_training is _END_OF_EPOCH:
            self.model.stop_training = False
