"""Variables that a launcher left in the environment."""

import os
from pathlib import Path

import pytest

from distiltune.storage.environment import home_directory, remove_process_group

LEFT = (
    *("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "ROLE_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "ACCELERATE_USE_FSDP", "FSDP_VERSION"),
    *("OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMIX_RANK", "MV2_COMM_WORLD_RANK", "MPI_LOCALRANKID"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_STEP_NODELIST"),
)
OWN = (
    "SLURM_JOB_ID",
    "SLURM_CPUS_PER_TASK",
    "MY_RANK",
    "RANKING",
    "MASTER_ADDRESS",
    "OMP_NUM_THREADS",
    "PATH",
)


@pytest.fixture
def surroundings(monkeypatch):
    for name in (*LEFT, *OWN):
        monkeypatch.setenv(name, "1")


def test_only_process_group_variables_are_removed(surroundings):
    before = set(os.environ)
    assert sorted(remove_process_group()) == sorted(LEFT)
    assert before - set(os.environ) == set(LEFT)
    assert remove_process_group() == []


def test_a_command_removes_them_first(surroundings, tmp_path, capsys):
    from distiltune.cluster.cli import main

    assert main(["runs", "--storage", str(tmp_path)]) == 0
    assert not set(LEFT) & set(os.environ)


def test_a_user_without_a_home_directory_is_no_error(monkeypatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    assert home_directory() == Path.home()
    monkeypatch.setattr(Path, "home", none)
    assert home_directory() is None
