from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One real local Ray with two CPUs for all tests that need one: the one that `distiltune run` starts."""
    from distiltune.cluster.config import ResourcesConfig
    from distiltune.cluster.head import ray_session

    with ray_session(ResourcesConfig(num_cpus=2)):
        yield
