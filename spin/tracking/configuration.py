"""The parameters as MLflow keeps them: a hash of what decides the results, and every leaf by its dotted name."""

import hashlib
import json
from typing import Any

from spin.params.schema import Params


def configuration_hash(params: Params) -> str:
    """Return 16 hex digits over everything that decides the results; the names MLflow uses are left out."""
    text = json.dumps(params.model_dump(mode="json", exclude={"tracking"}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return every leaf by its dotted name: {"a": {"b": [1, 2]}} -> {"a.b": "1, 2"}."""
    flat: dict[str, str] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return flat
