"""The list of what a GPU machine lacks holds all that the package needs there, and nothing else."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LIST = (ROOT / "benchmarks" / "gpu_requirements.txt").read_text(encoding="utf-8")
THERE = {name for line in LIST.splitlines() if line.startswith("# there: ") for name in line.split()[2:]}
PACKED = dict(line.split("==") for line in LIST.splitlines() if line and not line.startswith("#"))
PROMISED = ("torch", "transformers", "onnxruntime")
# The Python and the system there.
MARKERS = {
    "python_version": "3.12",
    "python_full_version": "3.12.0",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
    "os_name": "posix",
}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def needs_of(requirements, there):
    """Return the names of all distributions that the requirements lead to, without those that are there."""
    left, seen = [Requirement(each) for each in requirements], set()
    while left:
        wanted = left.pop()
        name, extras = canonicalize_name(wanted.name), ("", *sorted(wanted.extras))
        if name in there or (name, extras) in seen:
            continue
        seen.add((name, extras))
        for line in metadata.requires(name) or []:
            each = Requirement(line)
            if each.marker is None or any(each.marker.evaluate({**MARKERS, "extra": one}) for one in extras):
                left.append(each)
    return {name for name, _ in seen}


def test_only_what_torch_transformers_and_onnx_runtime_require_is_there():
    assert set(PROMISED) <= THERE <= needs_of(PROMISED, set())


def test_the_parts_of_ray_that_are_not_packed_exist():
    [line] = [line for line in LIST.splitlines() if line.startswith("#   rm -rf ")]
    files = {str(path) for path in metadata.files("ray") or []}
    parts = [part.removeprefix("site/") for part in line.split()[3:]]
    assert "ray/jars" in parts
    assert [part for part in parts if not any(file.startswith(f"{part}/") for file in files)] == []


def test_every_dependency_is_packed_or_there():
    names = {canonicalize_name(Requirement(each).name) for each in project()["dependencies"]}
    assert names - THERE - set(PACKED) == set()
    assert not THERE & set(PACKED)


def test_what_is_packed_is_complete_and_has_nothing_else():
    extra = project()["optional-dependencies"]["cpu"]
    assert needs_of([*project()["dependencies"], *extra], THERE) == set(PACKED)


def test_versions_are_those_of_the_constraints():
    pinned = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    versions = {canonicalize_name(name): version for name, version in pinned}
    assert {name: versions.get(name) for name in PACKED} == PACKED


@pytest.mark.parametrize("name", ["ray", "python-discovery", "scipy"])
def test_a_missing_one_is_seen(name):
    """The last two are needed by packages that others need."""
    assert name in needs_of(project()["dependencies"], THERE)
