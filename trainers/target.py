"""Training to an accuracy: `--target_top1`."""

import keras


def reached(rows, target):
    """The row of the first evaluation that reaches `target`, None without a target or such a row.

    Args:
        rows: the rows of metrics.jsonl.
        target: top-1 accuracy in (0, 1], or None.
    """
    if target is None:
        return None
    return next((row for row in rows if (row.get("val_top1") or 0.0) >= target), None)


class Target(keras.callbacks.Callback):
    """Stops the run after the first evaluation that reaches the target; the last callback.

    Args:
        target: top-1 accuracy in (0, 1], or None to train all epochs.
        rows: the rows of the epochs done, which grow.
    """

    def __init__(self, target, rows):
        super().__init__()
        self.target, self.rows = target, rows

    def on_epoch_end(self, epoch, logs=None):
        if reached(self.rows, self.target):
            self.model.stop_training = True
