"""Bad specifications: each fault is one clear line that names the key and the value; nothing is silently dropped."""

import json
import os
import socket
import time
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from distiltune.cluster.cli import main
from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.errors import ConfigError
from distiltune.search.space.validation import check_space

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def fault_of(*overrides: str, source: str = "quickstart", most: int = 400) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, list(overrides))
    message = str(caught.value)
    assert "\n" not in message and message.isprintable() and len(message) < most, message
    assert "faults:" not in message, message
    return message


def file_fault(tmp_path: Path, content: str | bytes, name: str = "job.yaml") -> str:
    path = tmp_path / name
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    started = time.monotonic()
    message = fault_of(source=str(path), most=600)
    assert time.monotonic() - started < 20
    assert name in message
    return message


def unbounded(node, path=""):
    """Numbers, texts, lists and mappings of a schema that have no upper end, and numbers without a lower one."""
    if isinstance(node, list):
        for number, each in enumerate(node):
            yield from unbounded(each, f"{path}.{number}")
    if not isinstance(node, dict):
        return
    kind = node.get("type") if not {"enum", "const"} & set(node) else None
    needed = {
        "integer": [("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")],
        "number": [("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")],
        "string": [("minLength",), ("maxLength",)],
        "array": [("maxItems",)],
        "object": [("maxProperties", "properties")],
    }
    if any(not set(names) & set(node) for names in needed.get(str(kind), [])):
        yield path
    for key, each in node.items():
        yield from unbounded(each, f"{path}.{key}")


def test_every_value_of_the_specification_has_bounds():
    assert list(unbounded(JobConfig.model_json_schema())) == []
    assert list(unbounded({"a": {"type": "number", "minimum": 0}, "b": {"type": "string"}})) == [".a", ".b"]


def sections(model, path=()):
    """Each field of each section by its path, through optional sections too."""
    for name, field in model.model_fields.items():
        yield (*path, name), field
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        models = [kind for kind in kinds if hasattr(kind, "model_fields")]
        if len(models) == 1 and not str(field.annotation).startswith("list"):
            yield from sections(models[0], (*path, name))


def numeric_fields():
    found = {}
    for path, field in sections(JobConfig):
        text = str(field.annotation)
        kind = "int" if "int" in text and "float" not in text else "float" if "float" in text else None
        if kind and not {"list", "dict", "Literal"} & {
            word for word in ("list", "dict", "Literal") if word in text
        }:
            found[".".join(path)] = kind
    return found


NUMBERS = numeric_fields()


def test_the_walk_finds_the_numbers():
    assert len(NUMBERS) > 60
    assert NUMBERS["training.batch_size"] == "int" and NUMBERS["storage.retry_s"] == "float"


@pytest.mark.parametrize("path", NUMBERS)
def test_a_value_that_is_not_a_number_or_beyond_its_bounds_is_refused(path):
    values = ["'5'", "true", ".nan", ".inf", "-.inf", "1" + "0" * 40, "-1" + "0" * 40, "1e200", "[1]"]
    values += ["1.5"] if NUMBERS[path] == "int" else []
    for value in values:
        given = yaml.safe_load(value)
        for key in reversed(path.split(".")):
            given = {key: given}
        with pytest.raises(ValidationError) as caught:
            JobConfig.model_validate(given)
        assert path in [".".join(map(str, item["loc"])) for item in caught.value.errors()], value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("training.arguments", "{adam_epsilon: .nan}"),
        ("training.arguments", "{optim_args: {a: [1, -.inf]}}"),
        ("search.points", "[{alpha: .nan}]"),
        ("search.points", "[{alpha: [1.5]}]"),
        ("search.points", "[{alpha: {a: 1}}]"),
        ("search.space.alpha", ".inf"),
        ("search.space.alpha", "{type: float, low: 0, high: .inf}"),
        ("search.space.alpha", "{type: choice, values: [0.5, .nan]}"),
        ("search.space.alpha", "{type: choice, values: [null]}"),
        ("search.space.alpha", "{type: int, low: 0.5, high: 2}"),
        ("search.space.alpha", "{type: fixed, value: 1, when: {optim: {a: 1}}}"),
        ("search.constraints", "[{metric: latency_ms, sense: '<=', bound: .inf}]"),
        ("search.constraints", "[latency_ms <= 1e400]"),
        ("search.constraints", "[latency_ms 5]"),
        ("search.seed", "-1"),
        ("training.seed", "4294967296"),
        ("data.seed", "-5"),
        ("training.num_train_epochs", "1000000000"),
        ("search.num_trials", "1000000000000"),
        ("training.batch_size", "1000000000"),
        ("training.learning_rate", "1e10"),
        ("training.batch_size", "1:30"),
        ("training.batch_size", "0100"),
        ("resources.trial.custom", "{node: .inf}"),
        ("resources.trial.custom", "{node: -1}"),
        ("plan", "{steps: [{key: training.alpha, values: [.nan]}]}"),
        ("plan", "{steps: [{key: training.alpha, values: [" + "[" * 60 + "]" * 60 + "]}]}"),
        ("student", "{checkpoint: a, layers: [-1]}"),
        ("student", "{layers: [-1]}"),
        ("benchmark.batch_sizes", "[" + "1," * 1000 + "1]"),
        ("benchmark.batch_sizes", "[true]"),
        ("teacher", "{scratch: {}, seed: 4294967295, ensemble: 2}"),
        ("storage.path", "''"),
        ("storage.path", "'  '"),
        ("storage.path", '"a\\0b"'),
        ("data.text_column", '"a\\e[31m"'),
        ("training.alpha", "'" + "x" * 100_000 + "'"),
        ("x" * 5000, "1"),
        ("search.space." + "x" * 5000, "1"),
    ],
    ids=lambda value: value[:40],
)
def test_one_fault_has_one_line_that_names_its_key(path, value):
    message = fault_of(f"{path}={value}", most=600)
    assert path[:50] in message


def test_a_whole_number_stands_for_a_float_and_an_exponent_is_a_float():
    config = load_config(
        "quickstart", ["training.temperature=2", "training.learning_rate=1e-4", "storage.retry_s=0"]
    )
    assert (config.training.temperature, config.training.learning_rate) == (2.0, 1e-4)
    files = ["data.source=files", "data.train=2024-01-01", "data.test=010", "data.validation=1:30"]
    config = load_config("quickstart", files)
    assert (config.data.train, config.data.test, config.data.validation) == ("2024-01-01", "010", "1:30")


def test_secrets_of_urls_are_refused_and_never_shown():
    for key in ("storage.path", "teacher.checkpoint", "data.path", "resources.address"):
        message = fault_of(f"{key}=s3://KEY:SEC/RET@bucket/runs")
        assert key in message and "KEY" not in message and "RET" not in message
    assert "SECRET" not in fault_of("search.num_trials=s3://KEY:SECRET@bucket")
    assert "SECRET" not in fault_of("s3://KEY:SECRET@bucket")
    assert "SECRET" not in fault_of(source="s3://KEY:SECRET@bucket/job.yaml")


YAML_FAULTS = {
    "key twice": (
        "data: {source: embedded}\nsearch:\n  num_trials: 3\n  num_trials: 4\n",
        ["line 4", "num_trials"],
    ),
    "section twice": ("data: {}\nsearch: {}\ndata: {}\n", ["line 3", "data"]),
    "key twice in a flow": ("search: {space: {alpha: 1, alpha: 0}}", ["line 1", "alpha"]),
    "key twice under another": ("plan: {steps: [{key: a,\n values: [1],\n key: b}]}", ["line 3", "key"]),
    "merge twice": ("data: &a {seed: 1}\nsearch:\n  <<: *a\n  <<: *a\n", ["line 4", "<<"]),
    "number as key": ("data:\n  1: x\n", ["line 2", "1"]),
    "null as key": ("null: x", ["line 1", "null"]),
    "on as key": ("search:\n  on: x", ["line 2", "on", "true or false"]),
    "list as key": ("? [a]\n: b", ["line 1"]),
    "deep": ("a: " + "[" * 200_000, ["40"]),
    "deep mappings": ("".join(" " * n + "a:\n" for n in range(500)), ["40"]),
    "many values": ("a: [" + "1," * 30_000 + "1]", ["20,000"]),
    "aliases of aliases": (
        "a0: &a0 [1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
        ["20,000"],
    ),
    "merges of merges": (
        "a0: &a0 {x: 1, y: 2}\n"
        + "".join(f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)),
        ["20,000"],
    ),
    "itself": ("a: &a [*a]", ["line 1", "*a"]),
    "long number": ("a: " + "1" * 5000, ["not valid YAML"]),
    "no number": ("a: !!int x", ["not valid YAML"]),
    "no truth": ("a: !!bool perhaps", ["not valid YAML"]),
    "nothing as number": ("a: !!float ''", ["not valid YAML"]),
    "object": ("a: !!python/object/apply:os.system ['true']", ["line 1", "tag"]),
    "own tag": ("a: !mine x", ["line 1", "tag", "!mine"]),
    "date": ("a: !!timestamp x", ["line 1", "tag"]),
    "two documents": ("a: 1\n---\nb: 2\n", ["line 2", "document"]),
    "no anchor": ("a: *b", ["line 1", "alias"]),
    "merge of text": ("<<: x", ["line 1", "merging"]),
    "NUL": ("a: \0", ["not valid YAML"]),
    "surrogate": ("a: \ud800", ["UTF-8"]),
    "escape": ("\x1b[31m: 1", ["not valid YAML"]),
    "future": ("%YAML 9.9\n---\na: 1\n", ["line 1"]),
    "large": ("#" * (2**20 + 1), ["1,048,576"]),
    "text": ("x" * 1000, ["str"]),
}


@pytest.mark.parametrize(("content", "parts"), YAML_FAULTS.values(), ids=YAML_FAULTS)
def test_a_bad_file_is_one_line_with_its_place(tmp_path, content, parts):
    message = file_fault(tmp_path, content)
    for part in parts:
        assert part in message, message


JSON_FAULTS = {
    "key twice": ('{"data": {},\n "search": {"num_trials": 1,\n"num_trials": 2}}', ["line 3", "num_trials"]),
    "NaN": ('{"training": {"alpha":\n NaN}}', ["line 2", "NaN"]),
    "infinity": ('{"training": {"alpha": -Infinity}}', ["line 1", "Infinity"]),
    "large": ('{"training": {"alpha": 1e999}}', ["line 1", "1e999"]),
    "digits": ('{"training": {"alpha":\n ' + "1" * 5000 + "}}", ["line 2", "5,000"]),
    "deep": ("[" * 100_000, ["nested"]),
    "cut": ('{"training": {"alpha": 1', ["line 1"]),
    "list": ("[1]", ["list"]),
}


@pytest.mark.parametrize(("content", "parts"), JSON_FAULTS.values(), ids=JSON_FAULTS)
def test_a_bad_json_file_is_one_line_with_its_place(tmp_path, content, parts):
    message = file_fault(tmp_path, content, "job.json")
    for part in parts:
        assert part in message, message


def test_a_merged_key_may_be_overridden_and_an_alias_used(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(
        "export: &e {opset: 19, parity_tolerance: 0.1}\nbenchmark: {query: &t hello}\n"
        "data: {out_of_scope_label: *t}\ntraining: &a {batch_size: 8, seed: 1}\n"
    )
    config = load_config(str(path), ["training={<<: {batch_size: 9, seed: 2}, seed: 3}"])
    assert (config.training.batch_size, config.training.seed, config.data.out_of_scope_label) == (
        9,
        3,
        "hello",
    )


def test_a_json_file_may_be_indented_by_tabs(tmp_path):
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"search": {"num_trials": 3}}, indent="\t"))
    assert load_config(str(path), []).search.num_trials == 3


def test_only_a_regular_file_is_read_and_nothing_waits(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(tmp_path)
        listening.bind("socket")
        for source in ("pipe", "socket", ".", "/dev/zero", "/dev/null", "x" * 300, "a\0b", "\ud800"):
            assert ascii(source[:30])[1:-1].replace("\\x00", "")[:1] in fault_of(source=source, most=600)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["search.num_trials=1", "search.num_trials=2"], "search.num_trials"),
        (["search.num_trials=1", "search={num_trials: 2}"], "search"),
        (["search={num_trials: 2, num_trials: 3}"], "search"),
        (["search.num_trials=1" + "0" * 5000], "search.num_trials"),
        (["training.arguments={1: 2}"], "training.arguments"),
        (["storage.path="], "storage.path"),
    ],
)
def test_what_set_would_lose_is_refused(overrides, key):
    assert key in fault_of(*overrides)


def test_set_may_repeat_itself_and_refine():
    config = load_config("quickstart", ["search={num_trials: 2}", "search.seed=1", "search.seed=1"])
    assert (config.search.num_trials, config.search.seed) == (2, 1)


@pytest.mark.parametrize(
    "command", [["runs"], ["show", "latest"], ["status", "latest"], ["report", "latest"], ["run"]]
)
def test_an_empty_storage_is_refused_by_its_name_once(command, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISTILTUNE_STORAGE", raising=False)
    for given in ("", "  ", "s3://KEY:SECRET@bucket"):
        assert main([*command, "--storage", given]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "--storage" in line and "SECRET" not in line and len(line) < 300
    for given in ("", " "):
        monkeypatch.setenv("DISTILTUNE_STORAGE", given)
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "DISTILTUNE_STORAGE" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        (
            "search.space.num_train_epochs={type: int, low: 1, high: 1000000000}",
            ["num_train_epochs", "1000000000"],
        ),
        ("search.space.batch_size=1000000000", ["batch_size", "1000000000"]),
        ("search.space.per_device_train_batch_size=1000000000", ["per_device_train_batch_size"]),
        ("search.space.seed=-1", ["search.space.seed", "-1"]),
        (
            "training.arguments={dataloader_num_workers: 100000}",
            ["training.arguments.dataloader_num_workers"],
        ),
        ("training.arguments={data_seed: -1}", ["training.arguments.data_seed", "-1"]),
        ("training.arguments={lr_scheduler_type: 5}", ["5"]),
        ('search.space={"student.num_layers": {type: int, low: 1, high: 1000000000000}}', ["1000000000000"]),
        (
            'search.space={"student.num_layers": {type: int, low: 1, high: 900}, '
            '"student.num_attention_heads": {type: int, low: 1, high: 900}}',
            ["810,000"],
        ),
    ],
)
def test_a_search_beyond_what_anything_takes_is_refused(override, parts):
    config = load_config("quickstart", [override])
    with pytest.raises(ConfigError) as caught:
        check_space(config.search, config.training, config.student, config.data)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["accurate", "fastest", "smallest"])
def test_the_jobs_of_the_benchmarks_are_valid(name):
    load_config(str(BENCHMARKS / "compression" / f"{name}.yaml"), ["data.path=d.json"])
