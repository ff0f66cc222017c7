"""The arena's web page and the few addresses behind it; needs fastapi, which the extra `ops` brings."""

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response

from spin.evaluation.labels import model_label
from spin.rewards.listing import is_single_colour, open_image
from spin.tools.arena.matches import Match
from spin.tools.arena.standings import judge_label, side_line, standings
from spin.tools.arena.votes import Choice, Ticket, Votes

LOCAL = ["127.0.0.1", "localhost"]
"""Names under which the page answers: another one is a page of somebody else that points here."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'; form-action 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}


MAX_BODY = 1000
"""Bytes of a vote, and to spare."""


class Ballot(BaseModel):
    """What the page sends."""

    token: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    choice: Choice


class Arena:
    """Which match comes next, and where its images lie."""

    def __init__(self, matches: Sequence[Match], votes: Votes, rng: random.Random) -> None:
        self.matches = {match.key: match for match in matches}
        self.votes, self.rng = votes, rng
        self.left_out: set[tuple[str, int, frozenset[str]]] = set()
        self._looked_at: dict[Path, bool] = {}

    def counts(self) -> Counter[tuple[str, int, frozenset[str]]]:
        """Votes on each match."""
        read = self.votes.read()
        sides = zip(read["prompt_id"], read["image_index"], read["left"], read["right"], strict=True)
        keys = ((prompt_id, int(index), frozenset((left, right))) for prompt_id, index, left, right in sides)
        return Counter(key for key in keys if key in self.matches)

    def draw(self) -> Ticket | None:
        """Draw at random one of the matches with the fewest votes, and its sides; None if nothing can be shown."""
        counts = self.counts()
        while left := [key for key in self.matches if key not in self.left_out]:
            fewest = min(counts[key] for key in left)
            key = self.rng.choice([key for key in left if counts[key] == fewest])
            if not any(self._blank(path) for _, path in self.matches[key].images):
                return self.votes.issue(self.matches[key], swapped=self.rng.random() < 0.5)
            self.left_out.add(key)  # a black square is no picture to compare
        return None

    def image(self, token: str, side: Literal["left", "right"]) -> Path | None:
        """The image on one side of a showing."""
        ticket = self.votes.find(token)
        match = ticket and self.matches.get(
            (ticket.prompt_id, ticket.image_index, frozenset((ticket.left, ticket.right)))
        )
        return dict(match.images)[getattr(ticket, side)] if match else None

    def _blank(self, path: Path) -> bool:
        if path not in self._looked_at:
            self._looked_at[path] = is_single_colour(open_image(path))
        return self._looked_at[path]


def create_app(
    matches: Sequence[Match],
    votes: Votes,
    models: Sequence[str],
    scores: Mapping[str, pd.DataFrame] | None = None,
    rng: random.Random | None = None,
) -> FastAPI:
    """Make the application: / to vote, /results to read."""
    arena = Arena(matches, votes, rng or random.Random())
    app = FastAPI(title="arena", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL)

    @app.middleware("http")
    async def headers(request: Request, call_next: Any) -> Response:
        response: Response = refusal(request) or await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.get("/", response_class=HTMLResponse)
    def page() -> str:
        return _asset("page.html")

    @app.get("/results", response_class=HTMLResponse)
    def results_page() -> str:
        return _asset("results.html")

    @app.post("/api/next")
    def next_match() -> dict[str, Any]:
        ticket = arena.draw()
        state = _progress(arena)
        if ticket is None:
            return {**state, "token": None}
        match = arena.matches[ticket.prompt_id, ticket.image_index, frozenset((ticket.left, ticket.right))]
        return {**state, "token": ticket.token, "prompt": match.prompt}  # and no model's name

    @app.post("/api/vote")
    def vote(ballot: Ballot) -> dict[str, Any]:
        if votes.find(ballot.token) is None:
            raise HTTPException(404, "There was no such showing; reload the page.")
        return {"counted": votes.cast(ballot.token, ballot.choice)}

    @app.get("/image/{token}/{side}")
    def image(token: str, side: Literal["left", "right"]) -> FileResponse:
        path = arena.image(token, side)
        if path is None:
            raise HTTPException(404, "There was no such showing.")
        return FileResponse(path, filename=f"{side}{path.suffix}", content_disposition_type="inline")

    @app.get("/api/results")
    def results() -> dict[str, Any]:
        return results_of(votes, models, scores, len(arena.left_out))

    return app


def refusal(request: Request) -> Response | None:
    """The answer to a request that the arena's own page would not make, or None."""
    origin = request.headers.get("origin")
    if origin is not None and origin != f"http://{request.headers.get('host')}":
        return PlainTextResponse("Another page has no business here.", 403)
    length = request.headers.get("content-length", "0" if request.method == "GET" else "")
    if not length.isdigit() or int(length) > MAX_BODY:
        return PlainTextResponse(f"A body must say its length, at most {MAX_BODY} bytes.", 413)
    return None


def results_of(
    votes: Votes, models: Sequence[str], scores: Mapping[str, pd.DataFrame] | None, left_out: int
) -> dict[str, Any]:
    """The standings as JSON values; what is not a number is null."""
    read = votes.read()
    rows = []
    for row in standings(read, models, scores):
        numbers = {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in row._asdict().items()
        }
        labels = {"model": model_label(row.model), "over": model_label(row.over)}
        rows.append({**numbers, **labels, "judge": judge_label(row.judge), "people": row.judge == "people"})
    return {"rows": rows, "note": side_line(read), "left_out": left_out}


def _progress(arena: Arena) -> dict[str, int]:
    counts = arena.counts()
    return {
        "votes": counts.total(),
        "judged": sum(key not in arena.left_out for key in counts),
        "matches": len(arena.matches) - len(arena.left_out),
        "left_out": len(arena.left_out),
    }


def _asset(name: str) -> str:
    return resources.files("spin.tools.arena").joinpath(name).read_text(encoding="utf-8")
