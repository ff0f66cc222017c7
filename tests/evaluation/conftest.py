"""The scores of a whole run."""

from pathlib import Path

import pytest

from tests.evaluation.fake_scores import write_run


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    write_run(tmp_path / "scores", num_prompts=24)
    return tmp_path / "scores"
