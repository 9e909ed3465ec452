"""The layers of LARS: ‖w‖/‖g‖ at the first update, and the trust ratios over the training.

    python -m benchmarks.studies.layers [SETUP …] [--mnist=FOLDER]

trains each setup once with LARS as it was chosen at one batch, and keeps what LayerReport writes:
everything at the first update, then the trust ratios (You et al. 2017, arXiv 1708.03888, Table 2).
"""

import json
import pathlib
import tempfile

from benchmarks.studies import command, tuning

BATCHES = {"alexnet_mnist": 256, "resnet8_digits": 128}
SEED = 100


def run(lab):
    """LARS as it was chosen, with the records of its layers; `Missing` if `lab` does not train."""
    batch = BATCHES[lab.name]
    warmup, rate = tuning.chosen(lab, "LARS", batch)
    name = f"layers/{tuning.run_name('LARS', batch, warmup, rate, SEED)}"
    return lab.get(name, lambda: record(lab, batch, warmup, rate))


def record(lab, batch, warmup, rate):
    from tf_lars.training.layer_report import LayerReport

    trainer = lab.trainer("LARS", batch, steps_per_execution=1)
    with tempfile.TemporaryDirectory() as folder:
        report = LayerReport(folder, every=1, tensorboard=False)
        result = trainer.run(rate, warmup, SEED, judge=True, callbacks=[report])
        lines = (pathlib.Path(folder) / "layers.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return result | {
        "warmup": warmup,
        "rate": rate,
        "first": records[0],
        "updates": [record["step"] for record in records],
        "trust_ratios": {
            path: [float(f"{record['trust_ratio'][path]:.3g}") for record in records]
            for path, ratio in records[-1]["trust_ratio"].items()
            if ratio != 1.0
        },
    }


def parts(name):
    return [command.Part("the layers of LARS", 1, run)]


def main(arguments=None):
    command.study(__doc__, parts, arguments)


if __name__ == "__main__":
    main()
