from __future__ import annotations

import gc
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import S3_ENVIRONMENT, make_bucket, s3_server
from servers import small_disk as mounted

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Several processes test at once: threads of one that wait for each other would take the cores from the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a script starts in the background ignores Ctrl-C, and so would every process that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.update(S3_ENVIRONMENT)  # of this process, before Ray's workers inherit it


# A file runs in one process, and the other process would wait for one of these that begins late.
LONG = (
    "cluster/jobs/test_hosts.py",
    "cluster/jobs/test_jobs.py",
    "cluster/jobs/test_machines.py",
    "cluster/pipeline/reuse/test_extension.py",
    "cluster/pipeline/test_objectives.py",
    "cluster/pipeline/test_pair_job.py",
    "cluster/pipeline/test_pipeline.py",
    "cluster/pipeline/test_question_job.py",
    "cluster/pipeline/test_remote.py",
    "cluster/pipeline/test_task_jobs.py",
    "cluster/pipeline/test_token_job.py",
    "cluster/plan/test_plan.py",
    "contracts/test_families_and_tasks.py",
    "contracts/test_family_findings.py",
    "export/benchmark/test_benchmark.py",
    "export/onnx/test_export.py",
    "search/driver/test_search_store.py",
    "test_gpu_benchmark.py",
    "test_readme.py",
    "training/distillation/test_long_memory.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """With --write-families, the contract of the families writes its findings to docs/ instead of comparing them."""
    parser.addoption(
        "--write-families", action="store_true", help="write docs/families.json and docs/families.md"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests: those that share a Ray, the long files, the others.

    A process reads how to authenticate when it first uses Ray.
    """
    tests = Path(__file__).parent
    items.sort(
        key=lambda item: (
            "ray_session" not in getattr(item, "fixturenames", ()),
            item.path.relative_to(tests).as_posix() not in LONG,
        )
    )


def pytest_collection_finish() -> None:
    """Refuse a test module that loads Ray: the process would have settled how to authenticate by then."""
    if "ray" in sys.modules:
        raise pytest.UsageError("a test module loads Ray while tests are collected; load it inside the tests")


@pytest.fixture(scope="module", autouse=True)
def modules_are_no_garbage() -> None:
    """Keep what lives between test modules out of the collections of garbage.

    transformers collects twice a training, and the exporter once a graph. With all libraries loaded a collection takes
    longer than the steps of a tiny training.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def ctrl_c_stays() -> Iterator[None]:
    """A test that leaves a handler of its own would take Ctrl-C from the tests after it."""
    before = signal.getsignal(signal.SIGINT)
    yield
    left = signal.signal(signal.SIGINT, before)
    assert left is before, f"the test leaves {left} to handle SIGINT"


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One real local Ray with two CPUs for all tests that need one: the one that `distiltune run` starts."""
    from distiltune.cluster.session.ray_session import ray_session
    from distiltune.cluster.specification.resources import ResourcesConfig

    with ray_session(ResourcesConfig(num_cpus=2)):
        yield


@pytest.fixture(scope="session")
def plain_graph(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, int], Path]:
    """Gives the plain ONNX graph of a checkpoint and a length; an export takes seconds, so equal ones share it."""
    from exports import exported

    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    return lambda student, max_length: exported(student, max_length, shared / "plain-graphs")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """``host:port`` of a real S3 protocol server; the environment holds credentials for it."""
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def s3_url(s3_endpoint: str) -> str:
    """Storage in a new bucket."""
    return make_bucket(s3_endpoint, f"bucket-{secrets.token_hex(4)}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory that holds one megabyte."""
    with mounted(tmp_path / "disk", "1m"):
        yield tmp_path / "disk"
