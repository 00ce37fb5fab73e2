import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from distiltune.errors import ConfigError, RunFailedError
from distiltune.export.benchmark.accuracy.predictions import pack_answers
from distiltune.export.benchmark.measure_models import Measurement
from distiltune.export.config import ChooseConfig, ExportConfig
from distiltune.export.selection.gate import apply_gate, check_gate
from distiltune.export.selection.select_variant import VariantSelection, select_variant

NUM_TEXTS = 1000


def answers(lost: int = 0, gained: int = 0, changed: int = 0) -> dict[str, Any]:
    """Pack predictions: of the 900 texts that the student gets right, ``lost`` are wrong; ``gained`` others right."""
    labels = np.zeros(NUM_TEXTS, int)
    predictions = np.where(np.arange(NUM_TEXTS) < 900, 0, 1)
    predictions[:lost] = 2
    predictions[900 : 900 + gained] = 0
    predictions[NUM_TEXTS - changed :] = 3
    return pack_answers(predictions, predictions == labels)


def row(
    name: str,
    kind: str = "onnx",
    lost: int = 0,
    gained: int = 0,
    *,
    changed: int = 0,
    p50: float = 1.0,
    size: float = 10.0,
    memory: float = 100.0,
    test: float | None = 0.9,
) -> Measurement:
    times = {"mean": p50, "std": 0.0, "p50": p50, "p90": p50, "p99": p50}
    return Measurement(
        name=name,
        kind=kind,
        size_mb=size,
        latency_ms=times,
        sample_latency_ms=times,
        throughput={"1": 1000 / p50},
        peak_memory_mb=memory,
        num_threads=1,
        query="text",
        accuracy=test,
        validation_accuracy=0.9 + (gained - lost) / NUM_TEXTS,
        answers={"validation": {"without_threshold": answers(lost, gained, changed)}},
    )


STUDENT = row("student-pytorch", "pytorch", p50=5.0)
REFERENCE = replace(row("reference-bert-base", "reference"), validation_accuracy=None, answers=None)
OTHERS = [row("teacher-pytorch", "pytorch", gained=20, p50=9.0), REFERENCE]


def outcomes(*variants: Measurement, **options: Any) -> dict[str, str | None]:
    rows = apply_gate([*OTHERS, STUDENT, *variants], ChooseConfig(**options))
    return {row.name: row.gate for row in rows}


def chosen(*variants: Measurement, **options: Any) -> VariantSelection:
    return select_variant([*OTHERS, STUDENT, *variants], ChooseConfig(**options))


WITHOUT_TEACHER = {"max_drop_from_teacher": None}


def verdicts(choice: VariantSelection) -> dict[str, str | None]:
    return {row.name: row.verdict for row in choice.measurements}


def test_the_gate_is_for_what_comes_of_the_student() -> None:
    assert outcomes(row("onnx"), row("student-pytorch-int8", "pytorch-int8", lost=100)) == {
        "teacher-pytorch": None,
        "reference-bert-base": None,
        "student-pytorch": "passed",
        "onnx": "passed",
        "student-pytorch-int8": "failed",
    }


def test_without_predictions_the_measured_difference_decides() -> None:
    variants = [row("at", lost=10), row("over", lost=11), row("better", gained=9)]
    bare = [replace(each, answers=None) for each in [*OTHERS, STUDENT, *variants]]
    found = apply_gate(bare, ChooseConfig())
    assert [each.gate for each in found[-3:]] == ["inconclusive", "failed", "inconclusive"]
    assert found[-1].predictions_changed is found[-1].against_student is None


def test_a_loss_is_shown_to_be_small_or_inconclusive_or_too_large() -> None:
    """The same difference of -0.002 is shown by few discordant texts and not by many."""
    variants = [row("few", lost=2), row("many", lost=32, gained=30), row("large", lost=11)]
    few, many, large = apply_gate([STUDENT, *variants], ChooseConfig())[1:]
    for each, difference in ((few, -0.002), (many, -0.002), (large, -0.011)):
        assert each.against_student is not None
        assert each.against_student["difference"] == pytest.approx(difference)
    assert (few.gate, many.gate, large.gate) == ("passed", "inconclusive", "failed")
    assert few.verdict is None
    assert (many.against_student or {})["only_first"] == 30
    assert re.search(
        r"-0\.0020 against student-pytorch \(.*max_drop_from_student.*more validation texts",
        many.verdict or "",
    )
    strict = apply_gate([STUDENT, *variants], ChooseConfig(strict=True))[1:]
    assert [each.gate for each in strict] == ["passed", "failed", "failed"]
    wide = row("many", lost=32, gained=30)
    for options in ({"max_drop_from_student": 0.02}, {"confidence": 0.6}, {"max_drop_from_student": None}):
        assert outcomes(wide, strict=True, max_drop_from_teacher=None, **options)["many"] == "passed"


def test_an_inconclusive_variant_is_selected_for_its_speed_and_marked() -> None:
    """The texts cannot show the faster variant's loss to be within 0.01, which alone does not exclude it."""
    variants = [row("onnx", p50=2.0, size=59.0), row("onnx-int8", lost=20, gained=20, p50=0.9, size=14.8)]
    found = chosen(*variants, max_drop_from_teacher=None)
    assert found.chosen == "onnx-int8"
    why = verdicts(found)["onnx-int8"] or ""
    assert why.startswith("selected: ")
    assert "more validation texts" in why
    strict = chosen(*variants, max_drop_from_teacher=None, strict=True)
    assert strict.chosen == "onnx"


def test_predictions_changed_are_against_the_student() -> None:
    rows = apply_gate([*OTHERS, STUDENT, row("onnx", lost=2, gained=1, changed=5)], ChooseConfig())
    assert [row.predictions_changed for row in rows] == [None, None, None, pytest.approx(0.008)]


def test_a_least_accuracy_is_a_limit_of_the_gate() -> None:
    found = chosen(row("onnx", lost=1), min_validation_metric=0.95, minimise="size_mb")
    assert found.chosen is None
    assert "validation accuracy 0.8990 below min_validation_metric 0.95" in found.reason
    student = next(row for row in found.measurements if row.name == "student-pytorch")
    assert student.gate == "failed"


def test_a_loss_against_the_teacher_is_a_warning_if_no_variant_avoids_it() -> None:
    """The teacher is right on 20 more texts than the student, a difference of 0.02."""
    found = chosen(row("onnx", lost=1), row("onnx-int8", lost=2, p50=0.5))
    assert found.chosen == "onnx-int8"
    assert re.search(
        r"max_drop_from_teacher 0\.02: onnx-int8 loses 0\.0220; .*student\.layers", found.warning
    )
    by_name = {each.name: each for each in found.measurements}
    assert (by_name["onnx"].gate, by_name["onnx"].teacher_gate) == ("passed", "failed")
    assert "against teacher-pytorch" in (by_name["onnx-int8"].verdict or "")
    strict = chosen(row("onnx", lost=1), strict=True)
    assert strict.chosen is None
    assert "below -0.02 (max_drop_from_teacher)" in strict.reason
    for options in ({"max_drop_from_teacher": 0.1}, {"max_drop_from_teacher": None}):
        assert chosen(row("onnx", lost=1), **options).warning == ""


def test_a_variant_within_the_teachers_limit_comes_before_a_faster_one() -> None:
    found = chosen(row("onnx", gained=1, p50=2.0), row("onnx-int8", lost=2))
    assert (found.chosen, found.warning) == ("onnx", "")


def test_without_a_teacher_there_is_no_limit_against_it() -> None:
    found = select_variant([STUDENT, row("onnx")], ChooseConfig())
    assert (found.chosen, found.warning) == ("onnx", "")


def test_the_fastest_that_passes_is_chosen_and_each_other_says_why_not() -> None:
    found = chosen(
        row("slow", p50=2.0),
        row("fast", p50=0.5, size=20.0),
        row("fastest-but-wrong", lost=50, p50=0.1),
        row("unsure", lost=9, gained=4, p50=0.1),
        row("student-pytorch-int8", "pytorch-int8", p50=0.2),
        max_drop_from_teacher=None,
        strict=True,
    )
    assert found.chosen == "fast"
    assert found.reason == ""
    why = verdicts(found)
    assert re.fullmatch("selected: latency_ms 0.500, .* 2 .*", why["fast"] or "")
    assert why["slow"] == "300 % slower than fast"
    wrong = why["fastest-but-wrong"] or ""
    assert wrong.startswith("validation accuracy -0.0500 against student-pytorch (-0.06")
    assert wrong.endswith(" with 95 % confidence), below -0.01 (max_drop_from_student)")
    assert "within -0.01 (max_drop_from_student)" in (why["unsure"] or "")
    assert (why["student-pytorch-int8"] or "").startswith("for comparison only: ")
    assert why["student-pytorch"] is why["teacher-pytorch"] is why["reference-bert-base"] is None


def test_the_least_of_something_else_under_limits() -> None:
    variants = [
        row("fast", p50=0.5, size=12.345),
        row("small", p50=0.9, size=8.0, memory=150.0),
        row("smaller", p50=3.0, size=7.0, memory=90.0),
    ]
    small = chosen(*variants, minimise="size_mb", max_latency_ms=1.0, **WITHOUT_TEACHER)
    assert small.chosen == "small"
    assert verdicts(small)["smaller"] == "over max_latency_ms 1: 3"
    assert verdicts(small)["fast"] == "54.3 % larger than small"
    quick = chosen(*variants, max_size_mb=9, max_peak_memory_mb=120, **WITHOUT_TEACHER)
    assert quick.chosen == "smaller"
    assert verdicts(quick) | {"teacher-pytorch": None} == {
        **dict.fromkeys(["teacher-pytorch", "reference-bert-base", "student-pytorch"]),
        "fast": "over max_size_mb 9: 12.35",
        "small": "over max_peak_memory_mb 120: 150",
        "smaller": "selected: latency_ms 3.000, the only one within every limit",
    }
    light = chosen(*variants, minimise="peak_memory_mb", **WITHOUT_TEACHER)
    assert light.chosen == "smaller"
    assert verdicts(light)["small"] == "66.7 % more memory than smaller"


def test_of_equals_the_faster_then_the_smaller_then_the_first() -> None:
    tie = chosen(row("large", size=20.0), row("small", size=5.0), row("again", size=5.0), **WITHOUT_TEACHER)
    assert tie.chosen == "small"
    assert verdicts(tie)["large"] == "same latency_ms as small, but 15 MB larger"
    assert verdicts(tie)["again"] == "the same as small, which comes first"
    tie = chosen(row("slow", p50=2.0), row("fast"), minimise="size_mb", **WITHOUT_TEACHER)
    assert tie.chosen == "fast"
    assert verdicts(tie)["slow"] == "same size_mb as fast, but 1 ms slower"


def test_the_test_split_decides_nothing() -> None:
    found = chosen(row("onnx", p50=2.0, test=1.0), row("onnx-int8", test=0.0))
    assert found.chosen == "onnx-int8"


def test_none_that_keeps_the_limits_is_told_with_the_reasons_of_each() -> None:
    found = chosen(
        row("onnx", size=30.0), row("onnx-int8", lost=50, size=10.0), max_size_mb=9, **WITHOUT_TEACHER
    )
    assert found.chosen is None
    for part in (
        "no ONNX variant is within every limit of export.choose: onnx: over max_size_mb 9: 30;",
        "onnx-int8: validation accuracy -0.0500",
        "over max_size_mb 9: 10; relax",
    ):
        assert part in found.reason
    assert "no ONNX variant was measured" in chosen().reason
    unknown = chosen(replace(row("onnx"), validation_accuracy=None))
    assert "onnx: it has no validation accuracy" in unknown.reason


def test_the_accuracy_is_that_of_the_artifact_unless_one_is_named() -> None:
    def also(row: Measurement, lost: int) -> Measurement:
        packed = {**(row.answers or {})["validation"], "with_threshold": answers(lost)}
        with_threshold = {"validation_accuracy": 0.9 - lost / NUM_TEXTS}
        return replace(row, answers={"validation": packed}, with_threshold=with_threshold)

    rows = [also(STUDENT, 0), also(row("worse-with", p50=0.5), 40), also(row("worse-without", lost=40), 0)]
    assert select_variant(rows, ChooseConfig(accuracy="without_threshold")).chosen == "worse-with"
    for config in (ChooseConfig(accuracy="with_threshold"), ChooseConfig()):
        assert select_variant(rows, config).chosen == "worse-without"


def test_rows_that_lack_what_the_gate_needs_are_named() -> None:
    with pytest.raises(RunFailedError, match="validation accuracy of 'student-pytorch'"):
        apply_gate([row("onnx")], ChooseConfig())
    with pytest.raises(RunFailedError, match=r"'onnx' or 'student-pytorch'.*export\.choose\.strict"):
        apply_gate([STUDENT, replace(row("onnx"), answers=None)], ChooseConfig(strict=True))
    short = {"validation": {"without_threshold": pack_answers(np.zeros(5, int), np.ones(5, bool))}}
    with pytest.raises(RunFailedError, match="5 and 1000 validation texts"):
        apply_gate([STUDENT, replace(row("onnx"), answers=short)], ChooseConfig())


def test_a_gate_that_nothing_can_pass_is_refused_before_the_work() -> None:
    check_gate(ChooseConfig(strict=True), 268, has_threshold=False)
    with pytest.raises(
        ConfigError, match=r"max_drop_from_student: 0.01 given, but the 267 .* 0.0100.*268 such texts.*strict"
    ):
        check_gate(ChooseConfig(strict=True), 267, has_threshold=False)
    with pytest.raises(ConfigError, match=r"max_drop_from_student: 0 given.*raise it, or"):
        check_gate(ChooseConfig(max_drop_from_student=0, strict=True), 3100, has_threshold=False)
    # A student can be shown to be better than its teacher.
    check_gate(ChooseConfig(max_drop_from_teacher=0, strict=True), 3100, has_threshold=False)
    check_gate(ChooseConfig(max_drop_from_student=0), 10, has_threshold=False)
    check_gate(ChooseConfig(accuracy="with_threshold"), 300, has_threshold=True)
    with pytest.raises(ConfigError, match="accuracy: with_threshold given, "):
        check_gate(ChooseConfig(accuracy="with_threshold"), 300, has_threshold=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_accuracy_drop": 0.1}, r"max_accuracy_drop is now choose\.max_drop_from_student"),
        ({"choose": {"minimise": "flops"}}, "'latency_ms', 'size_mb' or 'peak_memory_mb'"),
        ({"choose": {"max_size_mb": 0}}, "greater than 0"),
        ({"choose": {"confidence": 0.5}}, "greater than 0.5"),
        ({"choose": {"max_drop_from_student": -0.1}}, "greater than or equal to 0"),
        ({"choose": {"accuracy": "with_threshold"}, "out_of_scope": None}, "there is no threshold"),
    ],
)
def test_bad_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportConfig.model_validate(values)


def test_the_selected_one_names_an_open_comparison_with_the_teacher_and_the_others_do_not() -> None:
    """Each is right on 100 of 1,000 texts that the other gets wrong, too many to show a loss within -0.02."""
    teacher = row("teacher-pytorch", "pytorch", lost=100, gained=100, p50=9.0)
    found = select_variant([teacher, STUDENT, row("onnx", p50=2.0), row("onnx-int8")], ChooseConfig())
    why = verdicts(found)
    assert found.chosen == "onnx-int8"
    assert found.warning == ""
    gates = {each.name: each.teacher_gate for each in found.measurements}
    assert gates["onnx-int8"] == "inconclusive"
    assert re.search(
        r"inconclusive against the teacher: [+-]0\.0000 .*more validation texts", why["onnx-int8"] or ""
    )
    assert "teacher" not in (why["onnx"] or "")
