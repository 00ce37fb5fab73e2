"""Every bad input causes one clear line of error, and leaves nothing behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from .case import Case, faults
from .cases import CASES, ENTRIES
from .controls import CONTROLS
from .runner import Runner
from .server import NOT_REJECTED


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    runner = Runner(tmp_path_factory.mktemp("bad"))
    yield runner
    runner.close()


def _parameters() -> Iterator[object]:
    for entry in ENTRIES:
        yield pytest.param(entry.case, id=entry.case.id, marks=() if entry.is_fast else pytest.mark.slow)


def test_there_are_enough_cases_and_each_has_its_own_name():
    repeated = [name for name, count in Counter(case.id for case in (*CASES, *CONTROLS)).items() if count > 1]
    assert not repeated
    assert sum(entry.is_fast for entry in ENTRIES) >= 300


@pytest.mark.parametrize("case", CONTROLS, ids=lambda case: case.id)
def test_what_the_cases_damage_is_good(runner: Runner, case: Case):
    outcome = runner.run(case)
    assert not outcome.failed_to_prepare
    assert outcome.status == case.status, outcome
    if case.status == NOT_REJECTED:
        assert "Ray" in outcome.not_rejected, outcome


@pytest.mark.parametrize("case", [*_parameters()])
def test_a_bad_input_is_one_clear_line_and_leaves_nothing(runner: Runner, case: Case):
    outcome = runner.run(case)
    found = faults(case, outcome)
    assert not found, f"{'; '.join(found)}\n  command: {case.command}\n  stderr: {outcome.stderr[:600]}"
