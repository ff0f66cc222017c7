"""A miniature project up to a stage, made in the test's folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spin import stages
from spin.params import Params
from tests.tiny import miniature_params, write_params


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
        stages.run_data(params)
        stages.run_base(params)
        stages.run_cache(params)
        for name in opponents:
            stages.run_opponents(params, name)
    return folder
