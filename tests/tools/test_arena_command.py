"""The arena's command: it serves nothing but a fair match, and no counted vote is ever lost."""

import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from spin.cli import main

pytest.importorskip("fastapi", reason="the arena's page needs the extra ops")
pytest.importorskip("httpx", reason="the page is asked through httpx")

import httpx


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "must be a loopback address"),
        (["--models", "iter1"], "needs two models or more"),
        (["--results", "--votes", "absent.sqlite"], "must be a file of votes, but there is no absent.sqlite"),
    ],
)
def test_the_command_refuses_what_it_cannot_serve(
    arguments: list[str], message: str, samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--samples", str(samples), "--models", "iter1,base", "--votes", str(samples.parent / "v.sqlite")]
    assert main(["arena", *own, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_without_fastapi_the_command_says_what_to_install(
    samples: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "uvicorn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    own = ["--samples", str(samples), "--models", "iter1,base", "--votes", str(samples.parent / "v.sqlite")]
    assert main(["arena", *own]) == 2
    assert "pip install 'spin-diffusion[ops]'" in capsys.readouterr().err


@pytest.mark.slow
def test_votes_survive_kill_9_and_the_next_server_goes_on(samples: Path) -> None:
    votes_file = samples.parent / "votes.sqlite"
    command = [sys.executable, "-m", "spin", "arena", "--samples", str(samples), "--models", "iter1,base"]
    command += ["--votes", str(votes_file)]
    counted, cut = [], None
    for _ in range(2):
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            address = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
            assert address
            with httpx.Client(base_url=address[0], trust_env=False) as page:
                assert page.post("/api/next").json()["votes"] == len(counted)
                if cut is not None:  # a page left open from before still votes, and once
                    again = page.post("/api/vote", json={"token": cut, "choice": "right"})
                    assert again.json() == {"counted": True}
                    counted.append(cut)
                for _ in range(5):
                    token = page.post("/api/next").json()["token"]
                    page.post("/api/vote", json={"token": token, "choice": "left"}).raise_for_status()
                    counted.append(token)
                cut = page.post("/api/next").json()["token"]
        finally:
            server.send_signal(signal.SIGKILL)
            server.wait()
    with sqlite3.connect(votes_file) as database:
        kept = [token for (token,) in database.execute("SELECT token FROM votes")]
    assert sorted(kept) == sorted(counted)
    assert len(kept) == 11
