"""The rules of the house: imports run one way, light modules stay light, every module says what it owns."""

import ast
import subprocess
import sys
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
    "distiltune.cluster.cli",
    "distiltune.cluster.config",
    "distiltune.cluster.watching.show",
    "distiltune.export.runtime",
    "distiltune.export.artifact",
]
HEAVY = {"torch", "transformers", "ray", "onnx", "datasets", "optuna", "matplotlib", "sklearn"}


def modules():
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def imports_of(path: Path, root: Path = ROOT) -> tuple[set[str], set[str]]:
    """Folders of ours and packages of others that a module imports, at any depth."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
    assert ast.get_docstring(ast.parse(text))
    assert text.count("\n") <= 500


def test_the_median_module_is_short():
    lengths = sorted(path.read_text(encoding="utf-8").count("\n") for path in modules())
    assert lengths[len(lengths) // 2] < 200


def test_light_modules_load_nothing_heavy():
    code = (
        f"import importlib, sys\nfor name in {LIGHT!r}: importlib.import_module(name)\n"
        f"print(sorted(set(sys.modules) & {HEAVY!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
