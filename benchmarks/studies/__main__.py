"""All studies one after another, then the page.

    python -m benchmarks.studies [--mnist=FOLDER]

Finished runs, which lie in results/, are skipped; delete a file there to make its runs again.
"""

import argparse

from benchmarks.studies import (
    batch_size,
    clars_warmup,
    command,
    growing_batch,
    layers,
    noise_scale,
    page,
    warmup,
)
from benchmarks.studies.setups import SETUPS
from benchmarks.studies.tuning import Lab

ON_SETUPS = (batch_size, warmup, layers, noise_scale)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", metavar="FOLDER", help=command.MNIST_HELP)
    folder = parser.parse_args(arguments).mnist
    given = [] if folder is None else [f"--mnist={folder}"]
    for name in SETUPS:
        left = command.remaining(Lab(name), lambda n: [p for s in ON_SETUPS for p in s.parts(n)])
        print(f"{name}: {left}", flush=True)
    for study in (*ON_SETUPS, growing_batch):
        study.main(given)
    clars_warmup.main()
    page.main()


if __name__ == "__main__":
    main()
