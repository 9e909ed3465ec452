"""How the commands of this package start and end."""

import sys
import time

from absl import app, flags

from trainers import startup
from trainers.errors import ConfigError, from_tensorflow

BAD_SETTINGS = 2


def run(name, main, parse):
    """Runs `main(argv)` through absl; bad settings are answered in one message.

    Rank 0 says it, since they are the same for all; what is wrong with a worker's own images, it
    says itself.

    Help is given here, since absl's knows neither the text nor the flags of a console script.
    """
    asked = {argument.lstrip("-") for argument in sys.argv[1:] if argument.startswith("-")}
    if asked & {"h", "help", "helpshort", "helpfull"}:
        print(_help(main.__module__, full="helpfull" in asked))
        return
    try:
        app.run(main, flags_parser=parse)
    except ConfigError as error:
        if startup.present_rank() == 0:
            _end(name, error)
        time.sleep(2)  # horovodrun ends all workers with the first: rank 0 speaks before
        sys.exit(BAD_SETTINGS)
    except Exception as error:
        problem = from_tensorflow(error)
        if problem is None:
            raise
        _end(name, problem)


def _end(name, problem):
    print(f"{name}: {problem}", file=sys.stderr, flush=True)
    sys.exit(BAD_SETTINGS)


def _help(module, full):
    """What a command is for, and its flags: its own, or all of them."""
    text = sys.modules[module].__doc__
    if full:
        return f"{text}\n{flags.FLAGS.get_help()}"
    own = flags.FLAGS.module_help(sys.argv[0] if module == "__main__" else module)
    return f"{text}{own}\n\n--helpfull lists the flags of all modules."
