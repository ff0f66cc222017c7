"""Bad input is refused before Prefect is imported or a server started; light to import."""

from pathlib import Path

from spin.errors import SpinError
from spin.params.schema import load_params
from spin.stages import preflight


def refused_input(root: Path) -> str | None:
    """Return the sentence on bad parameters, before seconds are spent on Prefect and a server."""
    try:
        if (root / "params.yaml").is_file():
            preflight.check(load_params(root / "params.yaml"), root)
    except SpinError as error:
        return str(error)
    return None
