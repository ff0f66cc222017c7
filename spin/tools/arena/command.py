"""`spin arena`: let people choose between two models' images, on a page that only this machine sees."""

import argparse
import contextlib
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spin.errors import EvaluationError

if TYPE_CHECKING:
    import pandas as pd

    from spin.tools.arena.matches import Match
    from spin.tools.arena.votes import Votes

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def register(commands: "Commands") -> None:
    """Add the command."""
    command = commands.add_parser("arena", help="Compare two models' images by eye, blind, in a local page.")
    command.add_argument(
        "--samples", type=Path, required=True, help="outputs/samples/PROMPT_SET: a folder per model"
    )
    command.add_argument("--models", required=True, help="two or more, with commas between: iter3,base")
    command.add_argument(
        "--votes", type=Path, default=Path("votes.sqlite"), help="file of votes, continued if there"
    )
    command.add_argument(
        "--scores", type=Path, help="outputs/scores/PROMPT_SET, to set reward models beside the votes"
    )
    command.add_argument("--host", default="127.0.0.1", help="a loopback address")
    command.add_argument("--port", type=int, default=0, help="0 takes a free one")
    command.add_argument("--results", action="store_true", help="print what the votes say, and end")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Serve the page until interrupted, or print the results."""
    from spin.tools.arena.matches import read_matches, samples_digest
    from spin.tools.arena.standings import read_scores, standings, standings_table
    from spin.tools.arena.votes import Votes

    models = [name.strip() for name in options.models.split(",") if name.strip()]
    if options.results and not options.votes.is_file():
        raise EvaluationError(
            f"--votes must be a file of votes, but there is no {options.votes}; correct it."
        )
    matches = read_matches(options.samples, models)
    scores = read_scores(options.scores, models) if options.scores else None
    votes = Votes(options.votes, {model: samples_digest(options.samples / model) for model in models})
    if not options.results:
        _check_loopback(options.host)
        _serve(matches, votes, models, scores, options.host, options.port)
    read = votes.read()
    print(standings_table(standings(read, models, scores), read))
    votes.close()


def _serve(
    matches: "Sequence[Match]",
    votes: "Votes",
    models: Sequence[str],
    scores: "Mapping[str, pd.DataFrame] | None",
    host: str,
    port: int,
) -> None:
    """Serve until Ctrl-C."""
    try:
        import uvicorn

        from spin.tools.arena.app import create_app
    except ModuleNotFoundError as error:
        raise EvaluationError(
            f"spin arena needs {error.name}, which is not installed; pip install 'spin-diffusion[ops]'."
        ) from None
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen()  # a browser that is quicker than the server waits
        except OSError as error:
            raise EvaluationError(
                f"--port must be free, but {host}:{port} cannot be had ({error.strerror}); choose another."
            ) from None
        address = f"http://{host}:{listener.getsockname()[1]}"
        print(
            f"{len(matches)} pairs to judge at {address} (results at {address}/results); Ctrl-C ends.",
            flush=True,
        )
        config = uvicorn.Config(
            create_app(matches, votes, models, scores), log_level="warning", lifespan="off"
        )
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once it has ended in order
            uvicorn.Server(config).run(sockets=[listener])


def _check_loopback(host: str) -> None:
    """Refuse an address that other machines could reach."""
    try:
        local = host == "localhost" or ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise EvaluationError(
            f"--host must be a loopback address such as 127.0.0.1, got {host}; from elsewhere, use an SSH tunnel."
        )
