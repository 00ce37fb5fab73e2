import json
from pathlib import Path

import pytest
from artifacts import MAX_LENGTH, PIECES, tiny_artifact

from distiltune.export.artifact.seal import seal_artifact
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.runtime.probes import NUM_PROBES, write_probes


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tiny_artifact(tmp_path / "made")
    write_probes(folder)
    return folder


def seal(made: Path) -> Path:
    return seal_artifact(made, made.with_name("model"), made_from={}, measurements={})


def edit_probes(made: Path, change) -> None:
    path = made / "probes.json"
    found = json.loads(path.read_text())
    change(found["probes"])
    path.write_text(json.dumps(found))


def test_probes_are_ids_of_many_lengths_with_the_logits_of_the_graph(made: Path) -> None:
    probes = json.loads((made / "probes.json").read_text())["probes"]
    classifier = TextClassifier.load(made)
    lengths = [len(each["ids"]) for each in probes]
    assert len(probes) == NUM_PROBES
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (3, MAX_LENGTH)
    for each in probes:
        assert (each["ids"][0], each["ids"][-1]) == (2, 3)
        assert all(0 <= number < len(PIECES) for number in each["ids"])
        assert each["logits"] == pytest.approx(classifier.logits_of_ids(each["ids"]), rel=1e-6)
    before = (made / "probes.json").read_bytes()
    write_probes(made)
    assert (made / "probes.json").read_bytes() == before


def test_a_whole_artifact_is_verified(here, made: Path, capsys) -> None:
    seal(made)
    assert here("verify", "model") == 0
    out = capsys.readouterr().out
    assert "5 files match the manifest" in out
    assert "32 probes: 0 answers changed" in out
    assert here("verify", "model", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_files"], found["num_probes"], found["num_changed"]) == (5, 32, 0)
    assert found["max_abs_diff"] < 1e-5


def test_every_changed_file_is_named_with_status_1(here, made: Path, capsys) -> None:
    model = seal(made)
    (model / "tokenizer.json").write_text("{}")
    (model / "probes.json").unlink()
    assert here("verify", "model") == 1
    err = capsys.readouterr().err
    assert "tokenizer.json was changed" in err
    assert "probes.json is missing" in err
    assert err.count("\n") == 1


def test_a_surplus_file_is_named(here, made: Path, capsys) -> None:
    (seal(made) / "more.py").write_text("")
    assert here("verify", "model") == 1
    assert "more.py" in capsys.readouterr().err


def test_changed_answers_are_counted_against_what_is_allowed(here, made: Path, capsys) -> None:
    def negate(probes: list[dict]) -> None:
        for each in probes[:2]:
            each["logits"] = [-logit for logit in each["logits"]]

    edit_probes(made, negate)
    seal(made)
    assert here("verify", "model") == 1
    out, err = capsys.readouterr()
    assert "2 answers changed" in out
    assert "--max-changed 0" in err
    assert here("verify", "model", "--max-changed", "1") == 1
    assert here("verify", "model", "--max-changed", "2") == 0


def test_an_artifact_without_probes_is_reported(here, made: Path, capsys) -> None:
    (made / "probes.json").unlink()
    seal(made)
    assert here("verify", "model") == 0
    assert "no probes" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        lambda probes: probes.clear(),
        lambda probes: probes[0].pop("ids"),
        lambda probes: probes[0].update(ids=[]),
        lambda probes: probes[0].update(ids=[-1]),
        lambda probes: probes[0].update(ids=["open"]),
        lambda probes: probes[0].update(logits="high"),
        lambda probes: probes[0].update(logits=[True, 1.0, 2.0]),
        lambda probes: probes[0].update(logits=[1.0]),
        lambda probes: [each.update(logits=[1.0, 2.0]) for each in probes],
    ],
)
def test_invalid_probes_are_refused(here, made: Path, capsys, change) -> None:
    edit_probes(made, change)
    seal(made)
    assert here("verify", "model") == 2
    assert "probes.json" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["none", "made", "../x"])
def test_a_folder_that_is_not_an_artifact_is_bad_input(here, made: Path, capsys, name: str) -> None:
    assert here("verify", name) == 2
    assert name in capsys.readouterr().err
