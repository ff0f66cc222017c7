"""Training images that are ready, kept by the digest of their originals: a killed data stage decodes none of them again."""

import contextlib
import hashlib
import sqlite3
import threading
from pathlib import Path

from spin.data.images import PreparedImage

_TABLE = """CREATE TABLE IF NOT EXISTS prepared (digest TEXT PRIMARY KEY, sha256 TEXT, file TEXT, start INTEGER,
    size INTEGER, width INTEGER, height INTEGER, original_width INTEGER, original_height INTEGER, crop_top INTEGER, crop_left INTEGER) WITHOUT ROWID"""


class PreparedImages:
    """The PNG files of each run end to end in one file, and a SQLite file that says of each its hash, where it is in there,
    and where it lay in the original.

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
        number = 1 + max((int(each.stem[7:]) for each in folder.glob("images-*.bin")), default=-1)
        self._file = (folder / f"images-{number:05d}.bin").open("xb")

    def get(self, digest: str) -> PreparedImage | None:
        """The training image made of the original with this SHA-256, if it is here and undamaged."""
        query = "SELECT * FROM prepared WHERE digest = ?"
        try:
            with self._lock:
                row = self._rows.execute(query, (digest,)).fetchone()
            if row is None:
                return None
            _, sha256, file, start, size, *geometry = row
            with (self.folder / file).open("rb") as stream:
                stream.seek(start)
                png = stream.read(size)
        except (sqlite3.DatabaseError, OSError):
            return None
        return PreparedImage(png, *geometry) if hashlib.sha256(png).hexdigest() == sha256 else None

    def put(self, digest: str, image: PreparedImage, sha256: str) -> None:
        """Keep a training image, whose PNG has the hash `sha256`."""
        start = self._file.tell()
        self._file.write(image.png)
        self._file.flush()
        with contextlib.suppress(sqlite3.DatabaseError), self._lock:  # else it is made again after a kill
            row = (digest, sha256, Path(self._file.name).name, start, len(image.png), *image[1:])
            self._rows.execute(
                "INSERT OR REPLACE INTO prepared VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row
            )

    def close(self) -> None:
        """Close the files; what is kept stays."""
        self._file.close()
        self._rows.close()


def _open(file: Path) -> sqlite3.Connection:
    rows = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    rows.execute("PRAGMA journal_mode = WAL")
    rows.execute("PRAGMA synchronous = OFF")  # a killed process loses nothing by it
    rows.execute(_TABLE)
    return rows
