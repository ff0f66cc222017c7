"""The manifest of a TrainJob: yours as SPIN_TRAINJOB names it, and filled in for one stage."""

import hashlib
import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from spin.errors import ParamsError
from spin.runtime.files import sha256_file

Manifest = dict[str, Any]
API_VERSION = "trainer.kubeflow.org/v1alpha1"
KIND = {**dict(zip(("group", "version"), API_VERSION.split("/"), strict=True)), "plural": "trainjobs"}
COMPLETE, FAILED = "Complete", "Failed"
"""Conditions of a TrainJob that has ended."""
WORK = "spin-diffusion/work"
"""Annotation: which command on which parameters a TrainJob is for."""


def work_of(body: Manifest) -> str | None:
    """What a TrainJob is for: a hash of its command and parameters."""
    return (body["metadata"].get("annotations") or {}).get(WORK)


def ended(there: Manifest) -> str | None:
    """Return `COMPLETE` or `FAILED` of a TrainJob that has ended."""
    conditions = there.get("status", {}).get("conditions", [])
    true = {each["type"] for each in conditions if each["status"] == "True"}
    return COMPLETE if COMPLETE in true else FAILED if FAILED in true else None


def filled_in(manifest: Manifest, arguments: Sequence[str], root: Path) -> Manifest:
    """Return the manifest with the stage's name and command and what it is for; its environment is added to."""
    stage = re.sub("[^a-z0-9]+", "-", " ".join(arguments).replace("--", "").lower())[:34].strip("-")
    which = hashlib.sha256(f"{root} {list(arguments)}".encode()).hexdigest()[:8]  # whatever was cut off
    work = hashlib.sha256(f"{list(arguments)} {sha256_file(root / 'params.yaml')}".encode()).hexdigest()
    metadata = {"namespace": "default", **(manifest.get("metadata") or {}), "name": f"spin-{stage}-{which}"}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), WORK: work}
    trainer = {**(manifest["spec"].get("trainer") or {})}
    trainer["command"] = ["env", f"--chdir={root}", "python", "-m", "spin", *arguments]
    trainer.pop("args", None)
    flow = {"name": "SPIN_PREFECT_RUN_ID", "value": os.environ.get("SPIN_PREFECT_RUN_ID", "")}
    trainer["env"] = [*(trainer.get("env") or []), flow]
    return {**manifest, "metadata": metadata, "spec": {**manifest["spec"], "trainer": trainer}}


def manifest_asked() -> Manifest | None:
    """Read the TrainJob that SPIN_TRAINJOB names, if it does.

    Raises `ParamsError` for a file that is none, and where prefect-kubernetes is missing.
    """
    if not (asked := os.environ.get("SPIN_TRAINJOB")):
        return None
    if importlib.util.find_spec("prefect_kubernetes") is None:
        raise ParamsError(
            "SPIN_TRAINJOB needs prefect-kubernetes, which is missing; pip install 'spin-diffusion[kubernetes]'."
        )
    file = Path(asked)
    try:
        manifest = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ParamsError(
            f"SPIN_TRAINJOB must name a manifest, and {file} does not read ({reason})."
        ) from None
    kind = (manifest.get("apiVersion"), manifest.get("kind")) if isinstance(manifest, dict) else None
    if kind != (API_VERSION, "TrainJob") or not isinstance(manifest.get("spec"), dict):
        raise ParamsError(
            f"SPIN_TRAINJOB must name a TrainJob of {API_VERSION} with a spec, and {file} has none; docs/scale.md shows one."
        )
    return manifest
