"""The arithmetic of a forecast, with fixed rates in place of measured ones."""

import numpy as np
import pytest

from distiltune.cluster.pipeline.checks.preflight import CheckedJob
from distiltune.cluster.pipeline.forecast.forecast import Forecast, why_not
from distiltune.cluster.pipeline.forecast.request import places_of, points_of
from distiltune.cluster.pipeline.forecast.search_time import (
    Span,
    drawn,
    makespan,
    search_span,
    shares_of,
)
from distiltune.cluster.pipeline.forecast.stages import Known, StageForecast, StageForecasts
from distiltune.cluster.pipeline.forecast.table import duration, lines_of, span_text
from distiltune.cluster.pipeline.forecast.teachers import MIB
from distiltune.cluster.pipeline.forecast.trial_seconds import TrialSeconds
from distiltune.cluster.session.ray_session import cpus_of_each
from distiltune.cluster.specification.config import load_config
from distiltune.cluster.store.runs import Storage

TEXTS = {"train": 1000, "validation": 200, "test": 300}
LENGTHS = {"train": [10] * 1000}
LATENCY = {"load_s": 1.0, "call_s": 0.01, "batched_s": 0.005, "logits_s": 0.005, "peak_mib": 300.0}
POINT = {
    "tokens": [320, 320, 320],
    "seconds": [0.1, 0.1, 0.1],
    "save_s": 0.5,
    "model_bytes": 10 * MIB,
    "checkpoint_bytes": 30 * MIB,
    "size": 1.0,
    "setup_s": 2.0,
    "evaluation_s": 0.5,
}
MEASURED = {
    "teacher": {
        "training": {
            "epochs": 3,
            "epoch_s": 20.0,
            "encoder_s": 0.0,
            "save_s": 1.0,
            "model_bytes": 40 * MIB,
            "checkpoint_bytes": 120 * MIB,
        },
        "build_s": 1.0,
        "tokenize_s": 2.0,
        "save_s": 1.0,
        "bytes": 41 * MIB,
        "labelling_s": {"train": 10.0, "validation": 2.0},
        "logits_bytes": {"train": 4000, "validation": 800},
        "num_texts": {"train": 1000, "validation": 200},
        "cached": [],
        "duplicates_s": 1.5,
        "peak_mib": 900.0,
    },
    "student": {
        "build_s": 2.0,
        "num_pieces": 0,
        "pieces_s": 0.0,
        "tokenize_s": 0.0,
        "bytes": 11 * MIB,
        "num_parameters": 10,
        "peak_mib": 400.0,
    },
    "search": {"points": [[POINT], [POINT]], "peak_mib": 800.0},
    "lengths": LENGTHS,
    "export": {"seconds": 10.0, "bytes": 10 * MIB, "peak_mib": 600.0},
    "latency of teacher": LATENCY,
    "latency of student": LATENCY,
    "latency of onnx": LATENCY,
}


def job(*overrides):
    usual = ["search.space={num_train_epochs: 4}", "training.batch_size=32", "search.num_trials=1"]
    chosen = {each.partition("=")[0]: each for each in [*usual, *overrides]}
    return load_config("quickstart-scratch", list(chosen.values()))


def stages(config, *, num_cpus=2, reused=(), measured=MEASURED):
    known = Known(config, places_of(config, num_cpus), TEXTS, 1.0, 5.0, frozenset(reused))
    return {each.stage: each for each in StageForecasts(known, measured).all()}


def test_a_trial_costs_setup_steps_evaluations_and_checkpoints() -> None:
    seconds = TrialSeconds(job(), [[POINT]], LENGTHS)
    # 31 steps of 320 tokens, and one of 80; each token costs 0.1 / 320.
    epoch = 31.25 * 0.1
    assert seconds({"num_train_epochs": 4}, 1.0) == pytest.approx(2 + 4 * (epoch + 0.5 + 0.5))
    assert seconds({"num_train_epochs": 4}, 0.5) == pytest.approx(2 + 2 * (epoch + 0.5 + 0.5))
    assert seconds({"num_train_epochs": 4, "max_steps": 16}, 1.0) == pytest.approx(2 + epoch / 2 + 1.0)


def test_a_larger_batch_has_fewer_steps_of_more_tokens() -> None:
    measured = {
        **POINT,
        "tokens": [160, 320, 640],
        "seconds": [0.1, 0.15, 0.25],
    }  # 0.05 and 0.1 per 320 tokens
    seconds = TrialSeconds(job(), [[measured]], LENGTHS)
    small, large = (seconds({"batch_size": size, "num_train_epochs": 1}, 1.0) for size in (10, 100))
    assert small - large == pytest.approx(90 * 0.05)


def test_a_student_between_two_measured_ones_costs_what_lies_between() -> None:
    space = "search.space={student.num_layers: {type: int, low: 1, high: 3}, num_train_epochs: 1}"
    config = job(space)
    largest = {**POINT, "size": 3.0, "seconds": [0.3, 0.3, 0.3]}
    seconds = TrialSeconds(config, [[POINT, largest]], LENGTHS)
    one, two, three = (
        seconds({"student.num_layers": each, "num_train_epochs": 1}, 1.0) for each in (1, 2, 3)
    )
    assert two == pytest.approx((one + three) / 2)
    assert [each.size for each in points_of(config.search.space)] == [2.0, 1.0, 3.0]


def test_fewer_texts_of_the_transfer_set_cost_less() -> None:
    seconds = TrialSeconds(job(), [[POINT]], {**LENGTHS, "unlabelled": [10] * 1000})
    most, least = (
        seconds({"data.unlabelled.count": each, "num_train_epochs": 1}, 1.0) for each in (1000, 200)
    )
    assert most - least == pytest.approx(800 * 10 * 0.1 / 320)


def test_the_trials_fill_the_places_that_there_are() -> None:
    assert makespan([3, 3, 3, 3], 2) == 6
    assert makespan([5, 1, 1, 1], 2) == 5
    assert makespan([], 2) == 0


def test_a_search_of_one_kind_of_trial_has_one_time() -> None:
    span = search_span(job().search, 4, 2, lambda arguments, share: 10.0 * arguments["num_train_epochs"])
    assert span == Span.exact(80.0)


def test_the_ends_of_a_search_are_those_of_its_random_trials() -> None:
    config = job("search.space={num_train_epochs: {type: int, low: 5, high: 10}}").search
    span = search_span(config, 20, 2, lambda arguments, share: arguments["num_train_epochs"])
    assert 60 < span.low < span.middle < span.high < 100
    assert span.middle == pytest.approx(75, rel=0.1)


def test_early_stopping_lowers_the_middle_and_the_low_end() -> None:
    config = job("search.scheduler=asha").search
    assert sum(weight for _, weight in shares_of(config)) == pytest.approx(1)
    assert shares_of(config)[0] == (0.25, pytest.approx(2 / 3))
    span = search_span(config, 12, 1, lambda arguments, share: 10 * share)
    assert (span.low, span.high) == (30, 120)
    assert 30 < span.middle < 90


def test_drawn_arguments_lie_in_the_space_and_follow_its_conditions() -> None:
    import random

    space = job(
        "search.space={alpha: {type: choice, values: [0.0, 0.5]}, "
        "temperature: {type: int, low: 2, high: 3, when: {alpha: 0.0}}, "
        "learning_rate: {type: float, low: 1e-5, high: 1e-3, log: true}}"
    ).search.space
    trials = [drawn(space, random.Random(seed), {}) for seed in range(40)]
    assert all(("temperature" in each) == (each["alpha"] == 0.0) for each in trials)
    assert 0.3 < np.mean([each["learning_rate"] < 1e-4 for each in trials]) < 0.7
    assert drawn(space, random.Random(0), {"alpha": 0.25})["alpha"] == 0.25


def test_the_stages_add_up_what_was_measured() -> None:
    found = stages(job("export.variants=[onnx, onnx-int8]"))
    assert list(found) == [
        "data", "start", "teacher", "logits", "student", "search", "export", "benchmark", "report",
    ]  # fmt: skip
    # A worker's start, then build, tokens, saving and evaluation once, and three epochs with evaluation and saving.
    assert found["teacher"].seconds.middle == pytest.approx(5 + (1 + 2 + 1 + 2) + 3 * (20 + 2 + 2 * 1))
    assert found["logits"].seconds.middle == pytest.approx(2 + 12 + 1 + 1.5)
    assert found["teacher"].peak_disk_bytes == (41 + 120 + 40) * MIB
    assert found["search"].disk_bytes == 2 * 10 * MIB  # the trial's best model, and the copy that is exported
    assert found["export"].disk_bytes == (10 + 2.5) * MIB
    assert found["search"].seconds.middle > 4 * 31 * 0.1


def test_batches_of_long_texts_name_the_tokens_of_a_pass() -> None:
    assert all("passes" not in each.how for each in stages(job()).values())
    teacher = MEASURED["teacher"]
    training = {**teacher["training"], "passes": {"tokens": 16_384, "bytes": 2048 * MIB}}
    of_trials = [None, {"tokens": 9000, "bytes": 10 * MIB}, {"tokens": 8192, "bytes": 20 * MIB}]
    points = [[{**POINT, "passes": each} for each in of_trials]]
    measured = {
        **MEASURED,
        "teacher": {**teacher, "training": training},
        "search": {**MEASURED["search"], "points": points},
    }
    found = stages(job(), measured=measured)
    assert found["teacher"].how == "3 epochs of 20 s, passes of up to 16,384 tokens, 2,048 MiB"
    assert found["search"].how.endswith(", passes of up to 8,192 tokens, 20 MiB")


def test_texts_of_several_lengths_cost_what_was_measured() -> None:
    timed = {name: {**LATENCY, "lengths_s": 3.0} for name in ("latency of teacher", "latency of student")}
    without, found = (
        stages(job("benchmark.baselines=[]"), measured={**MEASURED, **more})["benchmark"].seconds.middle
        for more in ({}, timed)
    )
    assert found - without == pytest.approx(2 * 3.0, abs=0.8 * 3.0)  # and a share of that for int8 in PyTorch


def test_parallel_teachers_and_trials_need_the_sum_of_their_memory() -> None:
    config = job(
        "teacher.ensemble=3",
        "resources.teacher={cpu: 1}",
        "search.num_trials=8",
        "search.space={alpha: {type: float, low: 0, high: 1}}",
    )
    found, alone = stages(config), stages(job("resources.teacher={cpu: 1}"))
    assert found["teacher"].memory_mib - alone["teacher"].memory_mib == 900
    assert found["search"].memory_mib - alone["search"].memory_mib == 800
    once = alone["teacher"].seconds.middle - 5
    assert found["teacher"].seconds.middle == pytest.approx(5 + 2 * once)


def test_different_teachers_cost_what_each_was_measured_to_cost() -> None:
    """A fine-tuned first teacher, a finished second one, a file that costs nothing, and one that exists already."""
    members = "[{scratch: {}}, {checkpoint: a}, {logits: b.csv}, {checkpoint: c}]"
    config = job(f"teacher.ensemble={members}", "resources.teacher={cpu: 2}")
    first = {**MEASURED["teacher"], "cached": []}
    finished = {
        **first, "training": None, "is_held": False, "build_s": 4.0, "bytes": 100 * MIB, "peak_mib": 1500.0,
        "labelling_s": {"train": 30.0, "validation": 6.0}, "duplicates_s": 0.0,
    }  # fmt: skip
    held = {**finished, "is_held": True, "cached": ["train", "validation"]}
    measured = {**MEASURED, "teacher 2": finished, "teacher 4": held}
    found, alone = stages(config, measured=measured), stages(job("resources.teacher={cpu: 2}"))
    own = 4 + 2 + 1 + 6
    assert found["teacher"].seconds.middle == pytest.approx(alone["teacher"].seconds.middle + own)
    assert found["teacher"].disk_bytes == (41 + 100) * MIB
    assert found["teacher"].how == "4 teachers, 3 epochs of 20 s, loaded and measured"
    assert found["teacher"].memory_mib - alone["teacher"].memory_mib == 600, "the largest, one at a time"
    labelling = (10 + 2 + 1 + 2) + (30 + 6 + 4 + 2) + 2
    assert found["logits"].seconds.middle == pytest.approx(3 * 2 + 1.5 + labelling)
    assert found["logits"].disk_bytes == 2 * 4800


def test_parallel_teachers_label_in_parallel() -> None:
    """Each labels in a task of its own, which also tokenizes the texts."""
    many = job("teacher.ensemble=3", "resources.teacher={cpu: 1}")
    found = stages(many)["logits"]
    assert found.seconds.middle == pytest.approx(2 + 1.5 + 2 * (12 + 1 + 2))
    assert stages(many, num_cpus=1)["logits"].seconds.middle == pytest.approx(2 + 1.5 + 3 * (12 + 1 + 2))
    alone = stages(job("resources.teacher={cpu: 1}"))["logits"]
    assert found.memory_mib - alone.memory_mib == 900


@pytest.mark.parametrize(
    ("num_tasks", "num_cpus", "num_gpus", "expected"),
    [
        (1, 32, 0, 32),
        (4, 1, 0, 1),
        (4, 2, 0, 1),
        (4, 7, 0, 3),
        (4, 8, 0, 4),
        (2, 32, 0, 16),
        (3, 32, 0, 10),
        (100, 32, 0, 4),
        (4, 0.5, 0, 0.5),
        (4, 32, 1, 32),
        (4, 32, 2, 16),
        (2, 32, 8, 16),
        (4, 3, 4, 1),
    ],
)
def test_equal_trainings_divide_a_node_of_enough_cpus_or_gpus(
    num_tasks, num_cpus, num_gpus, expected
) -> None:
    assert cpus_of_each(num_tasks, num_cpus, num_gpus) == expected


def test_the_forecast_divides_the_node_as_the_job_does() -> None:
    whole = "resources.teacher=null"
    assert places_of(job("teacher.ensemble=4", whole), 1).num_teachers == 1
    assert places_of(job("teacher.ensemble=4", whole), 2).num_teachers == 2
    places = places_of(job("teacher.ensemble=4", whole), 16)
    assert (places.num_teachers, places.teacher_threads) == (4, 4)
    given = places_of(job("teacher.ensemble=4", "resources.teacher={cpu: 8}"), 16)
    assert (given.num_teachers, given.teacher_threads) == (2, 8)


def test_reused_stages_take_no_time() -> None:
    found = stages(job(), reused=("teacher", "logits", "student", "search"))
    assert found["search"].is_reused and found["search"].seconds == Span.exact(0.0)
    assert not found["export"].is_reused
    cached = {**MEASURED, "teacher": {**MEASURED["teacher"], "cached": ["train", "validation"]}}
    assert stages(job(), reused=("teacher",), measured=cached)["logits"].seconds.middle == pytest.approx(3.5)


def test_everything_reused_starts_no_ray() -> None:
    everything = ("teacher", "logits", "student", "search", "export", "benchmark")
    assert "start" not in stages(job(), reused=everything, measured={})


def test_the_budget_bounds_a_search() -> None:
    found = stages(job("search.budget.wall_time_s=5"))["search"]
    assert found.seconds.high <= 5
    assert "search.budget.wall_time_s 5" in found.how


def test_epochs_on_pairs_are_part_of_the_teacher_and_of_every_fold() -> None:
    training = {**MEASURED["teacher"]["training"], "encoder_s": 50.0}
    measured = {**MEASURED, "teacher": {**MEASURED["teacher"], "training": training}}
    folds = job("data.diagnostics.cross_fit=5")
    # Five folds, two at a time, each without a fifth of the texts.
    for stage, more in (("teacher", 50), ("logits", 3 * 0.8 * 50)):
        before, after = (stages(folds, measured=each)[stage] for each in (MEASURED, measured))
        assert after.seconds.middle - before.seconds.middle == pytest.approx(more)
    assert stages(job(), measured=measured)["teacher"].how == "50 s of pairs, 3 epochs of 20 s"
    assert stages(job())["teacher"].how == "3 epochs of 20 s"


def test_pretraining_is_part_of_the_student() -> None:
    measured = {**MEASURED, "pretraining": {"pretraining_s": 100.0, "peak_mib": 1000.0}}
    assert stages(job(), measured=measured)["student"].seconds.middle == pytest.approx(102)


def test_word_pieces_are_read_once_for_all_students() -> None:
    read = {**MEASURED, "student": {**MEASURED["student"], "num_pieces": 30_522, "pieces_s": 40.0}}
    space = "search.space={student.hidden_size: {type: choice, values: [64, 128, 256]}}"
    found = stages(job("student.kind=convolution", space), measured=read)["student"]
    assert found.seconds.middle == pytest.approx(3 * 2 + 40)
    assert "30,522 word pieces read by the teacher" in found.how


def test_a_bound_on_latency_measures_each_student() -> None:
    space = "search.space={student.num_layers: {type: int, low: 1, high: 3}}"
    plain, bounded = (
        stages(job(space, *more))["student"] for more in ([], ["search.constraints=[latency_ms <= 1.0]"])
    )
    assert bounded.seconds.middle - plain.seconds.middle == pytest.approx(3 * (10 + 3 + 100 * 0.01))


def test_a_baseline_is_trained_and_measured_in_the_benchmark() -> None:
    none = stages(job("benchmark.baselines=[]"))["benchmark"]
    assert none.how == "5 models, one at a time" or "baselines" not in none.how
    measured = {**MEASURED, "latency of tfidf-svm": {**LATENCY, "fit_s": 40.0}}
    found = stages(job(), measured=measured)["benchmark"]
    assert "baselines trained in 40 s" in found.how
    assert found.how.partition(" ")[0] == str(int(none.how.partition(" ")[0]) + 1)
    # Two starts, the fit, the runs of one text, batches of the sample, and all texts of both splits.
    config = job().benchmark
    calls = 2 * config.num_warmups + config.num_runs + config.num_sample_texts
    batches = sum(max(0.5, 100 * (0.01 if size == 1 else 0.005)) for size in config.batch_sizes)
    expected = 40 + 2 * 0.4 * 5 + 1 + calls * 0.01 + batches + 500 * 0.005
    assert found.seconds.middle - none.seconds.middle == pytest.approx(expected)
    failed = stages(job())["benchmark"]
    assert (failed.seconds, failed.how) == (none.seconds, none.how)


def forecast(**changes):
    stage = StageForecast("search", Span(1080, 1440, 1860), 100 * MIB, 300 * MIB, 2000.0, "20 trials")
    after = StageForecast("export", Span.exact(60.0), 50 * MIB, 150 * MIB, 500.0)
    given = {"stages": [stage, after], "measured_s": 30.0, "free_bytes": 10**12, "available_mib": 8000.0}
    return Forecast(**{**given, **changes})


def test_totals_and_warnings() -> None:
    found = forecast()
    assert found.seconds == Span(1140, 1500, 1920)
    assert (found.disk_bytes, found.peak_disk_bytes, found.memory_mib) == (150 * MIB, 300 * MIB, 2000)
    assert found.warnings() == []
    assert "storage.path" in forecast(free_bytes=200 * MIB).warnings()[0]
    assert "2,000 MiB" in forecast(available_mib=1000.0).warnings()[0]
    assert "50%" in forecast(waiting=0.5).warnings()[0]
    assert forecast(free_bytes=None, available_mib=None).warnings() == []


def test_the_table_has_a_line_for_each_stage_and_the_total_in_words() -> None:
    lines = lines_of(forecast())
    assert lines[1].split() == ["search", "24", "min", "100", "MB", "2.0", "GB", "20", "trials"]
    assert lines[-1].startswith("about 25 minutes (19 to 32)")
    assert [duration(each) for each in (8, 240, 9000)] == ["8 s", "4 min", "2.5 h"]
    assert span_text(Span(20, 30, 40)) == "30 seconds (20 to 40)"
    assert span_text(Span(6000, 9000, 12600)) == "2.5 hours (1.7 to 3.5)"


def test_a_cluster_elsewhere_is_not_forecast(tmp_path) -> None:
    storage = Storage(str(tmp_path))
    assert why_not(CheckedJob(job(), storage)) is None
    reason = why_not(CheckedJob(job("resources.address=10.0.0.1:6379"), storage))
    assert reason is not None and "10.0.0.1:6379" in reason
