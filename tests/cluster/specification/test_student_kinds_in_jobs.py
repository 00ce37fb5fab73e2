"""Jobs with a student without attention: its default values, and unsupported keys, which are rejected by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from models import tiny_classifier
from pydantic import ValidationError

from distiltune.cluster.commands.check import _student
from distiltune.cluster.pipeline.checks.models import check_models
from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.cluster.specification.printing import as_yaml
from distiltune.cluster.specification.reading import parse_yaml
from distiltune.errors import ConfigError, InputError
from distiltune.search.space.validation import space_faults
from distiltune.training.student.build import build_student
from distiltune.training.student.config import as_kind, student_config

KINDS = ("convolution", "static")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("teacher"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_brings_its_own_learning_rate_batch_and_variants(kind):
    config = JobConfig.model_validate({"student": {"kind": kind}})
    assert (config.training.learning_rate, config.training.batch_size) == (3e-3, 128)
    assert not any("fused" in name for name in config.export.variants)
    assert JobConfig.model_validate({"student": config.student}) == config
    usual = JobConfig()
    assert (usual.training.learning_rate, usual.training.batch_size) == (6e-4, 64)
    assert "onnx-fused" in usual.export.variants


def test_what_the_job_gives_counts():
    given = {
        "student": {"num_filters": 8},
        "training": {"learning_rate": 1e-3},
        "export": {"variants": ["onnx"]},
    }
    config = JobConfig.model_validate(given)
    assert (config.student.kind, config.training.learning_rate) == ("convolution", 1e-3)
    assert (config.training.batch_size, config.export.variants) == (128, ["onnx"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("all_keys", [False, True])
def test_the_values_are_shown_and_read_back(kind, all_keys):
    config = JobConfig.model_validate({"student": {"kind": kind}})
    printed = parse_yaml(as_yaml(config, all_keys=all_keys))
    assert printed["training"]["learning_rate"] == 3e-3
    assert JobConfig.model_validate(printed) == config


@pytest.mark.parametrize("preset", ["quickstart", "clinc150-offline"])
def test_a_presets_student_of_another_kind_takes_its_learning_rate_with_it(preset):
    usual = load_config(preset, ["data.path=d.json"])
    config = load_config(preset, ["data.path=d.json", "student.kind=convolution"])
    assert config.training == usual.training.model_copy(update={"learning_rate": 3e-3, "batch_size": 128})
    kept = load_config(
        preset, ["data.path=d.json", "student.kind=convolution", "training.learning_rate=1e-3"]
    )
    assert kept.training.learning_rate == 1e-3
    assert load_config(preset, ["data.path=d.json", "student.layers=[1]"]).training == usual.training


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"kind": "convolution", "layers": [0]}, ["student.layers", "kind layers, checkpoint"]),
        ({"kind": "static", "width": {}}, ["student.width", "kind layers, checkpoint"]),
        ({"kind": "static", "pretraining": {}}, ["student.pretraining", "kind layers, checkpoint"]),
        ({"kind": "static", "num_filters": 8}, ["student.num_filters", "kind convolution"]),
        ({"kind": "layers", "table": "random"}, ["student.table", "kind convolution, static"]),
        ({"kind": "convolution", "num_filter": 8}, ["student.num_filter", "'num_filters'"]),
        ({"kind": "convolution", "window_sizes": []}, ["student.window_sizes"]),
        ({"kind": "convolution", "window_sizes": [3, 2]}, ["student.window_sizes", "[3, 2]", "ascending"]),
        ({"kind": "convolution", "window_sizes": [0]}, ["student.window_sizes.0", "1"]),
        ({"kind": "convolution", "num_blocks": -1}, ["student.num_blocks", "-1"]),
        ({"kind": "convolution", "pooling": "mean"}, ["student.pooling", "'mean'", "max_mean"]),
        ({"kind": "static", "pooling": "max"}, ["student.pooling", "'max'", "mean"]),
        ({"kind": "static", "dropout": 1.0}, ["student.dropout", "1"]),
        ({"kind": "static", "table": "bert"}, ["student.table", "'bert'", "teacher"]),
        (
            {"kind": "static", "table": "random", "vocabulary": {"others": "nearest"}},
            ["student", "vocabulary.others", "table"],
        ),
    ],
)
def test_a_wrong_key_is_one_clear_error(given, parts):
    text = ", ".join(f"{key}: {value}" for key, value in given.items()).replace("'", "")
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", [f"student={{{text}}}"])
    for part in parts:
        assert part in str(caught.value)
    assert str(caught.value).count("student") <= 3, "one fault"


def job(teacher: Path, student: dict, **sections) -> JobConfig:
    return JobConfig.model_validate({"teacher": {"checkpoint": str(teacher)}, "student": student, **sections})


@pytest.mark.parametrize(
    ("student", "sections", "expected"),
    [
        ({"hidden_size": 33, "num_filters": 4}, {}, r"student\.hidden_size: 33 .* 1 to 32"),
        (
            {"kind": "static", "hidden_size": 8},
            {"search": {"space": {"student.hidden_size": {"type": "choice", "values": [8, 64]}}}},
            r"search\.space\.student\.hidden_size: 64 .* 1 to 32",
        ),
        (
            {"kind": "static", "hidden_size": 8},
            {"training": {"pruning": {}}},
            r"training\.pruning: .*kind static",
        ),
        (
            {"kind": "static", "hidden_size": 8},
            {"export": {"variants": ["onnx", "onnx-fused", "onnx-fused-int8"]}},
            r"export\.variants: onnx-fused, onnx-fused-int8 given, but distiltune-static has no attention",
        ),
        (
            {"num_filters": 4, "hidden_size": 8, "vocabulary": {"size": 5}},
            {},
            r"student\.vocabulary\.size: 5",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_begins(teacher, student, sections, expected):
    with pytest.raises(InputError, match=expected):
        check_models(job(teacher, student, **sections))


def test_a_teacher_without_hidden_states_gives_no_table(teacher, tmp_path):
    labels = [f"label_{n}" for n in range(4)]
    small = {"kind": "static", "hidden_size": 8}
    build_student(student_config(**small), teacher, labels, tmp_path / "static")
    with pytest.raises(InputError, match=r"student\.table: 'teacher' given.*'distiltune-static'"):
        check_models(job(tmp_path / "static", small))
    check_models(job(tmp_path / "static", {**small, "table": "random"}))


@pytest.mark.parametrize(
    ("student", "sections"),
    [
        ({"hidden_size": 33, "num_filters": 4, "table": "random"}, {}),
        ({"hidden_size": 32, "num_filters": 4}, {"training": {"pruning": {"sparsity": 0.5}}}),
        ({"hidden_size": 8, "num_filters": 4}, {"training": {"quantization_aware": {"weight_bits": 7}}}),
        ({"kind": "static", "hidden_size": 8, "vocabulary": {"others": "nearest", "size": 50}}, {}),
    ],
)
def test_what_can_be_made_passes(teacher, student, sections):
    check_models(job(teacher, student, **sections))


def test_a_check_describes_the_student():
    described = {kind: _student(student_config(kind=kind)) for kind in (*KINDS, "layers")}
    assert described == {
        "convolution": "convolution: 384 filters over 3 word pieces of 128 dimensions",
        "static": "static: maximum and mean of word pieces of 256 dimensions",
        "layers": "layers [0, 3] of the teacher",
    }


def searching(*kinds: str, **sections: object) -> JobConfig:
    space = {"student.kind": {"type": "choice", "values": list(kinds)}}
    return JobConfig.model_validate({**sections, "search": {"space": space}})


def by_kind(config: JobConfig) -> dict[str, object]:
    return {kind: each.model_dump(exclude_none=True) for kind, each in config.training.by_kind.items()}


def test_a_job_that_searches_kinds_has_the_values_that_suit_each():
    config = searching("layers", "convolution", "static")
    own = {"learning_rate": 3e-3, "batch_size": 128}
    assert by_kind(config) == {"convolution": own, "static": own}
    assert (config.training.learning_rate, config.training.batch_size) == (6e-4, 64)
    assert "onnx-fused" in config.export.variants, "a student without attention skips it"
    # The kind that `student` describes is one of those searched: its values are not those of the others.
    other = searching("layers", "static", student={"kind": "static"})
    assert (other.training.learning_rate, by_kind(other)) == (6e-4, {"static": own})


@pytest.mark.parametrize(
    ("kinds", "student", "expected"),
    [
        (("convolution", "static"), None, {"kind": "convolution"}),
        (("static", "convolution"), {"seed": 1}, {"kind": "static", "seed": 1}),
        (("convolution", "static"), {"num_filters": 8}, {"kind": "convolution", "num_filters": 8}),
        (("static", "convolution"), {"num_filters": 8}, {"kind": "convolution", "num_filters": 8}),
        ((), {"kind": "static"}, {"kind": "static"}),
    ],
)
def test_with_a_file_as_teacher_the_table_of_every_kind_is_random(kinds, student, expected):
    given = {"teacher": {"logits": "teacher.csv"}, **({} if student is None else {"student": student})}
    config = searching(*kinds, **given) if kinds else JobConfig.model_validate(given)
    found = config.student.model_dump(include={*expected, "table"})
    assert found == {**expected, "table": "random"}
    assert all(as_kind(config.student, kind).table == "random" for kind in kinds)
    searched = searching("layers", "checkpoint", **{**given, "student": {"checkpoint": "some/encoder"}})
    assert searched.student.kind == "checkpoint", "it has no table"


@pytest.mark.parametrize(
    ("kinds", "keys", "kind"),
    [
        (("layers", "static", "convolution"), {"dropout": 0.0}, "static"),
        (("layers", "static", "convolution"), {"dropout": 0.0, "num_filters": 8}, "convolution"),
        (("static", "layers"), {"seed": 1}, "layers"),
        (("static", "layers"), {"layers": [1]}, "layers"),
    ],
)
def test_the_section_has_the_keys_of_any_searched_kind(kinds, keys, kind):
    config = searching(*kinds, student=keys)
    assert config.student.kind == kind
    assert config.student.model_dump(include={*keys}) == keys
    for each in kinds:
        own = as_kind(config.student, each)
        assert all(getattr(own, key) == value for key, value in keys.items() if key in type(own).model_fields)


@pytest.mark.parametrize(
    ("kinds", "student"),
    [
        (("layers", "checkpoint"), {"dropout": 0.0}),
        (("static", "layers"), {"kind": "layers", "dropout": 0.0}),
        ((), {"dropout": 0.0}),
    ],
)
def test_a_key_of_a_kind_that_is_not_searched_is_refused(kinds, student):
    with pytest.raises(ValidationError, match="dropout"):
        searching(*kinds, student=student) if kinds else JobConfig.model_validate({"student": student})


def test_values_that_suit_all_searched_kinds_are_those_of_the_sections():
    config = searching("convolution", "static")
    assert (config.training.learning_rate, config.training.batch_size) == (3e-3, 128)
    assert by_kind(config) == {}
    assert not any("fused" in name for name in config.export.variants)
    assert searching("layers").training.by_kind == {}


def test_values_that_the_job_gives_hold_for_all_searched_kinds():
    config = searching("layers", "static", training={"learning_rate": 1e-3})
    assert (config.training.learning_rate, by_kind(config)) == (1e-3, {"static": {"batch_size": 128}})
    given = {"static": {"learning_rate": 0.01}}
    config = searching("layers", "convolution", "static", training={"by_kind": given})
    own = {"learning_rate": 3e-3, "batch_size": 128}
    assert by_kind(config) == {"static": {**own, **given["static"]}, "convolution": own}


@pytest.mark.parametrize("all_keys", [False, True])
def test_a_value_of_the_job_that_is_the_usual_default_is_read_back(all_keys):
    config = JobConfig.model_validate({"student": {"kind": "static"}, "training": {"learning_rate": 6e-4}})
    assert JobConfig.model_validate(parse_yaml(as_yaml(config, all_keys=all_keys))) == config


@pytest.mark.parametrize("all_keys", [False, True])
@pytest.mark.parametrize(
    "training", [{}, {"learning_rate": 6e-4}, {"by_kind": {"static": {"batch_size": 8}}}]
)
def test_values_by_kind_are_shown_and_read_back(training, all_keys):
    config = searching("layers", "static", training=training)
    printed = parse_yaml(as_yaml(config, all_keys=all_keys))
    assert JobConfig.model_validate(printed) == config
    assert JobConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("section", "parts"),
    [
        ({"cnn": {"batch_size": 8}}, ["training.by_kind.cnn", "accepted: layers, static"]),
        ({"convolution": {"batch_size": 8}}, ["training.by_kind.convolution", "accepted: layers, static"]),
    ],
)
def test_values_for_a_kind_that_is_not_tried_are_refused(section, parts):
    config = searching("layers", "static", training={"by_kind": section})
    [fault] = space_faults(config.search, config.training, config.student)
    assert all(part in fault for part in parts)
    alone = JobConfig.model_validate({"training": {"by_kind": section}})
    [fault] = space_faults(alone.search, alone.training, alone.student)
    assert parts[0] in fault and "student.kind" in fault


@pytest.mark.parametrize("values", [{"batch_size": 0}, {"learning_rate": "fast"}, {"alpha": 0.5}])
def test_values_by_kind_are_checked_by_name(values):
    with pytest.raises(ValidationError, match=rf"training\.by_kind\.static\.{next(iter(values))}"):
        searching("layers", "static", training={"by_kind": {"static": values}})


def test_a_teacher_is_checked_for_every_searched_kind(tmp_path):
    teacher = tiny_classifier(tmp_path / "teacher", num_layers=4)
    where = {"teacher": {"checkpoint": str(teacher)}}
    with pytest.raises(InputError, match=r"student\.hidden_size: 128 given"):
        check_models(searching("layers", "convolution", **where))
    with pytest.raises(InputError, match=r"training\.pruning: refused for a student of kind static"):
        random = {"student": {"kind": "static", "table": "random"}}
        check_models(
            searching("layers", "static", **where, **random, training={"pruning": {"sparsity": 0.5}})
        )
    variants = {"variants": ["onnx", "onnx-fused"]}
    scratch = {"student": {"kind": "static", "table": "random"}, "export": variants}
    check_models(searching("layers", "static", **where, **scratch))
    with pytest.raises(
        ConfigError,
        match=r"export\.variants: onnx-fused given, but distiltune-convolution has .*; distiltune-static has",
    ):
        check_models(searching("convolution", "static", **where, **scratch))


def test_masked_texts_need_the_teachers_word_pieces_in_every_searched_kind():
    masked = {"data": {"augmentation": {"masked": {"count": 8}}}, "student": {"checkpoint": "some/encoder"}}
    assert searching("layers", "static", **masked).data.augmentation.masked is not None
    with pytest.raises(ValidationError, match=r"masked pieces are the teacher's, but student\.checkpoint"):
        searching("layers", "checkpoint", **masked)
