"""The same budget of trials for every optimizer, and the judging of what was chosen.

A cell is one optimizer at one batch. Its trials: six rates, each four times the one before, with
each warm-up; then half and twice the best rate, again with each warm-up. What is best on the
validation images, by the mean over the tuning seeds, is trained with five fresh seeds and judged on
the test images, once. No trial sees the test images.
"""

import statistics

from benchmarks.studies.runs import Missing, Runs, mean_and_error
from benchmarks.studies.setups import SETUPS

WARMUPS = ("none", "gradual")
SEEDS, FINALISTS = (0, 1, 2), 3
JUDGING = range(100, 105)
REFINED = (0.5, 2.0)


class Lab:
    """The runs of one setup, kept in results/SETUP.json.

    Args:
        name: of the setup.
        train: whether to make the runs that are missing; `Missing` is raised without.
        mnist: MNIST's folder.
    """

    def __init__(self, name, train=False, mnist=None):
        self.name, self.setup, self.train, self.mnist = name, SETUPS[name], train, mnist
        self.runs = Runs(name)
        self._split = self._trainer = self._trains = None

    def score(self, optimizer, batch, warmup, rate, seeds):
        """Mean validation accuracy over the seeds, and minus the mean loss to break ties."""
        found = [self._run(optimizer, batch, warmup, rate, seed) for seed in seeds]
        losses = [float("inf") if run["loss"] is None else run["loss"] for run in found]
        return statistics.fmean(run["accuracy"] for run in found), -statistics.fmean(losses)

    def judged(self, optimizer, batch, warmup, rate):
        """The runs with fresh seeds, measured on the test images."""
        return [self._run(optimizer, batch, warmup, rate, seed, judge=True) for seed in JUDGING]

    def _run(self, optimizer, batch, warmup, rate, seed, judge=False):
        name = run_name(optimizer, batch, warmup, rate, seed)
        return self.get(name, lambda: self.trainer(optimizer, batch).run(rate, warmup, seed, judge))

    def get(self, name, run):
        """The run named `name`, made by `run()` if it is missing and this lab trains."""
        return self.runs.get(name, run if self.train else None)

    def trainer(self, optimizer, batch, steps_per_execution=None):
        """The compiled model of a cell; the last one is kept."""
        from benchmarks.studies.trials import Trainer

        if self._split is None:
            self._split = self.setup.load(self.mnist)
        cell = (optimizer, batch, steps_per_execution)
        if self._trains != cell:
            self._trainer = Trainer(self.setup, self._split, *cell)
            self._trains = cell
        return self._trainer


def run_name(optimizer, batch, warmup, rate, seed):
    return f"{optimizer}/{batch}/{warmup}/{rate:g}/{seed}"


def trials(lab, optimizer, batch, warmups=WARMUPS):
    """(warm-up, rate) → score with the first seed, for all trials of a cell."""
    scores = {
        (warmup, rate): lab.score(optimizer, batch, warmup, rate, SEEDS[:1])
        for warmup in warmups
        for rate in lab.setup.rates[optimizer]
    }
    best_rate = max(scores, key=scores.get)[1]
    for factor in REFINED:
        for warmup in warmups:
            rate = best_rate * factor
            scores[warmup, rate] = lab.score(optimizer, batch, warmup, rate, SEEDS[:1])
    return scores


def best(lab, optimizer, batch, warmups=WARMUPS):
    """The (warm-up, rate) that a cell chooses: of its finalists, the best over all seeds."""
    scores = trials(lab, optimizer, batch, warmups)
    finalists = sorted(scores, key=scores.get, reverse=True)[:FINALISTS]
    return max(finalists, key=lambda setting: lab.score(optimizer, batch, *setting, SEEDS))


def first_choice(lab, optimizer, batch, warmups=WARMUPS):
    """The (warm-up, rate) that did best with the first seed: all there is before the finals."""
    scores = trials(lab, optimizer, batch, warmups)
    return max(scores, key=scores.get)


def chosen(lab, optimizer, batch):
    """What `best` gives, or `first_choice` where the finals were not run."""
    try:
        return best(lab, optimizer, batch)
    except Missing:
        return first_choice(lab, optimizer, batch)


def runs_of_a_cell(name, warmups=WARMUPS):
    """The runs that a cell of a setup takes: trials and judging."""
    first = len(warmups) * (len(SETUPS[name].rates["SGD"]) + len(REFINED))
    return first + FINALISTS * (len(SEEDS) - 1) + len(JUDGING)


def judgement(lab, optimizer, batch, warmups=WARMUPS, choice=best):
    """The chosen setting of a cell and its test accuracy, in per cent, over fresh seeds."""
    warmup, rate = choice(lab, optimizer, batch, warmups)
    runs = lab.judged(optimizer, batch, warmup, rate)
    accuracies = [100 * run["accuracy"] for run in runs]
    mean, error = mean_and_error(accuracies)
    return {
        "warmup": warmup,
        "rate": rate,
        "accuracies": accuracies,
        "mean": mean,
        "error": error,
        "preliminary": choice is not best,
        "at_edge": not min(lab.setup.rates[optimizer]) <= rate <= max(lab.setup.rates[optimizer]),
    }


def best_by_rate(scores):
    """Rate → validation accuracy with the better warm-up."""
    found = {}
    for (_, rate), (accuracy, _) in scores.items():
        found[rate] = max(accuracy, found.get(rate, 0.0))
    return found


def known(lab, optimizer, batch, warmups=WARMUPS):
    """The judgement as far as the kept runs go; None where no setting was judged."""
    for choice in (best, first_choice):
        try:
            return judgement(lab, optimizer, batch, warmups, choice)
        except Missing:
            continue
    return None
