"""The deployment of the gate ends as its command does."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("prefect")

import flows.environment  # noqa: F401  (switches before Prefect)
from flows.forms import Promote
from flows.promote import promote

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_what_the_gate_refuses_is_bad_input_with_its_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "profiles" / "toy.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    for asked in (Promote(), Promote(model="iter2"), Promote(rollback=True)):
        state = promote(asked, return_state=True)
        assert state.name == "BadInput"
        assert state.message == (
            "outputs/registry/registry.json must list the run's models, found none; run `dvc repro register`."
        )
