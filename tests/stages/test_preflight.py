"""Nonsense in params.yaml is refused before any work, in a sentence that names the key."""

from pathlib import Path
from typing import Any

import pytest

from flows.environment import places
from spin.errors import ModelError, ParamsError, SpinError
from spin.params.schema import load_params
from spin.runtime.files import write_json
from spin.stages import preflight
from spin.tracking.connection import connected
from tests.models.tiny import miniature_params, write_params


def refusal(folder: Path, base: Path, section: str, key: str, value: Any) -> str:
    raw = miniature_params(base)
    raw["evaluate"]["references"] = []  # which a file of prompts cannot have
    here = raw
    for part in section.split("."):
        here = here[part]
    here[key] = value
    write_params(folder, raw)
    with pytest.raises(SpinError) as refused:
        preflight.check(load_params(folder / "params.yaml"), folder)
    return str(refused.value)


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("scorers.clip", "source", "", "scorers.clip.source"),
        ("scorers.clip", "source", "..", "scorers.clip.source must be hub, embedded"),
        ("scorers.clip", "source", "nowhere", "scorers.clip.source must be hub, embedded"),
        ("scorers.clip", "source", "toy", "scorers.clip.source must be hub, embedded"),
        ("scorers.clip", "source", "empty", "scorers.clip.source must be hub, embedded"),
        ("scorers.oracle_psnr", "source", "embedded", "scorers.oracle_psnr.source must be toy"),
        ("scorers", "hps_v21", {"source": "embedded"}, "scorers.hps_v21.source must be hub, embedded where"),
        (
            "opponents",
            "safety_checker",
            "nowhere",
            "opponents.safety_checker must be a folder with safetensors",
        ),
        ("opponents", "safety_checker", "", "opponents.safety_checker must be a folder with safetensors"),
        (
            "opponents",
            "safety_checker",
            "empty",
            "opponents.safety_checker must be a folder with safetensors",
        ),
        ("prompt_sets.test", "prompts", "parti_prompts", "scorers must be without oracle_psnr"),
        (
            "prompt_sets.test",
            "prompts",
            "foreign.csv",
            "for the prompt set test, whose captions are not the embedded",
        ),
        ("prompt_sets.test", "prompts", "no/such.csv", "prompt_sets.test.prompts must be val, test, one of"),
        ("prompt_sets.test", "prompts", "bad.csv", "bad.csv must be a readable csv file"),
        ("prompt_sets.test", "source", "nowhere", "prompt_sets.test.source must be a file or folder"),
        ("tracking", "registered_model", "a/b", "tracking.registered_model"),
        ("tracking", "registered_model", "", "tracking.registered_model"),
        ("iterations.iter1", "learning_rate", 1e300, "iterations.iter1.learning_rate must be <= 1.0"),
    ],
)
def test_nonsense_is_refused_before_any_work(
    tiny_base: Path, tmp_path: Path, section: str, key: str, value: Any, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.csv").write_text("prompt\nred, blue\n")
    (tmp_path / "foreign.csv").write_text("prompt\na red circle left of a blue square on white\na cat\n")
    assert said in refusal(tmp_path, tiny_base, section, key, value)
    assert not (tmp_path / "outputs").exists()


def test_min_snr_is_refused_once_the_base_is_known_to_be_a_flow(tmp_path: Path) -> None:
    reference = tmp_path / "outputs" / "checkpoints" / "base" / "model.json"
    raw = miniature_params(tmp_path)
    raw["evaluate"]["references"] = []
    raw["base"]["source"] = "embedded"
    raw["baselines"]["sft"]["min_snr_gamma"] = 5.0
    write_params(tmp_path, raw)
    params = load_params(tmp_path / "params.yaml")
    base = {"source": "b", "revision": None, "family": "stable-diffusion", "weights": {"unet": "0"}}
    write_json(reference, base | {"prediction_type": "epsilon"})
    preflight.check(params, tmp_path)
    write_json(reference, [])
    with pytest.raises(ModelError, match="must be what a stage wrote of a model"):
        preflight.check(params, tmp_path)
    write_json(reference, base | {"prediction_type": "flow"})
    with pytest.raises(
        ParamsError, match=r"baselines\.sft\.min_snr_gamma must be null with a flow-matching base, got 5"
    ):
        preflight.check(params, tmp_path)


@pytest.mark.parametrize("name", ["100% mine", "mine?"])
def test_a_folder_that_no_database_has_an_address_in_is_refused(
    tmp_path: Path, tiny_base: Path, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    write_params(folder, miniature_params(tiny_base))
    with pytest.raises(ParamsError, match="must have a path without % and"):
        preflight.check(load_params(folder / "params.yaml"), folder)
    with pytest.raises(RuntimeError, match="must have a path without % and"):
        places(folder)
    assert places(tmp_path)


def test_a_folder_of_any_other_name_keeps_its_memory_below_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "a b#c'd é\"&;\\x"
    with connected(folder) as client:
        client.create_experiment("mine")
    assert {path.name for path in tmp_path.iterdir()} == {folder.name}
    assert (folder / ".spin/mlflow/mlflow.db").stat().st_size
