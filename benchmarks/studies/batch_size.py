"""Accuracy against the batch, at a fixed number of epochs, for SGD, LARS, LAMB and CLARS.

    python -m benchmarks.studies.batch_size [SETUP …] [--mnist=FOLDER]

Every optimizer gets the same trials at every batch (see `tuning`) and is judged with five fresh
seeds on test images that no trial saw. The tables and the figures are made by
`python -m benchmarks.studies.page`.
"""

from benchmarks.studies import command, tuning
from benchmarks.studies.setups import OPTIMIZERS, SETUPS


def parts(name):
    """The cells of a setup, the ends of the curve first."""
    first, *others = SETUPS[name].batches
    return [
        command.Part(
            f"{optimizer} at batch {batch:,}",
            tuning.runs_of_a_cell(name),
            lambda lab, o=optimizer, b=batch: tuning.judgement(lab, o, b),
        )
        for batch in (first, *reversed(others))
        for optimizer in OPTIMIZERS
    ]


def main(arguments=None):
    command.study(__doc__, parts, arguments)


if __name__ == "__main__":
    main()
