"""Bad input is refused before Prefect is imported or a server started, and what cannot be had before a stage runs; light to
import."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from spin.errors import SpinError
from spin.params.schema import load_params
from spin.stages import preflight
from spin.stages.needs import check_reachable, needs_of
from tasks.manifest import manifest_asked

if TYPE_CHECKING:
    import networkx as nx

    from tasks.project import Project


def refused_input(root: Path) -> str | None:
    """Return the sentence on bad parameters, or a bad SPIN_TRAINJOB, before seconds are spent on Prefect and a server."""
    try:
        if (root / "params.yaml").is_file():
            preflight.check(load_params(root / "params.yaml"), root)
        manifest_asked()
    except SpinError as error:
        return str(error)
    return None


def unreachable_input(project: "Project", graph: "nx.DiGraph[str]") -> str | None:
    """Return the sentence on what the stages to be run read of the hub and is neither here nor to be had.

    Which stages these are is looked up only if something is not here: a flow with nothing to do needs no network. The pods
    of a cluster (SPIN_TRAINJOB) have another cache, and look for themselves.
    """
    import networkx as nx

    if not (project.root / "params.yaml").is_file() or os.environ.get("SPIN_TRAINJOB"):
        return None
    try:
        params = load_params(project.root / "params.yaml")
        if all(need.find() is not None for need in needs_of(params, project.root)):
            return None
        stale = {stage for stage in graph if project.is_stale(stage)}
        waiting = {user for stage in stale for user in nx.ancestors(graph, stage)}
        check_reachable(params, {stage.partition("@")[0] for stage in stale | waiting}, project.root)
    except SpinError as error:
        return str(error)
    return None
