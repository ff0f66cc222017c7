"""What has been seen before, kept on disk: a set that may hold millions of digests in flat memory."""

import hashlib
import sqlite3


class Seen:
    """A set of byte strings in a temporary SQLite file that vanishes with it."""

    def __init__(self) -> None:
        self._rows = sqlite3.connect("", isolation_level=None)  # "": a private file on disk, not in memory
        self._rows.execute("PRAGMA journal_mode = OFF")
        self._rows.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, item: bytes) -> bool:
        """Add an item; return whether it is new."""
        return bool(self._rows.execute("INSERT OR IGNORE INTO seen VALUES (?)", (_digest(item),)).rowcount)

    def __contains__(self, item: bytes) -> bool:
        query = self._rows.execute("SELECT 1 FROM seen WHERE digest = ?", (_digest(item),))
        return query.fetchone() is not None

    def close(self) -> None:
        """Remove the file."""
        self._rows.close()


def _digest(item: bytes) -> bytes:
    return hashlib.sha256(item).digest()[:16]
