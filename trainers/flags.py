"""The command line: absl flags made from the options of TrainConfig, read here and nowhere else."""

import dataclasses

from absl import flags

from trainers.config import TrainConfig, option_type
from trainers.errors import ConfigError

_DEFINE = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    tuple: flags.DEFINE_list,
}


def define():
    """Defines a flag for every option of TrainConfig."""
    for field in dataclasses.fields(TrainConfig):
        default = None if field.default is dataclasses.MISSING else field.default
        choices = field.metadata["choices"]
        allowed = f" One of: {', '.join(choices)}." if choices else ""
        text = field.metadata["help"] + allowed
        _DEFINE[option_type(field)](field.name, default, text)


def parse(argv):
    """Parses the command line into FLAGS; used as absl's flags parser.

    Raises:
        ConfigError: a flag is unknown or not of its type, or is overridden by a later --flagfile.
    """
    try:
        _check_not_overridden(argv[1:])
        rest = flags.FLAGS(argv)
    except (flags.Error, OSError) as error:
        raise ConfigError(str(error)) from error
    if len(rest) > 1:
        raise ConfigError(f"only flags are taken (--name=value); got {' '.join(rest[1:])}")
    return rest


def read_config():
    """The parsed flags as a TrainConfig."""
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    values = {name: flags.FLAGS[name].value for name in names}
    if values["lr_milestones"] is not None:
        values["lr_milestones"] = _numbers("lr_milestones", values["lr_milestones"])
    return TrainConfig.from_values(values)


def to_flags(config):
    """The lines of a flags file that gives `config` again, the folder of the run left out."""
    lines = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is None or field.name == "run_dir":
            continue
        if isinstance(value, tuple):
            value = ",".join(f"{item:g}" for item in value)
        if isinstance(value, bool):
            value = str(value).lower()
        lines.append(f"--{field.name}={value}")
    return lines


def _numbers(flag, texts):
    try:
        return tuple(float(text) for text in texts)
    except ValueError as error:
        raise ConfigError(f"--{flag} takes numbers, 30,60,80 say; got {','.join(texts)}") from error


def _check_not_overridden(arguments):
    """absl puts a flags file where --flagfile stands: a flag before it would lose, silently."""
    given = {}
    for position, argument in enumerate(arguments):
        if argument == "--":
            return
        if argument.lstrip("-").startswith("flagfile"):
            name, text = _name_and_text(arguments, position)
            inside = flags.FLAGS.read_flags_from_files([f"--flagfile={text}"])
            _check_not_overridden_by(given, inside, text)
        elif argument.startswith("-"):
            name, _ = _name_and_text(arguments, position)
            given[name] = argument


def _check_not_overridden_by(given, inside, file):
    for position, argument in enumerate(inside):
        name, _ = _name_and_text(inside, position)
        if name in given and given[name] != argument:
            raise ConfigError(
                f"{given[name]} stands before --flagfile={file}, whose {argument} would override "
                "it. Put it after --flagfile."
            )


def _name_and_text(arguments, position):
    """Name and value of `--name=value`, `--name value`, `--name` or `--noname`."""
    name, equals, text = arguments[position].lstrip("-").partition("=")
    if not equals and position + 1 < len(arguments):
        text = arguments[position + 1]
    if name not in flags.FLAGS and name.startswith("no") and name[2:] in flags.FLAGS:
        name = name[2:]
    return name, text


define()
