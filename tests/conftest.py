from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One real local Ray with two CPUs for all tests that need one."""
    from distiltune.search.tuner import RAY_WORKER_ENV

    settings = {
        **RAY_WORKER_ENV,
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    import ray

    # Ray's sockets need a short path.
    directory = tempfile.mkdtemp(prefix="dt-", dir="/tmp")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        _temp_dir=directory,
        logging_level="ERROR",
        log_to_driver=False,
        object_store_memory=200 * 2**20,
        runtime_env={"env_vars": {**RAY_WORKER_ENV, "HF_HUB_OFFLINE": "1"}},
    )
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(directory, ignore_errors=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
