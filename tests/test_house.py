"""The rules of the house: imports run one way, light modules stay light, every module says what it owns."""

import ast
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("storage", "training", "search", "export", "cluster")
MAY_IMPORT = {
    "storage": {"storage"},
    "training": {"training", "storage"},
    "search": {"search", "training", "storage"},
    "export": {"export", "training", "storage"},
    "cluster": {"cluster", "search", "export", "training", "storage"},
}
# The shelves of each folder from the ground up: a module imports from its own floor's shelf, and from floors below.
# Shelves of one floor do not know each other.
FLOORS = {
    "training": [
        "section registry ragged machine",
        "section_registry",
        "data",
        "tasks",
        "models",
        "checkpoints",
        "compression",
        "distillation",
        "teacher pretraining",
        "student",
    ],
    "search": [
        "parameters trial_record schedulers samplers",
        "student_arguments",
        "config",
        "space selection",
        "trial study",
        "driver plots",
    ],
    "export": [
        "markdown temperature",
        "artifact machine onnx",
        "runtime",
        "out_of_scope commands",
        "variants baselines",
        "benchmark",
        "config",
        "selection",
        "report",
    ],
    "cluster": [
        "specification nodes",
        "store session",
        "watching remote",
        "pipeline",
        "jobs plan",
        "commands",
        "app",
        "cli",
    ],
}
MOST_ENTRIES = 14
MUST_NOT_KNOW = {
    "storage": {"ray", "optuna", "torch", "transformers", "onnx", "onnxruntime"},
    "training": {"ray", "optuna", "onnx", "onnxruntime"},
    "search": {"onnx", "onnxruntime", "typer"},
    "export": {"ray", "optuna"},
    "cluster": set(),
}
LIGHT = [
    "distiltune",
    "distiltune.errors",
    "distiltune.progress",
    "distiltune.cluster.cli",
    "distiltune.cluster.app",
    "distiltune.cluster.specification.config",
    "distiltune.cluster.watching.show",
    "distiltune.export.runtime.classifier",
    "distiltune.export.artifact.seal",
]
HEAVY = {"torch", "transformers", "ray", "onnx", "datasets", "optuna", "matplotlib", "sklearn"}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def modules():
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def modules_of(path: Path, root: Path = ROOT) -> set[str]:
    """Dotted names of our modules that a module imports, at any depth, without the package's own name."""
    found = set()
    package = path.relative_to(root).parts[:-1]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = package[: len(package) - node.level + 1]
            module = ".".join((*above, *filter(None, [node.module])))
            found.update(f"{module}.{alias.name}" if module else alias.name for alias in node.names)
    return found


def shelf(name: str) -> str:
    """The shelf of a module, or the module itself where it stands beside the shelves: the second part of its name."""
    return name.split(".")[1]


def floor_of(folder: str) -> dict[str, int]:
    return {each: floor for floor, shelves in enumerate(FLOORS[folder]) for each in shelves.split()}


def imports_of(path: Path, root: Path = ROOT) -> tuple[set[str], set[str]]:
    """Folders of ours and packages of others that a module imports, at any depth."""
    ours, others = set(), set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(root).parts[:-1]
            above = package[: len(package) - node.level + 1]
            ours.add((*above, *(node.module or "").split("."))[0])
            continue
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            ours.add(rest[0]) if first == "distiltune" and rest else others.add(first)
    return ours & set(FOLDERS), others


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    ours, others = imports_of(path)
    folder = path.relative_to(ROOT).parts[0]
    assert ours <= MAY_IMPORT[folder]
    assert not others & MUST_NOT_KNOW[folder]


def misplaced(path: Path, root: Path = ROOT) -> list[str]:
    """The imports of a module that do not lead down, within its own folder."""
    folder, *rest = path.relative_to(root).with_suffix("").parts
    if folder not in FLOORS or rest == ["__init__"]:
        return []
    floors, own = floor_of(folder), rest[0]
    inside = [name for name in modules_of(path, root) if name.startswith(f"{folder}.") and shelf(name) != own]
    return [name for name in inside if floors[shelf(name)] >= floors[own]]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_within_a_folder_lead_down(path):
    assert misplaced(path) == []


def test_every_shelf_has_a_floor():
    for folder in FLOORS:
        entries = {path.stem for path in (ROOT / folder).iterdir() if path.name[:1].isalpha()}
        assert entries - {"deploy"} == set(floor_of(folder))


def test_an_import_that_leads_up_is_seen(tmp_path):
    folder = tmp_path / "training" / "data"
    folder.mkdir(parents=True)
    wrong = folder / "wrong.py"
    wrong.write_text(
        "def f():\n    from ..student.build import build_student\n    from ..section import Section\n"
    )
    assert misplaced(wrong, tmp_path) == ["training.student.build.build_student"]


def test_no_modules_import_one_another_in_a_circle():
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in modules()}
    known = {}
    for name, path in names.items():
        found = {each if each in names else each.rpartition(".")[0] for each in modules_of(path)}
        known[name] = {each for each in found if each in names}
    while known:
        ground = [name for name, others in known.items() if not others & set(known)]
        assert ground, f"a circle among {sorted(known)}"
        for name in ground:
            del known[name]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folder_is_crowded(folder):
    below = (path for path in (ROOT / folder).rglob("*") if path.is_dir() and path.name != "__pycache__")
    for place in [ROOT / folder, *below]:
        entries = [path for path in place.iterdir() if path.name[:1].isalpha()]
        assert len(entries) <= MOST_ENTRIES, place


def test_the_reader_of_imports_sees_a_wrong_one(tmp_path):
    folder = tmp_path / "training"
    folder.mkdir()
    wrong = folder / "wrong.py"
    wrong.write_text("def f():\n    from ..search.space import check_space\n    import ray.tune\n")
    ours, others = imports_of(wrong, tmp_path)
    assert ours == {"search"}
    assert others == {"ray"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_owns_and_stays_readable(path):
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(tree_of(path))
    assert text.count("\n") <= 400


def test_the_median_module_is_short():
    lengths = sorted(path.read_text(encoding="utf-8").count("\n") for path in modules())
    assert lengths[len(lengths) // 2] <= 170


def test_light_modules_load_nothing_heavy():
    code = (
        f"import importlib, sys\nfor name in {LIGHT!r}: importlib.import_module(name)\n"
        f"print(sorted(set(sys.modules) & {HEAVY!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_is_packaged():
    """A wheel holds every folder with modules and every other file in them."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    for folder in FOLDERS:
        for init in (ROOT / folder).rglob("__init__.py"):
            assert ".".join(("distiltune", *init.parent.relative_to(ROOT).parts)) in setuptools["packages"]
    packaged = {
        path
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")[1:]).glob(pattern)
    }
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                assert path in packaged, path
