"""Where each stage puts what it makes, relative to the project's root (the folder of params.yaml)."""

from pathlib import Path

OUTPUTS = Path("outputs")
DATA = OUTPUTS / "data"
CACHE = OUTPUTS / "cache"
CHECKPOINTS = OUTPUTS / "checkpoints"
CURVES = OUTPUTS / "curves"
OPPONENTS = OUTPUTS / "opponents"
SAMPLES = OUTPUTS / "samples"
SCORES = OUTPUTS / "scores"
TABLES = OUTPUTS / "tables"
REPORT = OUTPUTS / "report"
REGISTRY = OUTPUTS / "registry"

WORK = Path(".spin")
"""Shards and step checkpoints of unfinished stages; never an output, so that DVC does not delete them."""
