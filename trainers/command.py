"""How the commands of this package start and end."""

import sys
import time

from absl import app

from trainers import startup
from trainers.errors import ConfigError

BAD_SETTINGS = 2


def run(name, main, parse):
    """Runs `main(argv)` through absl; bad settings are answered by rank 0 alone, in one message."""
    try:
        app.run(main, flags_parser=parse)
    except ConfigError as error:
        if startup.launched_rank_and_size()[0] == 0:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
        else:
            time.sleep(2)  # horovodrun ends all workers with the first: rank 0 speaks before
        sys.exit(BAD_SETTINGS)
