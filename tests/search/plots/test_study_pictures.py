import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.image
import optuna
import pytest
from drawn_studies import SPACE, TWO, search
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState
from pictures import num_colours

from distiltune.search.plots.figures import shown_span
from distiltune.search.plots.study import (
    FRONT_FILE,
    HISTORY_FILE,
    IMPORTANCE_FILE,
    PARALLEL_FILE,
    draw_study,
)
from distiltune.search.study.importance import weights

ALL = [HISTORY_FILE, IMPORTANCE_FILE, PARALLEL_FILE, FRONT_FILE]
ONE = {"metric_names": ["validation_accuracy"], "directions": ["maximize"]}
THREE = {
    "metric_names": ["validation_accuracy", "latency_ms", "num_parameters"],
    "directions": ["maximize", "minimize", "minimize"],
}


def pixels(path):
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    return matplotlib.image.imread(path)[..., :3]


def check_picture(path):
    """Check that something is drawn in several colours, and nothing at the edge, where it would be cut off."""
    picture = pixels(path)
    height, width, _ = picture.shape
    assert width >= 1300
    assert height >= 300
    assert picture.std() > 0.02
    assert num_colours(picture) > 50
    edges = [picture[:2], picture[-2:], picture[:, :2], picture[:, -2:]]
    assert all((edge == 1.0).all() for edge in edges)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The plots of 30 trials with two objectives."""
    return draw_study(search(30, 2), tmp_path_factory.mktemp("drawn"), **TWO)


@pytest.mark.parametrize(
    "num_objectives, given, left_out",
    [
        pytest.param(1, ONE, {FRONT_FILE: "there is one objective"}, id="one"),
        pytest.param(2, TWO, {}, id="two"),
        pytest.param(3, THREE, {}, id="three", marks=pytest.mark.slow),
    ],
)
def test_pictures_of_a_search(tmp_path, num_objectives, given, left_out):
    drawn = draw_study(search(40, num_objectives), tmp_path / "new" / "folder", **given)
    assert drawn.left_out == left_out
    assert [path.name for path in drawn.paths] == [name for name in ALL if name not in left_out]
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {
        path.name for path in drawn.paths
    }
    for path in drawn.paths:
        check_picture(path)


def test_the_same_trials_give_the_same_pictures(tmp_path, drawn):
    again = draw_study(list(reversed(search(30, 2))), tmp_path, **TWO)
    assert len(drawn.paths) == 4
    for one, other in zip(drawn.paths, again.paths, strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_few_trials(tmp_path, count):
    drawn = draw_study(search(count, 2), tmp_path, **TWO)
    assert drawn.left_out == {IMPORTANCE_FILE: f"finished trials: {count}, but 10 are needed"}
    for path in drawn.paths:
        check_picture(path)


def test_no_finished_trial(tmp_path):
    failed = [trial for trial in search(40) if trial.state != TrialState.COMPLETE]
    (tmp_path / HISTORY_FILE).write_bytes(b"of an earlier call")
    drawn = draw_study(failed, tmp_path, **ONE)
    assert drawn.paths == []
    assert drawn.left_out == dict.fromkeys(ALL, "no trial has finished")
    assert list(tmp_path.iterdir()) == []


def test_nothing_searched_and_one_argument(tmp_path):
    nothing = draw_study(search(12, names=(), stopped=False), tmp_path / "nothing", **ONE)
    assert set(nothing.left_out) == {IMPORTANCE_FILE, PARALLEL_FILE, FRONT_FILE}
    one = draw_study(search(12, names=("alpha",), stopped=False), tmp_path / "one", **ONE)
    assert set(one.left_out) == {IMPORTANCE_FILE, FRONT_FILE}
    for path in nothing.paths + one.paths:
        check_picture(path)


def test_equal_values_have_no_weights(tmp_path):
    trials = search(20, stopped=False)
    for trial in trials:
        trial.values = [0.5]
    drawn = draw_study(trials, tmp_path, **ONE)
    assert drawn.left_out[IMPORTANCE_FILE] == "the finished trials do not differ enough in their values"
    for path in drawn.paths:
        check_picture(path)


def test_the_argument_that_matters_weighs_most():
    finished = search(60, 2, stopped=False)
    found = weights(finished, TWO["metric_names"], TWO["directions"])
    assert not isinstance(found, str)
    assert max(found["validation_accuracy"], key=found["validation_accuracy"].__getitem__) == "alpha"
    assert max(found["latency_ms"], key=found["latency_ms"].__getitem__) == "student.layers"
    assert all(sum(shares.values()) == pytest.approx(1) for shares in found.values())
    assert set(found["latency_ms"]) == set(SPACE)  # conditional ones too
    assert found == weights(finished, TWO["metric_names"], TWO["directions"])
    minimized = weights(finished, ["validation_accuracy"], ["minimize"])
    assert minimized != {"validation_accuracy": found["validation_accuracy"]}


def test_a_rare_argument_is_not_judged():
    finished = search(20, stopped=False, names=("alpha", "temperature", "learning_rate"))
    del finished[0].params["alpha"], finished[0].distributions["alpha"]
    found = weights(finished, **ONE)
    assert not isinstance(found, str)
    assert set(found["validation_accuracy"]) == {"temperature", "learning_rate"}


def test_the_front_and_the_choice_can_be_given(tmp_path, drawn):
    trials = search(30, 2)
    finished = [trial.number for trial in trials if trial.state == TrialState.COMPLETE]
    given = draw_study(trials, tmp_path / "given", chosen=finished[-1], front=finished[:2], **TWO)
    again = draw_study(trials, tmp_path / "again", chosen=10**6, **TWO)
    for one, other, same in zip(drawn.paths, given.paths, again.paths, strict=True):
        if one.name != IMPORTANCE_FILE:
            assert (pixels(one) != pixels(other)).any()
        assert one.read_bytes() == same.read_bytes()


def test_the_default_front_is_the_one_of_optuna(tmp_path, monkeypatch):
    from distiltune.search.plots import study as study_pictures

    seen = []
    monkeypatch.setattr(
        study_pictures, "_front_panel", lambda axes, found, place: seen.extend(t.number for t in found.front)
    )
    trials = search(40, 2, stopped=False)
    draw_study(trials, tmp_path, **TWO)
    study = optuna.create_study(directions=TWO["directions"])
    study.add_trials(trials)
    assert sorted(seen) == sorted(trial.number for trial in study.best_trials)


@pytest.mark.parametrize("kinds", [(), ("layers",), ("convolution", "layers", "static")])
def test_kinds_of_students_have_markers_of_their_own(kinds, tmp_path, monkeypatch):
    from distiltune.search.plots import study as study_pictures

    labels, markers = [], []
    scatter = study_pictures._scatter
    monkeypatch.setattr(
        study_pictures,
        "legend_below",
        lambda figure, axes: labels.append(axes.get_legend_handles_labels()[1]),
    )

    def seen(axes, points, **look):
        markers.append((look.get("marker"), len(points)))
        scatter(axes, points, **look)

    monkeypatch.setattr(study_pictures, "_scatter", seen)
    trials = search(12, 2, stopped=False)
    for trial in trials if kinds else ():
        trial.distributions = {**trial.distributions, "student.kind": CategoricalDistribution(kinds)}
        trial.params = {**trial.params, "student.kind": kinds[trial.number % len(kinds)]}
    found = study_pictures._Search(trials, TWO["metric_names"], TWO["directions"], None, None)
    study_pictures._front(found)
    assert labels == [["dominated", "Pareto front", *(kinds if len(kinds) > 1 else ())]]
    assert len({marker for marker, _ in markers}) == max(1, len(kinds))
    assert sum(count for _, count in markers) == 12


@pytest.mark.parametrize(
    "values, is_higher_better, span",
    [
        ([0.02, 0.90, 0.91, 0.92, 0.93], True, (0.90, 0.93)),
        ([0.85, 0.90, 0.91, 0.92, 0.93], True, (0.85, 0.93)),
        ([0.1, 0.2, 0.3, 50.0], False, (0.1, 0.3)),
        ([0.5, 0.5, 0.5], True, (0.5, 0.5)),
        ([0.5], False, (0.5, 0.5)),
    ],
)
def test_one_diverged_trial_does_not_press_the_others_into_a_line(values, is_higher_better, span):
    assert shown_span(values, is_higher_better) == span


def test_drawing_leaves_matplotlib_as_it_was(tmp_path):
    """No display is needed, pyplot is not loaded, no setting changes, and there is no warning."""
    code = """
import sys, warnings
from pathlib import Path
import matplotlib
from drawn_studies import TWO, search
from distiltune.search.plots.study import draw_study
before = matplotlib.rcParams.copy()  # a dict of them would choose a backend
warnings.simplefilter("error")
assert len(draw_study(search(30, 2), Path(sys.argv[1]), **TWO).paths) == 4
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MPLBACKEND")}
    tests = str(Path(__file__).parents[2] / "support")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": tests},
    )
    assert (done.returncode, done.stderr) == (0, "")
