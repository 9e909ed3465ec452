"""docs/configs.md, made from the recipes: `python -m trainers.recipe_table > docs/configs.md`."""

import re

from trainers.recipes import read_recipes

_SECTIONS = {"imagenet2012": "ImageNet", "cifar10": "CIFAR-10", "digits": "Digits"}
_COLUMNS = ("recipe", "network", "optimizer", "batch", "rate", "warm-up", "epochs", "top-1, %")

_HEAD = """\
# Recipes

Written by `python -m trainers.recipe_table` from the files in configs/, which are the one place for
these numbers; a test compares. Run one with
`python -m trainers.train --flagfile=configs/RECIPE.flags`, on several workers with
`horovodrun -np N` before it; the exact command stands on top of each file.
`python -m trainers.plan` moves the nearest recipe to a batch of your own.

**Top-1** is what the source reports for its own code, not what this package reached: no ImageNet
recipe was run here. A dash: the source gives no number that could be read, or it is a recipe of our
own, whose accuracy is on top of its file. **Rate** 0.1·B/256 means that it follows the batch.
**Warm-up** and **epochs** are passes over the data. A batch that grows is given by its first size.
"""


def table():
    """docs/configs.md: every recipe with its source and what that reports."""
    lines = [_HEAD]
    recipes = read_recipes().values()
    for dataset, title in _SECTIONS.items():
        lines.append(f"## {title}\n")
        lines += [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
        rows = [r for r in recipes if r.config.dataset == dataset]
        lines += [_row(r) for r in sorted(rows, key=_order)]
        lines.append("")
    sources = {}
    for recipe in recipes:
        sources.setdefault(recipe.source or recipe.title, []).append(recipe.name)
    lines.append("## Sources\n")
    lines += [f"- {source}: {_names(names)}" for source, names in sorted(sources.items())]
    return "\n".join(lines) + "\n"


def _row(recipe):
    config = recipe.config
    rate = f"{config.learning_rate:.4g}"
    if config.lr_scaling != "none":
        how = {"linear": "·B/", "sqrt": "·√B/", "legw": "·√B/"}[config.lr_scaling]
        rate += f"{how}{config.base_batch_size}"
    published = "–" if recipe.published is None else f"{recipe.published:g}"
    cells = (
        f"`{recipe.name}`",
        config.model,
        config.optimizer,
        f"{config.global_batch_size:,}",
        rate,
        f"{config.warmup_epochs:.4g}",
        str(config.epochs),
        published,
    )
    return f"| {' | '.join(cells)} |"


def _order(recipe):
    config = recipe.config
    series = re.sub(r"_\w?\d+k?$", "", recipe.name)
    return config.model, series, config.global_batch_size, recipe.name


def _names(names):
    return ", ".join(f"`{name}`" for name in names)


def main():
    print(table(), end="")


if __name__ == "__main__":
    main()
