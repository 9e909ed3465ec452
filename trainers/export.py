"""Exports the network of a finished run, for use without this package.

    python -m trainers.export --run_dir=runs/NAME --format=saved_model --output=FOLDER
    python -m trainers.export --run_dir=runs/NAME --format=keras --output=FILE.keras

The network takes float32 images [n, height, width, channels], normalised as in training, and gives
logits [n, classes]; averages of the weights are what it holds where the run kept them. What was
written is loaded again and compared before it gets its name. Exit codes: 0 done, 2 there is no such
run, or the output is in the way.
"""

import pathlib
import shutil
import tempfile

from absl import flags as absl_flags

from trainers import command, flags, startup
from trainers.errors import ConfigError
from trainers.finished import finished_run

_FORMAT = absl_flags.DEFINE_enum(
    "format", "saved_model", ["keras", "saved_model"], "What to write: TensorFlow's or Keras's."
)
_OUTPUT = absl_flags.DEFINE_string(
    "output", None, "Where to write: a folder for saved_model, FILE.keras for keras."
)
absl_flags.declare_key_flag("run_dir", flags.flags.FLAGS)

_IMAGES = 4  # that the written network must treat as the original does
_TOLERANCE = 1e-4  # of the largest logit: another graph may add in another order


def export(argv):
    run, config = finished_run()
    output = _checked_output()
    startup.start()
    from trainers.network import load_network

    model = load_network(run.path("final.keras"))
    write, load = _FORMATS[_FORMAT.value]
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".tmp-") as folder:
        part = pathlib.Path(folder, output.name)
        write(model, part)
        difference = check_same(model, load(part))
        shutil.move(part, output)
    shape = "×".join(map(str, model.input_shape[1:]))
    print(f"{config.model} for images of {shape}: {output}")
    print(f"Loaded again, its outputs differ by at most {difference:.1e}")


def check_same(model, call):
    """The largest difference between the outputs of `model` and `call` on a few random images.

    Raises:
        RuntimeError: it is more than rounding explains.
    """
    import numpy as np

    shape = (_IMAGES, *model.input_shape[1:])
    images = np.random.default_rng(0).normal(size=shape).astype("float32")
    expected, got = (np.asarray(f(images), "float64") for f in (model, call))
    difference = np.abs(expected - got).max()
    if not difference <= _TOLERANCE * max(np.abs(expected).max(), 1.0):
        raise RuntimeError(
            f"the written network's outputs differ from the original's by {difference:g}"
        )
    return difference


def _checked_output():
    if not _OUTPUT.value:
        raise ConfigError("--output must be given: where to write the network.")
    output = pathlib.Path(_OUTPUT.value)
    if _FORMAT.value == "keras" and output.suffix != ".keras":
        raise ConfigError(f"--output={output} must end in .keras with --format=keras.")
    if output.exists():
        raise ConfigError(f"--output={output} exists: give another, or remove it.")
    return output


def _write_saved_model(model, folder):
    model.export(folder, format="tf_saved_model", verbose=False)


def _load_saved_model(folder):
    import tensorflow as tf

    loaded = tf.saved_model.load(folder)
    return lambda images: loaded.serve(images)  # a method alone would not keep the variables


def _write_keras(model, file):
    model.save(file)


def _load_keras(file):
    from trainers.network import load_network

    return load_network(file)


_FORMATS = {
    "keras": (_write_keras, _load_keras),
    "saved_model": (_write_saved_model, _load_saved_model),
}


def main():
    command.run("trainers.export", export, flags.parse)


if __name__ == "__main__":
    main()
