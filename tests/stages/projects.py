"""A miniature project up to a stage, made in the test's folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spin.params.schema import Params
from spin.stages.data import run_base, run_cache, run_data
from spin.stages.sample import run_opponents
from tests.models.tiny import miniature_params, write_params


def parameters(base: Path, **sections: dict[str, Any]) -> Params:
    """The miniature parameters with some keys of some sections changed: `parameters(base, training={...})`."""
    return Params.model_validate(raw_parameters(base, **sections))


def raw_parameters(base: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """As `parameters`, before validation."""
    raw = miniature_params(base)
    for name, changes in sections.items():
        for key, value in changes.items():
            raw[name][key] = raw[name][key] | value if isinstance(value, dict) and raw[name][key] else value
    return raw


def prepare(folder: Path, base: Path, opponents: Sequence[str] = ("iter1",)) -> Path:
    """Make data, base, cache and the opponents of the iterations named in `folder`."""
    write_params(folder, miniature_params(base))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = parameters(base)
        run_data(params)
        run_base(params)
        run_cache(params)
        for name in opponents:
            run_opponents(params, name)
    return folder
