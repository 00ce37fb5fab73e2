"""A job's file: one seed, paths relative to it, the effort of a benchmark, what `distiltune config` prints."""

from pathlib import Path

import pytest
import yaml

from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.cluster.specification.preset_files import preset_names
from distiltune.cluster.specification.printing import as_yaml
from distiltune.cluster.specification.reference import as_markdown
from distiltune.errors import ConfigError

REPOSITORY = Path(__file__).parents[3]
EVERYTHING = {
    "data": {
        "source": "files",
        "train": "a.csv",
        "validation": "b.csv",
        "test": "c.csv",
        "unlabelled": {"path": "more.txt"},
        "augmentation": {"dropped": {"count": 3}, "spliced": {"count": 2, "seed": 9}},
    },
    "teacher": {"scratch": {"hidden_size": 64}},
    "student": {"layers": [0], "pretraining": {}},
    "search": {"scheduler": "asha", "budget": {"patience": 3}},
    "benchmark": {"effort": "quick", "num_runs": 7},
    "resources": {"teacher": {}, "trial": {"cpu": 2}},
    "plan": {"steps": [{"key": "training.alpha", "values": [0.1]}]},
}


def seeds_of(values: dict, path: str = "") -> dict[str, int]:
    found = {}
    for name, value in values.items():
        if name == "seed":
            found[f"{path}seed"] = value
        elif isinstance(value, dict):
            found |= seeds_of(value, f"{path}{name}.")
    return found


def test_every_seed_follows_the_jobs_unless_it_is_given():
    config = JobConfig.model_validate({**EVERYTHING, "seed": 5, "search": {"seed": 3}})
    seeds = seeds_of(config.model_dump())
    assert len(seeds) == 11
    others = {"search.seed": 3, "data.augmentation.spliced.seed": 9}
    assert seeds == {**dict.fromkeys(seeds, 5), **others}


def test_sections_that_are_not_named_have_the_jobs_seed_as_well():
    config = JobConfig.model_validate({"seed": 5})
    assert set(seeds_of(config.model_dump()).values()) == {5}
    assert len(set(seeds_of(JobConfig.model_validate({}).model_dump()).values())) == 1
    assert config.student.pretraining is None and config.data.unlabelled is None


@pytest.mark.parametrize("given", ["-1", "4294967296", "yes", "1.5", "seven", "null", "[1]"])
def test_an_invalid_seed_is_named_once(given):
    with pytest.raises(ConfigError, match=r"^quickstart: seed: "):
        load_config("quickstart", [f"seed={given}"])


def jobs() -> list[str]:
    """Presets, and the files of benchmarks that are jobs rather than comparisons of several."""
    files = sorted(REPOSITORY.glob("benchmarks/**/*.yaml"))
    known = set(JobConfig.model_fields)
    return [*preset_names(), *(str(file) for file in files if set(yaml.safe_load(file.read_text())) <= known)]


@pytest.mark.parametrize("source", jobs(), ids=lambda source: Path(source).stem)
@pytest.mark.parametrize("all_keys", [False, True])
def test_what_is_printed_reads_back_as_the_same_job(source, all_keys, tmp_path):
    config = load_config(source, ["data.path=/data.json"] if source == "clinc150-offline" else [])
    file = tmp_path / "job.yaml"
    file.write_text(as_yaml(config, all_keys=all_keys), encoding="utf-8")
    assert load_config(str(file), []) == config


@pytest.mark.parametrize("all_keys", [False, True])
def test_a_job_with_every_kind_of_section_reads_back(all_keys):
    config = JobConfig.model_validate(EVERYTHING)
    assert JobConfig.model_validate(yaml.safe_load(as_yaml(config, all_keys=all_keys))) == config


def test_keys_with_their_defaults_are_left_out_and_every_key_has_its_comment():
    printed = as_yaml(JobConfig.model_validate({"search": {"num_startup_trials": 4}}))
    assert list(yaml.safe_load(printed)) == ["seed", "task", "data", "search", "export", "storage"]
    assert "num_startup_trials: 4" in printed and "patience" not in printed
    lines = printed.splitlines()
    keys = [number for number, line in enumerate(lines) if line.strip() and line.strip()[0] not in "#-"]
    space = next(number for number in keys if lines[number].strip() == "space:")
    assert all(lines[number - 1].strip().startswith("#") for number in keys if lines[number].count("{") == 0)
    assert lines[space + 1].strip() == "alpha: {type: float, low: 0.0, high: 1.0}"
    assert len(as_yaml(JobConfig.model_validate({}), all_keys=True).splitlines()) > 3 * len(lines)


def test_an_effort_sets_what_is_not_given():
    quick = JobConfig.model_validate(EVERYTHING).benchmark
    assert (quick.num_runs, quick.floors, quick.tune_session) == (7, False, False)
    printed = yaml.safe_load(as_yaml(JobConfig.model_validate(EVERYTHING)))
    assert printed["benchmark"] == {"effort": "quick", "num_runs": 7}
    thorough = JobConfig.model_validate({}).benchmark
    assert quick.num_sample_texts < thorough.num_sample_texts and thorough.floors


def job_in(folder: Path, text: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.yaml").write_text(text, encoding="utf-8")
    return str(folder / "job.yaml")


def test_paths_in_a_file_are_relative_to_it_and_those_of_set_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs" / "teacher").mkdir(parents=True)
    files = "train: a.csv, validation: /b.csv, test: s3://bucket/c.csv, unlabelled: {path: ../d.txt}"
    data = f"data: {{source: files, {files}}}\n"
    models = "teacher: {checkpoint: teacher}\nstudent: {checkpoint: user/name}\n"
    source = job_in(Path("jobs"), f"{data}{models}storage: {{path: runs}}\n")
    config = load_config(source, ["data.test=e.csv"])
    found = config.data.model_dump()
    assert (found["train"], found["validation"], found["test"]) == ("jobs/a.csv", "/b.csv", "e.csv")
    assert found["unlabelled"]["path"] == "jobs/../d.txt"
    assert (config.teacher.checkpoint, config.student.checkpoint) == ("jobs/teacher", "user/name")
    assert config.storage.path == "runs"
    for given in ("logits: t.csv", "logits: {path: t.csv}"):
        source_of_file = job_in(Path("jobs"), f"{data}teacher: {{{given}}}\nstudent: {{kind: static}}\n")
        assert load_config(source_of_file, []).teacher.logits.path == "jobs/t.csv"
    source = job_in(Path("jobs"), f"{data}{models}storage: {{path: runs}}\n")
    assert load_config(source, []).data.model_dump()["test"] == "s3://bucket/c.csv"


def test_paths_of_a_file_in_the_working_directory_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = job_in(tmp_path, "data: {source: clinc_json, path: data.json}\n")
    assert load_config("job.yaml", []).data.model_dump()["path"] == "data.json"
    assert load_config(source, []).data.model_dump()["path"] == str(tmp_path / "data.json")


def test_the_reference_lists_every_key_as_it_is():
    page = (REPOSITORY / "docs" / "reference.md").read_text(encoding="utf-8")
    assert page == as_markdown(), "run: distiltune config --reference > docs/reference.md"
    for key in ("search.num_trials", "export.choose.max_size_mb", "data.unlabelled.path", "seed"):
        assert f"| `{key}` |" in page
