"""Training images that are ready, kept by the digest of their originals: a killed data stage decodes none of them again."""

import contextlib
import hashlib
import os
import sqlite3
import threading
from pathlib import Path

from spin.data.images import PreparedImage

_TABLE = """CREATE TABLE IF NOT EXISTS prepared (digest TEXT PRIMARY KEY, sha256 TEXT, resolution INTEGER,
    original_width INTEGER, original_height INTEGER, crop_top INTEGER, crop_left INTEGER) WITHOUT ROWID"""


class PreparedImages:
    """A folder of PNG files, and a SQLite file that says of each its hash and where it lay in the original.

    Whatever is damaged in it counts as not there. Several threads may read.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder, or make it; a file of a killed machine that does not open is begun anew."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        try:
            self._rows = _open(folder / "prepared.db")
        except sqlite3.DatabaseError:
            (folder / "prepared.db").unlink()
            self._rows = _open(folder / "prepared.db")

    def place(self, digest: str) -> Path:
        """Where the training image of an original lies."""
        return self.folder / digest[:2] / f"{digest[:24]}.png"

    def get(self, digest: str) -> PreparedImage | None:
        """The training image made of the original with this SHA-256, if it is here and undamaged."""
        query = "SELECT * FROM prepared WHERE digest = ?"
        try:
            with self._lock:
                row = self._rows.execute(query, (digest,)).fetchone()
            png = self.place(digest).read_bytes() if row else b""
        except (sqlite3.DatabaseError, OSError):
            return None
        if not row or hashlib.sha256(png).hexdigest() != row[1]:
            return None
        return PreparedImage(png, *row[2:])

    def put(self, digest: str, image: PreparedImage, sha256: str) -> None:
        """Keep a training image, whose PNG has the hash `sha256`."""
        place = self.place(digest)
        place.parent.mkdir(exist_ok=True)
        temporary = place.with_suffix(".part")
        temporary.write_bytes(image.png)
        os.replace(temporary, place)
        with contextlib.suppress(sqlite3.DatabaseError), self._lock:  # else it is made again after a kill
            row = (digest, sha256, *image[1:])
            self._rows.execute("INSERT OR REPLACE INTO prepared VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def close(self) -> None:
        """Close the SQLite file; what is kept stays."""
        self._rows.close()


def _open(file: Path) -> sqlite3.Connection:
    rows = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    rows.execute("PRAGMA journal_mode = WAL")
    rows.execute("PRAGMA synchronous = OFF")  # a killed process loses nothing by it
    rows.execute(_TABLE)
    return rows
