"""A stage's progress on the flow run's page: what it prints, as a bar with the line below it."""

import re
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

LINE = re.compile(r"^(?P<label>[^:]+): (?P<done>\d+)/(?P<total>\d+) \S+, ")
"""As `spin.runtime.progress` writes it: `train iter1: 49/64 updates, 2.33/s, 6 s left, ...`."""


class ProgressBar:
    """Shows the last line of progress that a stage printed."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._artifact: UUID | None = None

    def see(self, line: str) -> None:
        """Take in a line; lines that are no progress are passed over."""
        match = LINE.match(line)
        if match is None or not int(match["total"]):
            return
        share = min(100.0 * int(match["done"]) / int(match["total"]), 100.0)
        if self._artifact is None:
            key = re.sub("[^a-z0-9-]+", "-", f"progress-{self.stage.lower()}").strip("-")
            self._artifact = create_progress_artifact(share, key=key, description=line)  # type: ignore[assignment]
        else:
            update_progress_artifact(self._artifact, share, description=line)
