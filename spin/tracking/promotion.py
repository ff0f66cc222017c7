"""The aliases of a registered model: `champion` is what is in use, `challenger` what was compared with it and lost."""

from datetime import UTC, datetime
from typing import Any

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "gate.previous"


def champion_of(client: Any, name: str) -> Any:
    """The version that is champion, or None."""
    return _alias(client, name, CHAMPION)


def version_of(client: Any, name: str, model: str, md5: str) -> Any:
    """The newest version of a checkpoint, or None."""
    found = client.search_model_versions(f"name = '{name}'")
    same = [each for each in found if (each.tags.get("model"), each.tags.get("dvc.md5")) == (model, md5)]
    return max(same, key=lambda each: int(each.version), default=None)


def record(client: Any, name: str, version: Any, tags: dict[str, str], promoted: bool) -> None:
    """Write a decision of the gate on the version and move the alias that it earned."""
    before = champion_of(client, name)
    for key, value in {**tags, "gate.at": _now()}.items():
        client.set_model_version_tag(name, version.version, key, value)
    if not promoted:
        client.set_registered_model_alias(name, CHALLENGER, version.version)
        return
    if before is not None:
        client.set_model_version_tag(name, version.version, PREVIOUS, str(before.version))
    client.set_registered_model_alias(name, CHAMPION, version.version)
    challenger = _alias(client, name, CHALLENGER)
    if challenger is not None and challenger.version == version.version:
        client.delete_registered_model_alias(name, CHALLENGER)


def roll_back(client: Any, name: str) -> tuple[Any, Any]:
    """Give the alias back to the version that had it before; returns (the one that lost it, the one that has it).

    The second is None if there was none before: then nobody is champion. (None, None) if nobody was.
    """
    champion = champion_of(client, name)
    if champion is None:
        return None, None
    client.set_model_version_tag(name, champion.version, "gate.rolled_back", _now())
    previous = champion.tags.get(PREVIOUS)
    if previous is None:
        client.delete_registered_model_alias(name, CHAMPION)
        return champion, None
    client.set_registered_model_alias(name, CHAMPION, previous)
    return champion, client.get_model_version(name, previous)


def _alias(client: Any, name: str, alias: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:  # nobody has it, or there is no such model yet
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
