"""What is said to a user whose input cannot work."""

import difflib
import re


class ConfigError(ValueError):
    """A setting that cannot work; the message names the flag, the value and what is allowed."""


def from_tensorflow(error):
    """The text of a ConfigError that TensorFlow has made an error of its own of; None if it is not.

    That is what it does to what is raised while it reads images.
    """
    raised = re.search(r"^ConfigError: (.+)$", str(error), re.MULTILINE)
    return raised and raised[1]


def check_choice(flag, value, allowed):
    """Raises a ConfigError with the near matches unless `value` is one of the names `allowed`."""
    if value in allowed:
        return
    folded = {name.casefold(): name for name in allowed}
    matches = difflib.get_close_matches(str(value).casefold(), folded, n=3, cutoff=0.5)
    near = [folded[match] for match in matches]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(f"--{flag}={value} is unknown.{hint} Allowed: {', '.join(allowed)}.")
