"""What the settings accept, and what is said about the rest."""

import dataclasses
import subprocess
import sys

import pytest
from absl.testing import flagsaver

from trainers import flags
from trainers.config import TrainConfig
from trainers.derived import derive
from trainers.errors import ConfigError

GOOD = {
    "dataset": "digits",
    "model": "resnet20",
    "optimizer": "lars",
    "learning_rate": 8.0,
    "global_batch_size": 512,
    "epochs": 60,
}


def parse(*arguments):
    with flagsaver.flagsaver():
        flags.parse(["train", *arguments])
        return flags.read_config()


def command(values):
    return [f"--{name}={value}" for name, value in values.items()]


def test_flags_become_a_config():
    assert parse(*command(GOOD)) == TrainConfig(**GOOD)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"optimizer": "clars", "momentum_rule": "update_norm"},
            "--momentum_rule=update_norm divides by the norm of the update, clars by mean norms",
        ),
        ({"model": "resnet21"}, "--model=resnet21 is unknown. Did you mean resnet"),
        ({"dataset": "digit"}, "--dataset=digit is unknown. Did you mean digits?"),
        ({"optimizer": "lasr"}, "--optimizer=lasr is unknown. Did you mean lars"),
        ({"optimizer": "LARS"}, "--optimizer=LARS is unknown. Did you mean lars"),
        ({"optimizer": "qqqq"}, "--optimizer=qqqq is unknown. Allowed: clars, lamb, lars"),
        ({"lr_schedule": "poly"}, "--lr_schedule=poly is unknown. Did you mean polynomial"),
        ({"lr_scaling": "liner"}, "--lr_scaling=liner is unknown. Did you mean linear"),
        ({"learning_rate": 0.0}, "--learning_rate must be greater than 0; got 0.0"),
        ({"learning_rate": float("nan")}, "--learning_rate must be a finite number; got nan"),
        ({"learning_rate": "fast"}, "--learning_rate takes float; got 'fast'"),
        ({"epochs": 0}, "--epochs must be at least 1; got 0"),
        ({"epochs": 1.5}, "--epochs takes int; got 1.5"),
        ({"epochs": True}, "--epochs takes int; got True"),
        ({"global_batch_size": -512}, "--global_batch_size must be at least 1; got -512"),
        ({"momentum": 1.0}, "--momentum must be at most 0.9999; got 1.0"),
        ({"label_smoothing": -0.1}, "--label_smoothing must be at least 0; got -0.1"),
        ({"weight_decay": -1e-4}, "--weight_decay must be at least 0; got -0.0001"),
        ({"seed": -1}, "--seed must be at least 0; got -1"),
        ({"warmup_epochs": 61.0}, "--warmup_epochs=61 must be at most --epochs=60"),
        (
            {"optimizer": "sgd", "trust_coefficient": 0.01},
            "--trust_coefficient=0.01 has no effect with --optimizer=sgd",
        ),
        (
            {"lr_schedule": "cosine", "lr_power": 2.0},
            "--lr_power=2.0 has no effect with --lr_schedule=cosine",
        ),
        ({"lr_schedule": "step"}, "--lr_milestones must be given with --lr_schedule=step"),
        (
            {"lr_schedule": "step", "lr_milestones": (40.0, 30.0)},
            "--lr_milestones must rise",
        ),
        (
            {"lr_schedule": "step", "lr_milestones": (30.0, 60.0)},
            "--lr_milestones must lie between 0 and --epochs=60",
        ),
    ],
)
def test_refuses_what_cannot_work(changes, message):
    with pytest.raises(ConfigError) as error:
        TrainConfig(**(GOOD | changes))
    assert message in str(error.value)


def test_names_every_option_that_is_missing():
    with pytest.raises(ConfigError, match="--model, --epochs must be given"):
        TrainConfig.from_values({k: v for k, v in GOOD.items() if k not in ("model", "epochs")})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch=3"], "Unknown command line flag 'epoch'. Did you mean: epochs"),
        (["--epochs=many"], "--epochs=many"),
        (["--flagfile=nowhere.flags"], "--flagfile=nowhere.flags cannot be read: No such file"),
        (["--flagfile=configs/nowhere.flags"], "--flagfile=configs/nowhere.flags cannot be read"),
        (["--flagfile"], "--flagfile needs the name of a file"),
        (["epochs=3"], r"only flags are taken \(--name=value\); got epochs=3"),
        (["--lr_milestones=3,x"], "--lr_milestones takes numbers"),
    ],
)
def test_refuses_a_command_line_that_cannot_be_read(arguments, message):
    with pytest.raises(ConfigError, match=message):
        parse(*command(GOOD), *arguments)


@pytest.fixture
def flags_file(tmp_path):
    inner = tmp_path / "inner.flags"
    inner.write_text("\n".join(["# shared by several", *command(GOOD), "--nesterov"]))
    path = tmp_path / "outer.flags"
    path.write_text(f"--flagfile={inner}\n--warmup_epochs=5\n")
    return path


def test_a_flag_after_the_flags_file_overrides_it(flags_file):
    assert parse(f"--flagfile={flags_file}", "--epochs=3", "--warmup_epochs=1").epochs == 3


@pytest.mark.parametrize("early", [["--epochs=3"], ["--epochs", "3"], ["--nonesterov"]])
@pytest.mark.parametrize("form", ["--flagfile={}", "-flagfile={}", "--flagfile {}"])
def test_a_flag_that_the_flags_file_would_override_is_refused(flags_file, early, form):
    with pytest.raises(ConfigError, match=f"{early[0]}.* stands before --flagfile"):
        parse(*early, *form.format(flags_file).split(" "))


def test_flags_files_that_override_each_other_are_refused_on_the_command_line(flags_file, tmp_path):
    other = tmp_path / "other.flags"
    other.write_text("--epochs=3\n")
    with pytest.raises(ConfigError, match=r"--epochs=60.* stands before --flagfile=.*other.flags"):
        parse(f"--flagfile={flags_file}", f"--flagfile={other}")
    other.write_text("--seed=3\n")
    assert parse(f"--flagfile={flags_file}", f"--flagfile={other}").seed == 3


def test_flags_files_that_contain_each_other_are_refused(tmp_path):
    path = tmp_path / "circle.flags"
    path.write_text(f"--flagfile={path}\n")
    with pytest.raises(ConfigError, match=r"circle.flags contains itself"):
        parse(f"--flagfile={path}")


def test_a_folder_named_like_the_flag_is_no_flags_file(flags_file):
    assert parse(f"--flagfile={flags_file}", "--run_dir", "flagfile_1").run_dir == "flagfile_1"


def test_a_recipe_is_found_from_any_folder(tmp_path, monkeypatch):
    recipe = "--flagfile=configs/resnet50_imagenet_lars_16k.flags"  # has others inside
    here = parse(recipe)
    monkeypatch.chdir(tmp_path)
    assert parse(recipe) == here
    (tmp_path / "configs").mkdir()
    own = tmp_path / "configs" / "resnet50_imagenet_lars_16k.flags"
    own.write_text("\n".join([*command(GOOD), "--seed=5"]))
    assert parse(recipe).seed == 5


def test_a_flag_before_the_flags_file_that_it_does_not_set_is_taken(flags_file):
    assert parse("--seed=3", f"--flagfile={flags_file}").seed == 3


def test_a_flag_before_the_flags_file_that_agrees_with_it_is_taken(flags_file):
    assert parse("--epochs=60", f"--flagfile={flags_file}").epochs == 60


@pytest.mark.parametrize(
    "changes",
    [
        {"weight_decay": 1e-5, "nesterov": False, "trust_coefficient": 0.02},
        {"lr_schedule": "step", "lr_milestones": (7.5, 30.0), "random_flip": True},
        {"seed": 7, "precise_bn_examples": 0, "bn_momentum": 0.9, "learning_rate": 0.1 + 0.2},
    ],
)
def test_the_flags_file_of_a_run_gives_its_config_again(tmp_path, changes):
    config = TrainConfig(**(GOOD | changes))
    path = tmp_path / "flags.txt"
    path.write_text("\n".join(flags.to_flags(config)))
    assert parse(f"--flagfile={path}") == config


def test_every_option_is_documented_and_has_a_flag():
    for field in dataclasses.fields(TrainConfig):
        assert field.metadata["help"].endswith(".")
        assert field.name in flags.flags.FLAGS


def plan(changes=None, examples=1437, workers=2):
    return derive(TrainConfig(**(GOOD | (changes or {}))), examples, 360, workers)


def test_the_plan_follows_from_the_settings():
    derived = plan({"warmup_epochs": 10.0, "lr_scaling": "linear", "learning_rate": 0.1})
    assert (derived.local_batch_size, derived.steps_per_epoch, derived.updates) == (256, 3, 180)
    assert (derived.warmup_updates, derived.eval_every) == (30, 3)
    assert derived.peak_learning_rate == pytest.approx(0.2)


def test_legw_scales_the_warmup_too():
    derived = plan({"lr_scaling": "legw", "learning_rate": 1.0, "warmup_epochs": 4.0})
    assert derived.peak_learning_rate == pytest.approx(2**0.5)
    assert derived.warmup_updates == 24


@pytest.mark.parametrize(
    ("epochs", "momentum"), [(2, 0.0), (10, 1 - 10 / 30), (60, 1 - 10 / 180), (900, 0.99)]
)
def test_batch_norm_forgets_within_a_tenth_of_the_updates(epochs, momentum):
    assert plan({"epochs": epochs}).bn_momentum == pytest.approx(momentum)


@pytest.mark.parametrize(
    ("changes", "workers", "message"),
    [
        ({}, 3, "--global_batch_size=512 must be divisible by the 3 workers: 510 or 513, say"),
        ({"global_batch_size": 1}, 2, "must be divisible by the 2 workers: 2, say"),
        (
            {"global_batch_size": 1440},
            2,
            "--global_batch_size=1440 must be at most the 1437 training examples",
        ),
        (
            {"lr_scaling": "legw", "warmup_epochs": 40.0},
            1,
            "--lr_scaling=legw lengthens --warmup_epochs=40 to 80, more than --epochs=60",
        ),
        (
            {"lr_schedule": "step", "lr_milestones": (0.1, 30.0)},
            1,
            "--lr_milestones=0.1,30 are updates 0, 90 of 180, at 3 an epoch: they must",
        ),
        (
            {"lr_schedule": "step", "lr_milestones": (30.0, 30.1)},
            1,
            "--lr_milestones=30,30.1 are updates 90, 90 of 180",
        ),
        (
            {"lr_schedule": "step", "lr_milestones": (30.0, 59.9)},
            1,
            "--lr_milestones=30,59.9 are updates 90, 180 of 180",
        ),
        (
            {
                "lr_schedule": "step",
                "lr_milestones": (12.0, 30.0),
                "lr_scaling": "legw",
                "warmup_epochs": 10.0,
            },
            1,
            "are updates 36, 90 of 180, but the warm-up takes 60",
        ),
    ],
)
def test_refuses_settings_that_do_not_fit_the_data_or_the_workers(changes, workers, message):
    with pytest.raises(ConfigError, match=message):
        plan(changes, workers=workers)


def test_settings_are_checked_without_loading_tensorflow():
    code = "import sys, trainers.train; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
