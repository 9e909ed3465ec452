"""The published recipes in configs/: read, searched, and moved to another batch.

Every file says on top what it is, where it comes from and what accuracy its source reports; the
rest are the flags. Nothing else in the repository holds these numbers.
"""

import dataclasses
import functools
import math
import re

from trainers import flags
from trainers.config import TrainConfig
from trainers.errors import ConfigError

# Batches within this factor of the wanted one are as near; so their accuracies decide.
_AS_NEAR = 2**0.5

# How the rate follows the batch where a recipe is moved to another one (docs/large_batch.md).
_RULES = {"sgd": "linear", "clars": "linear", "lars": "legw", "lamb": "legw"}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A file of configs/.

    Args:
        name: the file's, without its ending.
        title: its first line, up to what is published.
        published: top-1 in % that the source reports, None if it gives none.
        source: where it comes from.
        command: what runs it.
        config: the TrainConfig.
    """

    name: str
    title: str
    published: float | None
    source: str
    command: str
    config: TrainConfig


@functools.cache
def read_recipes():
    """All recipes, by name."""
    files = sorted(flags.recipes_folder().glob("[!_]*.flags"))
    return {file.stem: _read(file) for file in files}


def _read(file):
    lines = [line[1:] for line in file.read_text().splitlines() if line.startswith("#")]
    command = next((line.strip() for line in lines if "python -m trainers.train" in line), "")
    text = " ".join(line.strip() for line in lines if line.strip() != command)
    head, _, rest = re.sub(r"\s+", " ", text).replace(" Rule: ", " Source: ").partition(" Source: ")
    published = re.search(r"published (?:top-1 )?(\d+(?:\.\d+)?) %", head)
    return Recipe(
        name=file.stem,
        title=re.split(r": (?:the )?published|\. |\.$", head, maxsplit=1)[0].strip(),
        published=float(published[1]) if published else None,
        source=re.split(r" Not run here| Top-1 on ", rest)[0].rstrip("."),
        command=command,
        config=flags.read_file(file),
    )


def nearest(model, dataset, batch, optimizer=None, target=None):
    """The recipe to begin from, and how it differs from what is asked for.

    First the same data set, then the same network or its family, then the nearest batch; among
    batches as near, the best accuracy; with a target, among those that reach it the fewest epochs.

    Args:
        model, dataset: names as in the flags.
        batch: the global batch.
        optimizer: only recipes of this one, if given.
        target: top-1 in (0, 1] that the source must have reached, or None.

    Raises:
        ConfigError: there is no recipe of this optimizer, or none that reaches the target.
    """
    recipes = [r for r in read_recipes().values() if optimizer in (None, r.config.optimizer)]
    recipes = [r for r in recipes if r.config.probe_of is None]
    if target is not None:
        recipes = [r for r in recipes if (r.published or 0.0) >= 100 * target]
    if not recipes:
        wanted = f"--optimizer={optimizer}" if optimizer else f"--target_top1={target:g}"
        if optimizer and target is not None:
            wanted = f"{wanted} and --target_top1={target:g}"
        raise ConfigError(f"no recipe in configs/ has {wanted}. Give another, or leave it out.")

    def distance(recipe):
        config = recipe.config
        factor = max(batch, config.global_batch_size) / min(batch, config.global_batch_size)
        return (
            config.dataset != dataset,
            config.model != model,
            _family(config.model) != _family(model),
            0.0 if factor <= _AS_NEAR else math.log2(factor),
            config.epochs if target is not None else 0,
            -(recipe.published or 0.0),
            recipe.name,
        )

    return min(recipes, key=distance)


def moved(recipe, model, dataset, batch, data_options=()):
    """The recipe's TrainConfig for another network, data set and batch.

    The rate and the warm-up follow the batch: with SGD and CLARS in proportion, with LARS and LAMB
    by the square root and the warm-up in proportion, as in the published series.

    Args:
        recipe: a Recipe.
        model, dataset: names as in the flags.
        batch: the global batch.
        data_options: the names of the options of data that the new data set takes.
    """
    config = recipe.config
    changes = {"model": model, "dataset": dataset, "global_batch_size": batch}
    if batch != config.global_batch_size and config.lr_scaling == "none":
        changes |= {
            "lr_scaling": _RULES[config.optimizer],
            "base_batch_size": config.global_batch_size,
        }
    if dataset != config.dataset:
        own = ("image_size", "eval_image_size", "crop", "rand_augment", "max_corrupt_images")
        changes |= {name: None for name in own if name not in data_options}
    return dataclasses.replace(config, **changes)


def _family(model):
    return re.match(r"[a-z_:]*", model.casefold())[0]
