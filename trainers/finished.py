"""What the commands that look at a finished run share."""

from trainers.errors import ConfigError
from trainers.flags import flags
from trainers.run_directory import RunDirectory


def given(name):
    """The value of a flag, None if it is not set."""
    return flags.FLAGS[name].value


def finished_run():
    """(run directory, its TrainConfig) of --run_dir.

    Raises:
        ConfigError: it is not given, or holds no finished run.
    """
    if not given("run_dir"):
        raise ConfigError("--run_dir must be given: the folder of a finished run.")
    run = RunDirectory(given("run_dir"))
    config = run.config()
    if config is None or not run.path("final.keras").exists():
        raise ConfigError(f"--run_dir={run.folder} holds no finished run: no final.keras in it.")
    return run, config
