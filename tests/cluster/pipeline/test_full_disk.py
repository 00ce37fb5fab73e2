"""A disk that is full, whatever a stage was writing: one line with the path and the remedy."""

import errno
import os
from pathlib import Path

import pytest

from distiltune.cluster.pipeline.stage_runner import StageRunner
from distiltune.cluster.store.lease import Lease
from distiltune.cluster.store.runs import STAGES, Storage
from distiltune.errors import DataError, RunFailedError
from distiltune.storage.retry import refusal_of


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_whose_disk_is_full_fails_in_one_line(tmp_path, small_disk, stage):
    run = Storage(str(tmp_path / "store"), retry_s=0).create("a")
    runner = StageRunner(run, Lease(run.store, run.key()), lambda _: None)

    def work(_):
        with (small_disk / "scratch").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**18))

    with pytest.raises(
        RunFailedError, match=rf"^run a, stage {stage}: storage .*No space left on device; .*resume"
    ) as caught:
        runner.do(stage, work)
    assert "\n" not in str(caught.value)
    assert run.stage_record(stage)["state"] == "failed"


def test_full_disk_errors_of_libraries_are_recognised(tmp_path):
    words = f"I/O error: {os.strerror(errno.ENOSPC)} (os error 28)"
    for error in (RuntimeError(words), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/file")):
        assert "No space left on device" in str(refusal_of(error, str(tmp_path)))
    try:
        raise RuntimeError("it could not be saved") from OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    except RuntimeError as error:
        assert "Disk quota exceeded" in str(refusal_of(error, str(tmp_path)))
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/denied")
    assert "/denied: Permission denied" in str(refusal_of(denied, str(tmp_path)))


def test_other_errors_and_interrupts_stay_what_they_are(tmp_path):
    for error in (
        KeyboardInterrupt(),
        ValueError("x"),
        DataError("x"),
        OSError(errno.EIO, "io"),
        FileNotFoundError(2, "x", "y"),
    ):
        assert refusal_of(error, str(Path(tmp_path))) is None
