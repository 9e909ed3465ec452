"""What the studies share: data, resumable runs kept as JSON, and means with standard errors."""

import gzip
import json
import pathlib

import numpy as np

RESULTS = pathlib.Path(__file__).parent / "results"


def digits():
    """scikit-learn's 1,797 digits: 1,437 to train, 360 to test, flat and in [0, 1]."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    parts = train_test_split(x, y, test_size=360, random_state=0, stratify=y)
    return parts[0], parts[2], parts[1], parts[3]


def mnist(folder):
    """MNIST from its four idx files, gzipped: flat and in [0, 1]."""
    folder = pathlib.Path(folder)

    def read(name, offset):
        with gzip.open(folder / f"{name}.gz") as file:
            return np.frombuffer(file.read(), np.uint8, offset=offset)

    found = []
    for part in ("train", "t10k"):
        x = read(f"{part}-images-idx3-ubyte", 16).reshape(-1, 784)
        found += [(x / 255).astype("float32"), read(f"{part}-labels-idx1-ubyte", 8).astype("int64")]
    return found


class Runs:
    """Finished runs by name in one JSON file: a study that is started again skips them."""

    def __init__(self, study):
        self.path = RESULTS / f"{study}.json"
        self.found = json.loads(self.path.read_text()) if self.path.exists() else {}

    def get(self, name, run):
        """The result named `name`, from the file or from `run()`."""
        if name not in self.found:
            self.found[name] = run()
            RESULTS.mkdir(exist_ok=True)
            text = json.dumps(self.found, indent=1, sort_keys=True)
            self.path.write_text(text + "\n")
            print(name, self.found[name].get("final"), flush=True)
        return self.found[name]


def mean_and_error(values):
    """The mean and its standard error."""
    values = np.asarray(values, float)
    return values.mean(), values.std(ddof=1) / np.sqrt(len(values))
