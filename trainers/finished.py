"""What the commands that look at a run afterwards share."""

import pathlib
import zipfile

from trainers.errors import ConfigError
from trainers.flags import flags
from trainers.run_directory import RunDirectory, best_update


def given(name):
    """The value of a flag, None if it is not set."""
    return flags.FLAGS[name].value


def begun_run():
    """(run directory, its TrainConfig) of --run_dir.

    Raises:
        ConfigError: it is not given, or holds no run.
    """
    if not given("run_dir"):
        raise ConfigError("--run_dir must be given: the folder of a run.")
    run = RunDirectory(given("run_dir"))
    config = run.config()
    if config is None:
        raise ConfigError(f"--run_dir={run.folder} holds no run.")
    return run, config


def finished_run():
    """As `begun_run`, of a run that has ended.

    Raises:
        ConfigError: it has not.
    """
    run, config = begun_run()
    if not run.path("final.keras").exists():
        raise ConfigError(f"--run_dir={run.folder} holds no finished run: no final.keras in it.")
    return run, config


def checkpoint_file(run, name):
    """The file of a checkpoint of `run`: the newest, that of the best evaluation, or `name` itself.

    Raises:
        ConfigError: there is none.
    """
    files = sorted(run.path("checkpoints").glob("update-*.npz"))
    if name == "newest" and files:
        return files[-1]
    file = pathlib.Path(name)
    if name == "best":
        file = run.path("checkpoints") / f"update-{best_update(run.metrics()):08}.npz"
    if not file.is_file():
        has = ", ".join(found.name for found in files) or "none"
        raise ConfigError(
            f"--checkpoint={name} is not there: give newest, best or a file. "
            f"{run.path('checkpoints')} holds {has}."
        )
    return file


def restored(run, config, dataset, file):
    """The compiled network of a run as a checkpoint has it.

    Raises:
        ConfigError: the file is damaged, or of another run.
    """
    from trainers.checkpoints import Checkpoints
    from trainers.derived import derive
    from trainers.loop import build
    from trainers.startup import Workers

    world_size = run.plan()["world_size"]
    plan = derive(config, dataset.examples("train"), dataset.examples("test"), world_size)
    model, _ = build(config, plan, dataset, Workers())
    try:
        Checkpoints(run, model, Workers(), config.keep_checkpoints).load(file)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"--checkpoint={file} is damaged or of another run: {error}") from error
    return model
