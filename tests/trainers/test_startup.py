"""Which worker of how many a process is, by what its launcher has set."""

import pytest

from trainers import startup

LAUNCHERS = [
    ("HOROVOD_RANK", "HOROVOD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("PMIX_RANK", "SLURM_STEP_NUM_TASKS"),
]


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in sum(LAUNCHERS, ()):
        monkeypatch.delenv(name, raising=False)


def test_a_process_that_nobody_launched_is_alone():
    assert startup.launched_rank_and_size() == (0, 1)


@pytest.mark.parametrize(("rank", "size"), LAUNCHERS)
def test_every_launcher_s_rank_and_size_are_read(rank, size, monkeypatch):
    monkeypatch.setenv(rank, "3")
    monkeypatch.setenv(size, "64")
    assert startup.launched_rank_and_size() == (3, 64)


def test_tasks_of_a_slurm_step_that_no_pmix_connects_are_alone(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "64")
    assert startup.launched_rank_and_size() == (0, 1)


def test_mpirun_within_a_slurm_step_goes_before_the_step(monkeypatch):
    for name, value in {"PMIX_RANK": 5, "SLURM_STEP_NUM_TASKS": 1}.items():
        monkeypatch.setenv(name, str(value))
    for name, value in {"OMPI_COMM_WORLD_RANK": 5, "OMPI_COMM_WORLD_SIZE": 8}.items():
        monkeypatch.setenv(name, str(value))
    assert startup.launched_rank_and_size() == (5, 8)
