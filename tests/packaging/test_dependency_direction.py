"""The one-way street of docs/architecture.md: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Each room with the rooms of ours that it may import, besides itself.
MAY_IMPORT = {
    "tf_lars.optimizers": set(),
    "tf_lars.schedules": set(),
    "tf_lars.training": {"tf_lars.optimizers", "tf_lars.schedules"},
    "tf_lars.horovod": {"tf_lars.training", "tf_lars.schedules", "tf_lars.optimizers"},
    "trainers": {"tf_lars", "tf_lars.horovod", "tf_lars.training", "tf_lars.schedules",
                 "tf_lars.optimizers"},
}  # fmt: skip
FORBIDDEN_OUTSIDE = {
    "tf_lars.optimizers": {"horovod", "absl", "tensorflow_datasets"},
    "tf_lars.schedules": {"horovod", "absl", "tensorflow_datasets"},
    "tf_lars.training": {"horovod", "absl", "tensorflow_datasets"},
    "tf_lars.horovod": {"tensorflow_datasets"},
    "trainers": {"horovod"},
}


def files_of(room):
    return sorted((ROOT / room.replace(".", "/")).rglob("*.py"))


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module):
    matches = [room for room in (*MAY_IMPORT, "tf_lars") if (module + ".").startswith(room + ".")]
    return max(matches, key=len, default=None)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_lies_below_it(room):
    assert files_of(room), f"{room} holds no files"
    allowed = MAY_IMPORT[room] | {room, None}
    for path in files_of(room):
        for module in imported_modules(path):
            # `from tf_lars.horovod import x` also yields `tf_lars`-prefixed names of the same room.
            assert room_of(module) in allowed or module == "tf_lars", f"{path}: imports {module}"
            assert module.split(".")[0] not in FORBIDDEN_OUTSIDE[room], f"{path}: imports {module}"


def loaded_by(statement, backend):
    code = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True,
        env={"KERAS_BACKEND": backend, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    return set(result.stdout.split())


def test_importing_tf_lars_loads_no_horovod_flags_or_datasets():
    loaded = loaded_by("import tf_lars; tf_lars.LARS", "tensorflow")
    assert not loaded & {"horovod", "tensorflow_datasets", "trainers"}


def test_on_the_jax_backend_optimizers_and_schedules_load_no_tensorflow():
    loaded = loaded_by("import tf_lars, tf_lars.schedules; tf_lars.LARS", "jax")
    assert "jax" in loaded
    assert "tensorflow" not in loaded
