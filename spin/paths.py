"""Where each stage puts what it makes, relative to the project's root (the folder of params.yaml)."""

from pathlib import Path

OUTPUTS = Path("outputs")
CODE = OUTPUTS / "code"
"""What each stage's code means, as hashes: what the stages depend on in place of source files."""
DATA = OUTPUTS / "data"
CACHE = OUTPUTS / "cache"
CHECKPOINTS = OUTPUTS / "checkpoints"
CURVES = OUTPUTS / "curves"
OPPONENTS = OUTPUTS / "opponents"
PREVIEWS = OUTPUTS / "previews"
"""What a player draws while it trains. No output of a stage, as is `TRAINING`: how often is no part of the method."""
PROMPTS = OUTPUTS / "prompts"
SAMPLES = OUTPUTS / "samples"
SCORES = OUTPUTS / "scores"
TABLES = OUTPUTS / "tables"
METRICS = OUTPUTS / "metrics"
CONTINUAL = SAMPLES / "continual"
"""Among what is drawn, which the page waits for and the registry does not; no prompt set has this name."""
REPORT = OUTPUTS / "report"
REGISTRY = OUTPUTS / "registry"
TRAINING = OUTPUTS / "training"
"""How each training ran on this machine: micro-batch size, speed, memory."""

COST = OUTPUTS / "cost"
"""What each stage cost on the devices it ran on; no output of a stage, as is `TRAINING`."""

WORK = Path(".spin")
"""Shards and step checkpoints of unfinished stages; never an output, so that DVC does not delete them."""

FETCHED = WORK / "fetched"
"""What `spin fetch` brought here for stages that would else ask the hub for it."""


def fetched_prompts(named_set: str) -> Path:
    """Where `spin fetch` keeps the prompts of a published set."""
    return FETCHED / "prompts" / f"{named_set}.parquet"


def prompts_of(prompt_set: str) -> Path:
    """The prompts of a prompt set: columns prompt_id, prompt, category."""
    return PROMPTS / f"{prompt_set}.parquet"


def unusable(root: Path) -> str | None:
    """Return why no project can be in the folder `root`, one sentence; None if one can."""
    place = str(root.resolve())
    if "%" not in place and "?" not in place:
        return None
    return f"the project's folder must have a path without % and ?, which addresses of databases cannot have, got {place}; rename it."
