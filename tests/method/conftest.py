"""The forward processes that tests of the method share."""

import pytest

from spin.method.schedule import NoiseSchedule
from tests.method.processes import SD, SD3


@pytest.fixture(scope="module")
def schedule() -> NoiseSchedule:
    return NoiseSchedule.from_scheduler_config(SD)


@pytest.fixture(scope="module")
def flow() -> NoiseSchedule:
    return NoiseSchedule.from_scheduler_config(SD3)
