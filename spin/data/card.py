"""The data card: where a data set came from, and what became of each of its rows."""

from dataclasses import dataclass, field
from pathlib import Path

from spin.runtime.files import write_json


@dataclass
class DataCard:
    """Rows read, and rows dropped by reason; a reason completes "so many images were dropped ..."."""

    source: str
    revision: str | None = None
    """Commit of the hub repository that was read."""
    rows_read: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    noted: dict[str, int] = field(default_factory=dict)
    """Rows that were kept and deserve a look."""
    at: str = ""
    """The row at hand, as its source names it; a file's name below its folder."""
    trigger: str | None = None
    """The word to teach that stands before every caption."""
    buckets: dict[str, int] = field(default_factory=dict)
    """Images by their size, `384x640`, where there are several."""

    def drop(self, reason: str) -> None:
        """Count one row as dropped for `reason`."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def note(self, remark: str) -> None:
        """Count one kept row that deserves `remark`."""
        self.noted[remark] = self.noted.get(remark, 0) + 1

    def fill(self, width: int, height: int) -> None:
        """Count one image in the bucket of its size."""
        size = f"{width}x{height}"
        self.buckets[size] = self.buckets.get(size, 0) + 1

    @property
    def rows_kept(self) -> int:
        """Rows that were not dropped."""
        return self.rows_read - sum(self.dropped.values())

    def sentence(self) -> str:
        """`read 40, kept 31, dropped 9: 5 without a caption, 4 that do not decode`, with buckets also `; by bucket 20 384x640, 11 512x512`."""
        sentence = f"read {self.rows_read}, kept {self.rows_kept}, dropped {self.rows_read - self.rows_kept}"
        if self.dropped:
            sentence += ": " + _listed(self.dropped)
        if self.noted:
            sentence += f" (of the kept ones {_listed(self.noted)})"
        return f"{sentence}; by bucket {_listed(self.buckets)}" if self.buckets else sentence

    def write(self, path: Path, kept: dict[str, int]) -> None:
        """Write the card as JSON; `kept` counts what the rows became: images by split, pairs, prompts."""
        card = {
            "source": self.source,
            "rows_read": self.rows_read,
            "dropped": self.dropped,
            "kept": kept,
        }
        if self.revision:
            card["revision"] = self.revision
        if self.trigger is not None:
            card["trigger"] = self.trigger
        if self.noted:
            card["noted"] = self.noted
        if self.buckets:
            card["buckets"] = self.buckets
        write_json(path, card)


def _listed(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {reason}" for reason, count in ordered)
