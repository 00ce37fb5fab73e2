from collections.abc import Iterator

import pytest
from searches import trial_inputs
from simulated_searches import simulated_trials

from distiltune.search.driver.run_search import TrialInputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> TrialInputs:
    return trial_inputs(tmp_path_factory.mktemp("student"))


@pytest.fixture
def simulated(ray_session: None) -> Iterator[None]:
    """Searches of this test run simulated trials."""
    with simulated_trials():
        yield
