"""Votes in SQLite: what was answered as counted is on disk, and a double click counts once.

A ticket is one showing: which image was left and which right. A vote names its ticket and no model, so that the
page knows none; a second vote with the same ticket changes nothing.
"""

import secrets
import sqlite3
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd

from spin.errors import EvaluationError
from spin.tools.arena.matches import Match

Choice = Literal["left", "right", "tie"]
COLUMNS = ["prompt_id", "image_index", "left", "right", "choice", "voted_at"]
SCHEMA = """
CREATE TABLE IF NOT EXISTS models (name TEXT PRIMARY KEY, digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tickets (
    token TEXT PRIMARY KEY, prompt_id TEXT NOT NULL, image_index INTEGER NOT NULL,
    "left" TEXT NOT NULL, "right" TEXT NOT NULL, shown_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS votes (
    token TEXT PRIMARY KEY REFERENCES tickets (token),
    choice TEXT NOT NULL CHECK (choice IN ('left', 'right', 'tie')), voted_at TEXT NOT NULL
);
"""


class Ticket(NamedTuple):
    """One showing of a match."""

    token: str
    prompt_id: str
    image_index: int
    left: str
    right: str
    """Models."""


class Votes:
    """The file of votes; several threads may use it."""

    def __init__(self, path: Path, digests: Mapping[str, str]) -> None:
        """Open or make the file; raises `EvaluationError` if it is something else or judges other images.

        `digests` says which images each model's are: votes on others of the same name are never mixed in.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(path, check_same_thread=False, timeout=30)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut too
            with self._database:
                self._database.executescript(SCHEMA)
                self._check_models(path, digests)
        except sqlite3.Error as error:
            raise EvaluationError(
                f"{path} must be a file of votes, but SQLite cannot use it ({error}); name another."
            ) from None

    def _check_models(self, path: Path, digests: Mapping[str, str]) -> None:
        known = dict(self._database.execute("SELECT name, digest FROM models").fetchall())
        for model, digest in digests.items():
            if known.get(model, digest) != digest:
                raise EvaluationError(
                    f"{path} holds votes on other images of {model} than these; name another file with --votes."
                )
        self._database.executemany("INSERT OR IGNORE INTO models VALUES (?, ?)", digests.items())

    def issue(self, match: Match, swapped: bool) -> Ticket:
        """Write down a showing of `match`, the second image on the left if `swapped`."""
        (left, _), (right, _) = match.images[::-1] if swapped else match.images
        ticket = Ticket(secrets.token_urlsafe(16), match.prompt_id, match.image_index, left, right)
        with self._lock, self._database:
            self._database.execute("INSERT INTO tickets VALUES (?, ?, ?, ?, ?, ?)", (*ticket, _now()))
        return ticket

    def find(self, token: str) -> Ticket | None:
        """Return the showing with this token, if there was one."""
        query = 'SELECT token, prompt_id, image_index, "left", "right" FROM tickets WHERE token = ?'
        with self._lock:
            row = self._database.execute(query, (token,)).fetchone()
        return None if row is None else Ticket(*row)

    def cast(self, token: str, choice: Choice) -> bool:
        """Record a vote and return True; False if this showing was voted on before. On disk when it returns."""
        statement = (
            "INSERT INTO votes SELECT token, ?, ? FROM tickets WHERE token = ? ON CONFLICT (token) DO NOTHING"
        )
        with self._lock, self._database:
            return self._database.execute(statement, (choice, _now(), token)).rowcount == 1

    def read(self) -> pd.DataFrame:
        """All votes: prompt_id, image_index, left, right, choice, voted_at."""
        query = 'SELECT prompt_id, image_index, "left", "right", choice, voted_at FROM votes JOIN tickets USING (token)'
        with self._lock:
            return pd.DataFrame(self._database.execute(query).fetchall(), columns=COLUMNS)

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
