import pytest
from searches import trial_inputs

from distiltune.search.driver.run_search import TrialInputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> TrialInputs:
    return trial_inputs(tmp_path_factory.mktemp("student"))
