"""The command line: absl flags made from the options of TrainConfig, read here and nowhere else."""

import dataclasses
import pathlib

from absl import flags

from trainers.config import TrainConfig, option_type
from trainers.errors import ConfigError

_HERE = pathlib.Path(__file__).parent
_DEFINE = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    tuple: flags.DEFINE_list,
}


def define(flag_values=flags.FLAGS):
    """Defines a flag for every option of TrainConfig."""
    for field in dataclasses.fields(TrainConfig):
        default = None if field.default is dataclasses.MISSING else field.default
        choices = field.metadata["choices"]
        allowed = f" One of: {', '.join(choices)}." if choices else ""
        text = field.metadata["help"] + allowed
        _DEFINE[option_type(field)](field.name, default, text, flag_values=flag_values)


def parse(argv):
    """Parses the command line into FLAGS; used as absl's flags parser.

    Raises:
        ConfigError: a flag is unknown or not of its type, or is overridden by a later --flagfile.
    """
    try:
        rest = flags.FLAGS([argv[0], *_expanded(argv[1:])])
    except flags.Error as error:
        raise ConfigError(str(error)) from error
    if len(rest) > 1:
        raise ConfigError(f"only flags are taken (--name=value); got {' '.join(rest[1:])}")
    return rest


def read_config(flag_values=flags.FLAGS):
    """The parsed flags as a TrainConfig."""
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    values = {name: flag_values[name].value for name in names}
    if values["lr_milestones"] is not None:
        values["lr_milestones"] = numbers("lr_milestones", values["lr_milestones"])
    return TrainConfig.from_values(values)


def read_file(file):
    """The TrainConfig of a flags file alone, whatever the command line says.

    Raises:
        ConfigError: the file cannot be read, or what it says cannot work.
    """
    values = flags.FlagValues()
    define(values)
    try:
        values(["", *_expanded([f"--flagfile={file}"])])
    except flags.Error as error:
        raise ConfigError(f"{file}: {error}") from error
    return read_config(values)


def to_flags(config):
    """The lines of a flags file that gives `config` again, without its folder and its launcher."""
    lines = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is None or field.name in ("run_dir", "elastic"):
            continue
        if isinstance(value, tuple):
            value = ",".join(f"{item:g}" for item in value)
        if isinstance(value, bool):
            value = str(value).lower()
        lines.append(f"--{field.name}={value}")
    return lines


def numbers(flag, texts):
    try:
        return tuple(float(text) for text in texts)
    except ValueError as error:
        raise ConfigError(f"--{flag} takes numbers, 30,60,80 say; got {','.join(texts)}") from error


def _expanded(arguments):
    """The arguments with each --flagfile replaced by what it holds.

    absl does this too, but finds a file within a file from the working directory only.

    Raises:
        ConfigError: a file cannot be read, or would override, silently, a flag that stands before.
    """
    found, given, rest = [], {}, list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return [*found, argument, *rest]
        name, equals, text = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "flagfile":
            if not equals and not rest:
                raise ConfigError("--flagfile needs the name of a file.")
            file = text if equals else rest.pop(0)
            inside = _lines(file)
            _check_not_overridden(given, inside, file)
        else:
            inside = [argument]
            if _takes_the_next(argument) and rest:
                inside.append(rest.pop(0))
        given |= _given(inside)
        found += inside
    return found


def _lines(file, within=()):
    """The flags that a file and the files in it hold."""
    path = _path_of(file)
    if path in within:
        raise ConfigError(f"--flagfile={file} contains itself.")
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--flagfile={file} cannot be read: {reason}.") from error
    found = []
    for line in lines:
        name, equals, text = line.lstrip("-").partition("=")
        if line.startswith("-") and name == "flagfile" and equals:
            found += _lines(text, (*within, path))
        elif line and not line.startswith(("#", "//")):
            found.append(line)
    return found


def _path_of(file):
    """Where a flags file lies; the recipes, configs/NAME.flags, are found from anywhere."""
    path = pathlib.Path(file.strip()).expanduser()
    recipe = recipes_folder() / path.name
    if not path.exists() and path.parent == pathlib.Path("configs") and recipe.exists():
        return recipe
    return path


def recipes_folder():
    """Where the recipes lie: installed inside this package, in a clone beside it."""
    inside = _HERE / "configs"
    return inside if inside.is_dir() else _HERE.parent / "configs"


def _check_not_overridden(given, inside, file):
    for name, argument in _given(inside).items():
        if name in given and given[name] != argument:
            raise ConfigError(
                f"{given[name]} stands before --flagfile={file}, whose {argument} would override "
                "it. Put it after --flagfile."
            )


def _given(arguments):
    """{name: text} of the flags in arguments without --flagfile; the last of a name counts."""
    given, rest = {}, list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, _ = argument.lstrip("-").partition("=")
        if not equals and name not in flags.FLAGS and name.startswith("no"):
            name = name[2:]
        if _takes_the_next(argument) and rest:
            argument = f"{argument}={rest.pop(0)}"
        if argument.startswith("-"):
            given[name] = argument
    return given


def _takes_the_next(argument):
    """Whether the value of this flag is the argument behind it: `--name value`."""
    name = argument.lstrip("-")
    return argument.startswith("-") and name in flags.FLAGS and not flags.FLAGS[name].boolean


define()
