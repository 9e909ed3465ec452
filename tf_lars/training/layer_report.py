"""A Keras callback that records each layer's trust ratio and norms, and draws them."""

import json
import math
from pathlib import Path

import keras
import numpy as np

from tf_lars.training import layer_figures

QUANTITIES = {
    "trust_ratio": "trust_ratios",
    "weight_norm": "weight_norms",
    "gradient_norm": "gradient_norms",
}
RECORDS_KEPT = 1024


class LayerReport(keras.callbacks.Callback):
    """Writes λ, ‖w‖ and ‖g‖ of every variable while a model trains.

    Works with every optimizer of this package, also inside a `LossScaleOptimizer` or a distributed
    optimizer, and on every backend of Keras. The values are those that the optimizer took for its
    own step: nothing is computed again. Written into `log_dir`:

    - `layers.jsonl`: a line for each record: `step` (updates made), `epoch`, `learning_rate`, and
      `trust_ratio`, `weight_norm`, `gradient_norm`, each an object from variable paths to numbers
      (null where not finite; a quantity that the optimizer's rule does not take is left out);
    - `tensorboard/layers/`: the same as scalars, by TensorBoard's own writer, which works without
      TensorFlow as a backend;
    - at the end of training `layer_table.png`, the table of the first and the last record as in
      the LARS paper's Table 2, and `layer_heatmap.png`, the trust ratios over time. Variables whose
      ratio is 1 in all records are left out of both.

    The first update is recorded, then every epoch's or every n-th update. A run that goes on from
    a checkpoint in the same directory continues the file. With several workers give the callback
    to the first one only.

    Args:
        log_dir: the directory, made if it does not exist.
        every: "epoch", or a number of batches ≥ 1.
        tensorboard: write scalars for TensorBoard.

    Raises:
        ValueError: `every` is something else; or, when training begins, the model's optimizer
            records no trust ratios.

    Source: You, Gitman, Ginsburg 2017, arXiv 1708.03888, Table 2.

    Example:

    >>> import tempfile, numpy as np, keras
    >>> from tf_lars import LARS
    >>> from tf_lars.training.layer_report import LayerReport
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.compile(optimizer=LARS(learning_rate=0.5), loss="mse")
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     report = LayerReport(directory)
    ...     _ = model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0, callbacks=[report])
    """

    def __init__(self, log_dir, every="epoch", tensorboard=True):
        super().__init__()
        if every != "epoch" and not (isinstance(every, int) and every >= 1):
            raise ValueError(f"every={every!r} must be 'epoch' or a number of batches ≥ 1.")
        self.log_dir = Path(log_dir)
        self.every = every
        self.tensorboard = tensorboard
        self._writer = None

    def on_train_begin(self, logs=None):
        optimizer = recording_optimizer(self.model.optimizer)
        self.log_dir.mkdir(parents=True, exist_ok=True)
        kept = _records_until(self._file, int(optimizer.iterations))
        self._file.write_text("".join(json.dumps(record) + "\n" for record in kept))
        self._recorded_step = kept[-1]["step"] if kept else None
        self._epoch, self._last_batch, self._due_in = 0, -1, 0
        if self.tensorboard:
            from tensorboard.summary import Writer

            self._writer = Writer(str(self.log_dir / "tensorboard" / "layers"))

    @property
    def _file(self):
        return self.log_dir / "layers.jsonl"

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._last_batch = epoch, -1

    def on_train_batch_end(self, batch, logs=None):
        self._due_in -= batch - self._last_batch  # more than one with steps_per_execution
        self._last_batch = batch
        if self._recorded_step is None:
            self._record()
        if self.every != "epoch" and self._due_in <= 0:
            self._due_in = self.every
            self._record()

    def on_epoch_end(self, epoch, logs=None):
        if self.every == "epoch":
            self._record()
        if self._writer:
            self._writer.flush()

    def on_train_end(self, logs=None):
        if self._writer:
            self._writer.close()
            self._writer = None
        draw(self.log_dir)

    def _record(self):
        # On JAX the optimizer's variables are current only after `self.model` was asked for.
        optimizer = recording_optimizer(self.model.optimizer)
        step = int(optimizer.iterations)
        if step == self._recorded_step:
            return
        record = {
            "step": step,
            "epoch": self._epoch,
            "learning_rate": _finite(optimizer.learning_rate),
            **_quantities(optimizer),
        }
        self._recorded_step = step
        with self._file.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self._writer:
            self._write_scalars(record)

    def _write_scalars(self, record):
        for name in QUANTITIES.keys() & record.keys():
            for path, value in record[name].items():
                scalar = math.nan if value is None else value
                self._writer.add_scalar(f"{name}/{path}", scalar, record["step"])


def draw(log_dir):
    """Draw `layer_table.png` and `layer_heatmap.png` from the `layers.jsonl` in a directory."""
    log_dir = Path(log_dir)
    records = _records_until(log_dir / "layers.jsonl", math.inf)
    if records:
        layer_figures.draw_table([records[0], records[-1]], log_dir / "layer_table.png")
        stride = math.ceil(len(records) / RECORDS_KEPT)
        layer_figures.draw_heat_map(records[::-stride][::-1], log_dir / "layer_heatmap.png")


def recording_optimizer(optimizer):
    """The optimizer that records trust ratios, inside however many wrappers.

    Raises:
        ValueError: there is none.
    """
    inner = optimizer
    while inner is not None and not hasattr(type(inner), "trust_ratios"):
        inner = getattr(inner, "inner_optimizer", None)
    if inner is None:
        raise ValueError(
            f"optimizer {type(optimizer).__name__} records no trust ratios: LayerReport needs one "
            "of tf_lars's optimizers (any other can be wrapped in tf_lars.LARC)."
        )
    return inner


def _quantities(optimizer):
    found = {}
    for name, attribute in QUANTITIES.items():
        try:
            by_path = getattr(optimizer, attribute)
        except ValueError:  # this rule does not take that norm
            continue
        values = keras.ops.convert_to_numpy(keras.ops.stack(list(by_path.values())))
        found[name] = dict(zip(by_path, map(_finite, values), strict=True))
    return found


def _finite(value):
    value = float(np.asarray(keras.ops.convert_to_numpy(value), np.float64))
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _records_until(file, step):
    """The records of a file up to an update; a last line cut short by a crash is left out."""
    records = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break
        if record["step"] <= step:
            records.append(record)
    return records
