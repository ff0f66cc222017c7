"""What has been seen before, kept on disk: millions of digests in flat memory, each with a note."""

import hashlib
import sqlite3


class Seen:
    """A set of byte strings, each with a note, in a temporary SQLite file that vanishes with it."""

    def __init__(self) -> None:
        self._rows = sqlite3.connect("", isolation_level=None)  # "": a private file on disk, not in memory
        self._rows.execute("PRAGMA journal_mode = OFF")
        self._rows.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY, note TEXT) WITHOUT ROWID")

    def add(self, item: bytes, note: str = "") -> bool:
        """Add an item; return whether it is new."""
        query = "INSERT OR IGNORE INTO seen VALUES (?, ?)"
        return bool(self._rows.execute(query, (_digest(item), note)).rowcount)

    def note_of(self, item: bytes) -> str | None:
        """The note that an item came with, or None for one that is not here."""
        found = self._rows.execute("SELECT note FROM seen WHERE digest = ?", (_digest(item),)).fetchone()
        return None if found is None else str(found[0])

    def __contains__(self, item: bytes) -> bool:
        return self.note_of(item) is not None

    def close(self) -> None:
        """Remove the file."""
        self._rows.close()


def _digest(item: bytes) -> bytes:
    return hashlib.sha256(item).digest()[:16]
