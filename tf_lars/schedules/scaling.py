"""From the learning rate of a small batch to that of a large one."""

import math

RULES = ("linear", "sqrt", "none")


def scale_learning_rate(base, batch, base_batch=256, rule="linear"):
    """The learning rate for `batch` examples, given the one for `base_batch` examples.

    With k = batch / base_batch: `"linear"` gives base·k (Goyal et al. 2017, arXiv 1706.02677,
    section 2.1), `"sqrt"` gives base·√k (Krizhevsky 2014, arXiv 1404.5997), `"none"` gives base.

    Args:
        base: learning rate at `base_batch`, positive.
        batch: examples in one update over all workers, positive.
        base_batch: examples in one update where `base` was found, positive.
        rule: `"linear"`, `"sqrt"` or `"none"`.

    Returns:
        The scaled learning rate, a float.

    Raises:
        ValueError: an argument is not positive, or the rule is unknown.

    Example:
        >>> scale_learning_rate(0.1, batch=8192)
        3.2
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}; got {rule!r}")
    for name, value in (("base", base), ("batch", batch), ("base_batch", base_batch)):
        if not value > 0:
            raise ValueError(f"{name} must be positive; got {value!r}")
    growth = batch / base_batch
    return base * {"linear": growth, "sqrt": math.sqrt(growth), "none": 1.0}[rule]


def legw(learning_rate, warmup_epochs, batch, base_batch):
    """Linear-epoch gradual warm-up: a k-fold batch takes a √k-fold rate and a k-fold warm-up.

    You et al. 2019, arXiv 1901.08256, section 3: the rate follows the square root of the batch and
    the warm-up keeps its number of updates, so that its epochs grow with the batch.

    Args:
        learning_rate: learning rate at `base_batch`, positive.
        warmup_epochs: epochs of warm-up at `base_batch`, not negative.
        batch: examples in one update over all workers, positive.
        base_batch: examples in one update where the other two were found, positive.

    Returns:
        (learning rate, warm-up epochs) at `batch`, two floats.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> legw(0.1, 0.5, batch=1024, base_batch=256)
        (0.2, 2.0)
    """
    if not warmup_epochs >= 0:
        raise ValueError(f"warmup_epochs must not be negative; got {warmup_epochs!r}")
    scaled = scale_learning_rate(learning_rate, batch, base_batch, rule="sqrt")
    return scaled, warmup_epochs * batch / base_batch
