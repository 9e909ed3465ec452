"""Everything a run needs to go on where it stopped, in one file an evaluated epoch."""

import json
import re
import signal
import zipfile

import keras
import numpy as np
from absl import logging

_NAME = re.compile(r"epoch-(\d+)\.npz")
_KEPT = 2


class Checkpoints:
    """The checkpoints of a run directory. Rank 0 reads and writes; all workers restore.

    A checkpoint is a NumPy archive of the model's and the optimizer's variables in their order, and
    the rows of the epochs done, as JSON. It is written under another name, flushed to the disk and
    renamed; the zip format's checksums tell a damaged one, and the one before it is used.

    Args:
        run: the RunDirectory.
        model: the compiled model; its optimizer is built here.
        workers: the workers that restore together.
    """

    def __init__(self, run, model, workers):
        self.run, self.workers = run, workers
        model.optimizer.build(model.trainable_variables)
        self.variables = [*model.weights, *_seed_states(model), *model.optimizer.variables]
        self.seed_states = _seed_states(model)

    def save(self, epoch, progress):
        """Writes the checkpoint after `epoch` epochs with `progress`, a JSON-able value."""
        arrays = {
            f"variable_{i:05}": keras.ops.convert_to_numpy(variable)
            for i, variable in enumerate(self.variables)
        }
        arrays["progress"] = np.asarray(json.dumps({"epoch": epoch, **progress}))
        self.run.path("checkpoints").mkdir(exist_ok=True)
        self.run.write(f"checkpoints/epoch-{epoch:05}.npz", lambda path: np.savez(path, **arrays))
        for old in self._found()[:-_KEPT]:
            old.unlink()

    def restore(self):
        """Gives all workers the newest whole checkpoint; its progress, or None without one."""
        progress, values = self.workers.broadcast(
            self._newest() if self.workers.rank == 0 else None
        ) or (None, None)
        if progress is not None:
            for variable, value in zip(self.variables, values, strict=True):
                variable.assign(value)
        draw_apart(self.seed_states, self.workers.rank)
        return progress

    def _found(self):
        files = self.run.path("checkpoints").glob("epoch-*.npz")
        return sorted(file for file in files if _NAME.fullmatch(file.name))

    def _newest(self):
        for file in reversed(self._found()):
            try:
                with np.load(file) as archive:
                    values = [archive[name] for name in archive.files if name != "progress"]
                    progress = json.loads(str(archive["progress"]))
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                logging.warning("%s is damaged (%s): using the one before", file, error)
                continue
            return progress, values
        return None


class Saving(keras.callbacks.Callback):
    """Saves after each evaluated epoch, and before the run ends early because of SIGTERM.

    All workers end after the same epoch, the one in which the first of them got the signal.

    Args:
        checkpoints: the run's Checkpoints.
        recorder: the Recorder, whose rows are the progress.
        prepare: brings BatchNorm's statistics up to date.
    """

    def __init__(self, checkpoints, recorder, prepare):
        super().__init__()
        self.checkpoints, self.recorder, self.prepare = checkpoints, recorder, prepare
        self.stopped_after = None
        self._asked_to_stop = False

    def on_train_begin(self, logs=None):
        self._handler = signal.signal(signal.SIGTERM, self._stop)

    def on_train_end(self, logs=None):
        signal.signal(signal.SIGTERM, self._handler)

    def on_epoch_end(self, epoch, logs=None):
        workers = self.checkpoints.workers
        asked = workers.sum(np.array([float(self._asked_to_stop)]))[0] > 0
        last = epoch + 1 == self.params["epochs"]
        if self.model.stop_training:  # diverged: what was saved before is better
            return
        if asked and not last:
            self.stopped_after = epoch + 1
            self.model.stop_training = True
            self.prepare()
        if workers.rank == 0 and (self.stopped_after or "val_top1" in logs):
            self.checkpoints.save(epoch + 1, {"rows": self.recorder.rows})

    def _stop(self, number, frame):
        self._asked_to_stop = True


def _seed_states(model):
    return [v for v in model.non_trainable_variables if "seed_generator_state" in v.name]


def draw_apart(seed_states, rank):
    """Gives each worker dropout masks of its own, from states that are the same on all."""
    for state in seed_states:
        state.assign(keras.ops.convert_to_numpy(state) + np.array([rank, 0], "uint32"))
