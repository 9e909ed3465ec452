"""The tables of docs/results.md, in Markdown, each made from the runs in results/."""

import collections

from benchmarks.studies import clars_warmup, growing_batch, layers, noise_scale, tuning
from benchmarks.studies import time_to_accuracy as times
from benchmarks.studies import warmup as warmup_study
from benchmarks.studies.runs import Missing, Runs, mean_and_error
from benchmarks.studies.setups import OPTIMIZERS
from benchmarks.studies.tuning import Lab


def markdown(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def accuracy(setup, *optimizers):
    """Test accuracy by batch and optimizer, all without a list; "–" where no run was made."""
    optimizers = optimizers or OPTIMIZERS
    lab = Lab(setup)
    rows = []
    for batch in lab.setup.batches:
        cells = [tuning.known(lab, optimizer, batch) for optimizer in optimizers]
        updates = lab.setup.updates(batch)
        rows.append([f"{batch:,}", f"{updates:,}", *(plus_minus(c) if c else "–" for c in cells)])
    return markdown(["batch", "updates", *optimizers], rows)


def chosen(setup):
    """What the trials chose in each cell."""
    lab = Lab(setup)
    rows = []
    for batch in lab.setup.batches:
        cells = [tuning.known(lab, optimizer, batch) for optimizer in OPTIMIZERS]
        rows.append([f"{batch:,}", *(_setting(c) if c else "–" for c in cells)])
    return markdown(["batch", *OPTIMIZERS], rows)


def lost(setup):
    """Points of accuracy lost between the smallest batch and each other, by optimizer."""
    lab = Lab(setup)
    first, *others = lab.setup.batches
    small = {o: tuning.known(lab, o, first) for o in OPTIMIZERS}
    rows = []
    for batch in others:
        row = [f"{batch:,}"]
        for optimizer in OPTIMIZERS:
            large = tuning.known(lab, optimizer, batch)
            both = large and small[optimizer]
            row.append(f"{small[optimizer]['mean'] - large['mean']:.2f}" if both else "–")
        rows.append(row)
    return markdown(["batch", *OPTIMIZERS], rows)


def plus_minus(cell):
    return f"{cell['mean']:.2f} ± {cell['error']:.2f}" + "†" * cell["preliminary"]


def _setting(cell):
    return f"{cell['rate']:g}, {cell['warmup']}" + " (edge)" * cell["at_edge"]


def rates(setup, batch):
    """How wide the range of good rates is: validation accuracy by rate, the better warm-up."""
    lab, batch = Lab(setup), int(batch)
    rows = []
    for optimizer in OPTIMIZERS:
        try:
            scores = tuning.trials(lab, optimizer, batch)
        except Missing:
            continue
        by_rate = tuning.best_by_rate(scores)
        best = max(by_rate.values())
        good = [rate for rate, score in by_rate.items() if score > best - 0.02]
        rows.append(
            [
                optimizer,
                f"{100 * best:.2f}",
                f"{min(good):g} to {max(good):g}",
                f"{max(good) / min(good):.0f}×",
            ]
        )
    return markdown(
        ["optimizer", "best, % (validation)", "rates within 2 points of it", "width"], rows
    )


def warmup(setup, batch):
    """Test accuracy by optimizer and warm-up, each with its own best rate."""
    lab, batch = Lab(setup), int(batch)
    rows = []
    for optimizer in warmup_study.OPTIMIZERS:
        cells = [
            tuning.known(lab, optimizer, batch, (kind,)) for kind in ("none", "constant", "gradual")
        ]
        rows.append(
            [optimizer, *(f"{plus_minus(c)} (rate {c['rate']:g})" if c else "–" for c in cells)]
        )
    return markdown(["optimizer", "none", "constant", "gradual"], rows)


def warmup_trials(setup):
    """The best validation accuracy of the first seed without and with a gradual warm-up."""
    lab = Lab(setup)
    rows = []
    for batch in lab.setup.batches:
        for kind in tuning.WARMUPS:
            row = [f"{batch:,}", kind]
            for optimizer in OPTIMIZERS:
                try:
                    scores = tuning.trials(lab, optimizer, batch)
                    row.append(f"{100 * max(s[0] for k, s in scores.items() if k[0] == kind):.2f}")
                except Missing:
                    row.append("–")
            rows.append(row)
    return markdown(["batch", "warm-up", *OPTIMIZERS], rows)


def clars_without_warmup():
    """CLARS without a warm-up against LARS with and without one: accuracy, early and final loss."""
    rows = []
    for arm in clars_warmup.ARMS:
        rate, runs = clars_warmup.judged(arm, clars_warmup.kept)
        accuracy, error = mean_and_error([100 * run["test"] for run in runs])
        losses = [mean_and_error([run["loss"][k] for run in runs]) for k in (4, -1)]
        rows.append(
            [arm, f"{rate:g}", f"{accuracy:.2f} ± {error:.2f}",
             *(f"{loss:.4f} ± {loss_error:.4f}" for loss, loss_error in losses)]
        )  # fmt: skip
    return markdown(["arm", "rate", "top-1, %", "loss after 5 epochs", "final loss"], rows)


def first_step(setup):
    """‖w‖, ‖g‖ and their ratio by layer at the first update, as in the LARS paper's Table 2."""
    record = layers.run(Lab(setup))["first"]
    rows = []
    for path in record["weight_norm"]:
        if not path.endswith("kernel"):
            continue
        weight, gradient = record["weight_norm"][path], record["gradient_norm"][path]
        ratio = record["trust_ratio"][path]
        rows.append(
            [path, f"{weight:.3g}", f"{gradient:.3g}", f"{weight / gradient:.3g}", f"{ratio:.3g}"]
        )
    return markdown(["variable", "‖w‖", "‖g‖", "‖w‖/‖g‖", "trust ratio"], rows)


def noise(setup):
    """B_simple by epoch, as far as it can be told: mean, smallest and largest of three seeds."""
    values = noise_scale.resolved(noise_scale.runs(Lab(setup)))
    rows = []
    for epoch in range(len(values[0])):
        each = [seed[epoch] for seed in values]
        mean = sum(each) / len(each)
        rows.append([epoch + 1, f"{mean:,.0f} ({min(each):,.0f} to {max(each):,.0f})"])
    return markdown(["after epoch", "B_simple, rows"], rows)


def time_to_accuracy():
    """Seconds to the target by the number of workers, smallest to largest over seeds."""
    runs = Runs("time_to_accuracy")
    rows = []
    for workers in (1, 2):
        found = [runs.get(f"{workers}/{seed}") for seed in times.SEEDS]
        row = [workers]
        for key, digits in (
            ("epochs_to_target", 0),
            ("seconds_to_target", 1),
            ("first_evaluation", 1),
            ("images_per_second", 0),
        ):
            values = [run[key] for run in found]
            mean = sum(values) / len(values)
            row.append(
                f"{mean:,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"
            )
        rows.append(row)
    return markdown(
        ["workers", "epochs to 98 %", "seconds to 98 %", "of these until the first evaluation",
         "images/s"],
        rows,
    )  # fmt: skip


def growing():
    """Decay, hybrid and growth: updates, time, final test accuracy and training loss."""
    rows = []
    for (name, arm), runs in growing_batch.kept().items():
        accuracy, error = mean_and_error([100 * run["accuracy"][-1] for run in runs])
        loss, loss_error = mean_and_error([run["loss"][-1] for run in runs])
        seconds, seconds_error = mean_and_error([run["seconds"] for run in runs])
        batches = " → ".join(f"{b:,}" for b in runs[0]["batches"])
        rows.append(
            [name, growing_batch.ARMS[arm], batches, len(runs[0]["loss"]),
             f"{runs[0]['updates']:,}", f"{seconds:.1f} ± {seconds_error:.1f}",
             f"{accuracy:.2f} ± {error:.2f}",
             f"{loss:.4f} ± {loss_error:.4f}"]
        )  # fmt: skip
    header = ["data", "arm", "batches", "epochs", "updates", "seconds", "top-1, %", "training loss"]
    return markdown(header, rows)


def made(*studies):
    """Where the runs were made: machine, versions, commits; the commands are in the files."""
    rows = []
    for study in studies:
        runs = Runs(study)
        counts = collections.Counter(
            (maker["machine"], _versions(maker), maker["date"])
            for maker in (runs.makers[run["made"]] for run in runs.found.values())
        )
        for (machine, versions, date), count in counts.items():
            commits = [m["commit"][:7] for m in runs.makers if m["date"] == date]
            commits = ", ".join(dict.fromkeys(commits))
            rows.append([f"{study}.json", count, machine, versions, commits, date])
    return markdown(["file", "runs", "machine", "versions", "commits", "date"], rows)


def _versions(maker):
    return ", ".join(f"{name} {version}" for name, version in maker["versions"].items()) or "–"
