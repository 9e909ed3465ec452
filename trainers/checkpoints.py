"""Everything a run needs to go on where it stopped, in one file."""

import dataclasses
import json
import re
import zipfile

import keras
import numpy as np
from absl import logging

from tf_lars.training.callbacks import batch_norm_layers
from trainers.background import Background
from trainers.run_directory import WriteError, best_update

_NAME = re.compile(r"update-(\d+)\.npz")


@dataclasses.dataclass
class Stored:
    """What a checkpoint holds.

    Args:
        progress: {"update", "examples", "world_size", "rows", "states"}, as JSON takes it.
        shared: the arrays that are the same on all workers.
        own: the arrays of each worker, by rank: BatchNorm's moving statistics, and the metrics of
            the epoch.
    """

    progress: dict
    shared: list
    own: list


class Checkpoints:
    """The checkpoints of a run directory. Rank 0 reads and writes; all workers save and restore.

    A checkpoint is a NumPy archive: the variables of model and optimizer in their order, what each
    worker has of its own, and the progress as JSON. It is written in a thread, from copies, under
    another name, flushed to the disk and renamed. The archive's checksums, one for each array, tell
    a damaged one; it is put aside and the one before it is used.

    Args:
        run: the RunDirectory.
        model: the compiled model; its optimizer and metrics are built here.
        workers: the workers that save and restore together.
        keep: how many of the newest to keep, beside that of the best evaluation.
    """

    def __init__(self, run, model, workers, keep):
        self.run, self.model, self.workers, self.keep = run, model, workers, keep
        model.optimizer.build(model.trainable_variables)
        _build_metrics(model)
        self.moving = [
            variable
            for layer in batch_norm_layers(model)
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
        self.seed_states = _seed_states(model)
        moving = {id(variable) for variable in self.moving}
        weights = [variable for variable in model.weights if id(variable) not in moving]
        self.shared = [*weights, *self.seed_states, *model.optimizer.variables]
        self._background = Background()
        self._metrics = None

    @property
    def failed(self):
        """Whether a checkpoint could not be written; `finish` raises why."""
        return self._background.failed

    def save(self, progress):
        """Begins to write a checkpoint, once the one before is written.

        Args:
            progress: see `Stored`.

        Raises:
            WriteError: on rank 0, the one before could not be written.
        """
        own = self.workers.gather(_copies([*self.moving, *self.model.metrics_variables]))
        if self.workers.rank == 0:
            stored = Stored(progress, _copies(self.shared), own)
            self._background.start(self._write, stored)

    def finish(self):
        """Returns when everything is on the disk; all workers call it.

        Raises:
            WriteError: on all workers, a checkpoint could not be written.
        """
        error = self._end()
        if self.workers.sum(np.array([float(error is not None)]))[0]:
            raise error or WriteError("Rank 0 could not write a checkpoint.")

    def close(self):
        """Ends the thread of a run that ends because of an error, which is not to be hidden."""
        error = self._end()
        if error is not None:
            logging.error("%s", error)

    def _end(self):
        try:
            self._background.wait()
        except Exception as error:
            return error
        return None

    def restore(self):
        """Gives all workers the newest whole checkpoint.

        With as many workers as before, each gets what was its own. With another number, all get the
        mean of BatchNorm's moving statistics, and rank 0 the metrics of all.

        Returns:
            Its progress, or None without one.
        """
        stored = self.workers.broadcast(self._newest() if self.workers.rank == 0 else None)
        if stored is not None:
            rank, size = self.workers.rank, self.workers.size
            own = stored.own[rank] if len(stored.own) == size else _shared_out(stored.own, self)
            count = len(self.moving)
            _assign(self.shared, stored.shared)
            _assign(self.moving, own[:count])
            self._metrics = own[count:]
            if rank and len(stored.own) != size:
                self._metrics = [np.zeros_like(value) for value in self._metrics]
        draw_apart(self.seed_states, self.workers.rank)
        return stored and stored.progress

    def load(self, file):
        """Gives the model what one file holds, BatchNorm's statistics as the mean of all workers.

        Returns:
            Its progress.

        Raises:
            OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile: it is damaged.
        """
        stored = _read(file)
        _assign(self.shared, stored.shared)
        _assign(self.moving, _shared_out(stored.own, self)[: len(self.moving)])
        return stored.progress

    def restore_metrics(self):
        """Gives the model the metrics of the epoch that a restored run is in; once."""
        if self._metrics is not None:
            _assign(self.model.metrics_variables, self._metrics)
        self._metrics = None

    def _write(self, stored):
        arrays = {f"shared_{i:05}": value for i, value in enumerate(stored.shared)}
        for rank, values in enumerate(stored.own):
            arrays |= {f"own_{rank:05}_{i:05}": value for i, value in enumerate(values)}
        arrays["progress"] = np.asarray(json.dumps(stored.progress))
        self.run.path("checkpoints").mkdir(exist_ok=True)
        name = f"checkpoints/update-{stored.progress['update']:08}.npz"
        self.run.write(name, lambda path: np.savez(path, **arrays))
        best = f"update-{best_update(stored.progress['rows']):08}.npz"
        for old in self._found()[: -self.keep]:
            if old.name != best:
                old.unlink()

    def _found(self):
        files = self.run.path("checkpoints").glob("update-*.npz")
        return sorted(file for file in files if _NAME.fullmatch(file.name))

    def _newest(self):
        for file in reversed(self._found()):
            try:
                return _read(file)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                aside = file.with_suffix(".damaged")
                logging.warning("%s is damaged (%s): using the one before", file, error)
                file.replace(aside)
        return None


def draw_apart(seed_states, rank):
    """Gives each worker dropout masks of its own, from states that are the same on all."""
    for state in seed_states:
        state.assign(keras.ops.convert_to_numpy(state) + np.array([rank, 0], "uint32"))


def _read(file):
    with np.load(file) as archive:
        progress = json.loads(str(archive["progress"]))
        names = sorted(name for name in archive.files if name != "progress")
        shared = [archive[name] for name in names if name.startswith("shared_")]
        own = [
            [archive[name] for name in names if name.startswith(f"own_{rank:05}_")]
            for rank in range(progress["world_size"])
        ]
    return Stored(progress, shared, own)


def _shared_out(own, checkpoints):
    """What workers of another number get: the mean of the statistics, the sum of the metrics."""
    count = len(checkpoints.moving)
    columns = [np.stack(column) for column in zip(*own, strict=True)]
    means = [column.mean(0, dtype="float64").astype(column.dtype) for column in columns[:count]]
    return [*means, *(column.sum(0, dtype=column.dtype) for column in columns[count:])]


def _copies(variables):
    # a view of a variable's memory would change under the thread that writes it
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _build_metrics(model):
    """Makes the variables of the metrics, which otherwise come with the first batch."""
    nothing = keras.ops.zeros((1, *model.output_shape[1:]))
    model.compute_metrics(None, nothing, nothing)
    model.reset_metrics()


def _seed_states(model):
    return [v for v in model.non_trainable_variables if "seed_generator_state" in v.name]
