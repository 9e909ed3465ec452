"""Accuracy against the batch, at a fixed number of epochs, for SGD, LARS, LAMB and CLARS.

    python -m benchmarks.studies.batch_size [SETUP …] [--mnist=FOLDER]

Every optimizer gets the same trials at every batch (see `tuning`) and is judged with five fresh
seeds on test images that no trial saw. The tables and the figures are made by
`python -m benchmarks.studies.page`.
"""

from benchmarks.studies import command, tuning
from benchmarks.studies.setups import OPTIMIZERS


def cells(setup):
    """(batch, optimizer) in the order of running: the ends of the curve first."""
    batches = sorted(setup.batches)
    order = [batches.pop(0)] + batches[::-1]
    return [(batch, optimizer) for batch in order for optimizer in OPTIMIZERS]


def main():
    for lab in command.labs(__doc__):
        print(f"{lab.name}: {tuning.remaining(lab, len(cells(lab.setup)))}", flush=True)
        for batch, optimizer in cells(lab.setup):
            found = tuning.judgement(lab, optimizer, batch)
            print(
                f"== {lab.name}, batch {batch}, {optimizer}: {found['mean']:.2f} ± "
                f"{found['error']:.2f} with {found['warmup']} warm-up, rate {found['rate']:g}",
                flush=True,
            )


if __name__ == "__main__":
    main()
