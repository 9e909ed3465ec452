"""No warm-up, a constant one or a gradual one, by optimizer, at one large batch.

    python -m benchmarks.studies.warmup [SETUP …] [--mnist=FOLDER]

For each of the three every optimizer chooses its own learning rate, as in `batch_size`, whose runs
are used again, and is judged with five fresh seeds. A warm-up lasts a fifth of the updates: gradual
from peak/W in equal steps, constant at a tenth of the peak. (Goyal et al. 2017, arXiv 1706.02677,
Table 1; Huo et al. 2020, arXiv 2002.01576, say that CLARS needs none.)
"""

from benchmarks.studies import command, tuning

BATCHES = {"alexnet_mnist": 256, "resnet8_digits": 1024}
OPTIMIZERS = ("SGD", "LARS", "LAMB", "CLARS")
KINDS = ("none", "constant", "gradual")


def parts(name):
    """An optimizer with one kind of warm-up each; trials of `batch_size` are used again."""
    return [
        command.Part(
            f"{optimizer} with warm-up: {kind}",
            tuning.runs_of_a_cell(name, (kind,)),
            lambda lab, o=optimizer, k=kind: tuning.judgement(lab, o, BATCHES[name], (k,)),
        )
        for optimizer in OPTIMIZERS
        for kind in KINDS
    ]


def main(arguments=None):
    command.study(__doc__, parts, arguments)


if __name__ == "__main__":
    main()
