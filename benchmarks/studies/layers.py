"""The layers of LARS: ‖w‖/‖g‖ at the first update, and the trust ratios over the training.

    python -m benchmarks.studies.layers [SETUP …] [--mnist=FOLDER]

trains each setup once with LARS as it was chosen at BATCH, and keeps what LayerReport writes for
every update (You et al. 2017, arXiv 1708.03888, Table 2).
"""

import json
import pathlib
import tempfile

from benchmarks.studies import command, tuning
from benchmarks.studies.runs import Runs

BATCH, SEED = 256, 100


def main():
    runs = Runs("layers")
    for lab in command.labs(__doc__):
        (warmup, rate), _ = next(iter(tuning.choose(lab, "LARS", BATCH).items()))
        runs.get(lab.name, lambda lab=lab, w=warmup, r=rate: record(lab, w, r))


def record(lab, warmup, rate):
    """One run of LARS, and the records of its layers at every update."""
    from tf_lars.training.layer_report import LayerReport

    trainer = lab.trainer("LARS", BATCH, steps_per_execution=1)
    with tempfile.TemporaryDirectory() as folder:
        report = LayerReport(folder, every=1, tensorboard=False)
        result = trainer.run(rate, warmup, SEED, judge=True, callbacks=[report])
        lines = (pathlib.Path(folder) / "layers.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return result | {"batch": BATCH, "warmup": warmup, "rate": rate, "records": records}


def kept(setup):
    """The run of a setup; `Missing` if it was not made."""
    return Runs("layers").get(setup)


if __name__ == "__main__":
    main()
