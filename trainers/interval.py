"""How often something is done, as a user writes it: every 500 updates, every 90s, every 10m."""

import dataclasses
import re

from trainers.errors import ConfigError

_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclasses.dataclass(frozen=True)
class Interval:
    """Every so many updates, or seconds; the other one is None."""

    updates: int | None = None
    seconds: int | None = None

    @classmethod
    def parse(cls, flag, text):
        """The interval that a flag's text means.

        Raises:
            ConfigError: it is none.

        Example:
            >>> Interval.parse("checkpoint_every", "10m")
            Interval(updates=None, seconds=600)
        """
        match = re.fullmatch(r"([1-9]\d*)([smh]?)", text.strip())
        if match is None:
            raise ConfigError(
                f"--{flag} takes a number of updates (500), seconds (90s), minutes (10m) or hours "
                f"(1h), at least 1; got {text!r}."
            )
        number, unit = int(match[1]), match[2]
        return cls(seconds=number * _SECONDS[unit]) if unit else cls(updates=number)
