"""`python -m flows.deploy`: make the pool, the deployments and the automations of prefect.yaml on a Prefect server.

`make ui` does it for its own server. Doing it again changes nothing, from whichever clone: no deployment names a folder.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from flows.server import server_settings
from flows.worker import BAD_INPUT, FOLDER, make_pool

NOTIFY = "SPIN_NOTIFY_URL"
"""Where the end of every run is told, as a POST of JSON; nowhere if it is not set."""
BLOCK = "spin-notify"
"""Prefect's block that keeps that address."""


def register(root: Path, env: dict[str, str], settings: dict[str, str], log: Path | None) -> None:
    """Bring all of prefect.yaml to the server; raises `RuntimeError` if Prefect refuses."""
    from prefect.client.orchestration import get_client
    from prefect.settings import temporary_settings

    with temporary_settings(settings), get_client(sync_client=True) as client:
        make_pool(client)
        _deploy(root, env, log)
        _automate(
            client, yaml.safe_load((root / "prefect.yaml").read_text(encoding="utf-8")).get("automations", [])
        )


def _deploy(root: Path, env: dict[str, str], log: Path | None) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    env = {name: value for name, value in env.items() if name != FOLDER}  # filled in by the worker, not now
    with log.open("ab") if log else open(os.devnull, "wb") as stream:
        done = subprocess.run(
            command, cwd=root, env=env, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL
        )
    if done.returncode:
        raise RuntimeError(
            f"`{' '.join(command[2:])}` ended with exit code {done.returncode}; {log or 'the same by hand'} says why."
        )


def _automate(client: Any, automations: list[dict[str, Any]]) -> None:
    """Make the automations, or bring them up to date; one that was switched off on the page stays off.

    One that is as it should be is left alone: with a change Prefect forgets which runs it has seen start.
    """
    from prefect.events.schemas.automations import AutomationCore

    url = os.environ.get(NOTIFY)
    block = _notify_block(url) if url else None
    for given in automations:
        calls = [action for action in given["actions"] if action["type"] == "call-webhook"]
        if calls and block is None:
            continue
        for action in calls:
            action["block_document_id"] = block
        wanted = AutomationCore.model_validate(given)
        known = next(iter(client.read_automations_by_name(wanted.name)), None)
        if known is None:
            client.create_automation(wanted)
        elif _content(known) != _content(wanted):
            client.update_automation(known.id, wanted)  # on or off as it is: that was not given


def _content(automation: Any) -> Any:
    """Return what an automation does, without what the server adds and whether it is on."""
    return automation.model_dump(include={"description", "trigger", "actions"})


def _notify_block(url: str) -> str:
    """Keep the address on the server, encrypted as Prefect keeps secrets, and return the id of the block."""
    from prefect.blocks.webhook import Webhook

    webhook = Webhook(url=url, headers={"Content-Type": "application/json"})
    return str(webhook.save(BLOCK, overwrite=True))


def main() -> int:
    """Register all of prefect.yaml on the server that the environment or prefect.toml names."""
    root = Path.cwd()
    try:
        settings = server_settings(root)
        register(root, {**os.environ}, settings, None)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    print(f"{settings['api.url'].removesuffix('/api')} has the deployments of prefect.yaml.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
