"""A base that is no model is refused in one sentence."""

from pathlib import Path

import pytest

from spin.errors import ModelError
from spin.params.schema import Params
from spin.stages.data import run_base
from tests.models.tiny import miniature_params


@pytest.mark.parametrize("source", ["no/such/folder/here", "/no/such/folder"])
def test_a_missing_base_is_one_sentence(inside: Path, tiny_base: Path, source: str) -> None:
    raw = miniature_params(tiny_base)
    raw["base"]["source"] = source
    with pytest.raises(
        ModelError, match=rf"base\.source must be .* but there is no folder {source}; correct"
    ):
        run_base(Params.model_validate(raw))


def test_a_folder_that_is_no_model_is_refused(inside: Path, tiny_base: Path, tmp_path: Path) -> None:
    raw = miniature_params(tiny_base)
    raw["base"]["source"] = str(tmp_path)
    with pytest.raises(ModelError, match=r"it has no \S*model_index\.json"):
        run_base(Params.model_validate(raw))
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ModelError, match=r"StableDiffusionPipeline.* got FluxPipeline"):
        run_base(Params.model_validate(raw))
