"""The arena: blind, fair in order and side, and no counted vote is ever lost."""

import io
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from spin.cli import main
from spin.errors import EvaluationError
from spin.runtime.files import read_json, write_json
from spin.tools.arena.matches import read_matches, samples_digest
from spin.tools.arena.standings import read_scores, standings, standings_table
from spin.tools.arena.votes import Votes

pytest.importorskip("fastapi", reason="the arena's page needs the extra ops")
pytest.importorskip("httpx", reason="the page is asked through httpx")

import httpx
from fastapi.testclient import TestClient

from spin.tools.arena.app import create_app

MODELS = ["iter1", "base"]
PROMPTS = 6


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Images of two models, every one of its own colours: a client can tell them by their bytes."""
    for model in MODELS:
        folder = tmp_path / "samples" / model
        (folder / "images").mkdir(parents=True)
        rows = []
        for index in range(PROMPTS):
            pixels = np.random.default_rng(index).integers(256, size=(8, 8, 3), dtype=np.uint8)
            pixels[0, 0] = 255 if model == "iter1" else 0
            Image.fromarray(pixels).save(folder / "images" / f"{index:05d}-0.png")
            row = {"prompt_id": f"test-{index}", "prompt": f"thing {index}", "category": "", "image_index": 0}
            rows.append({**row, "seed": 1000, "image": f"images/{index:05d}-0.png"})
        pd.DataFrame(rows).to_parquet(folder / "manifest.parquet")
        write_json(folder / "protocol.json", {"seed": 1000, "guidance_scale": 3.0})
    return tmp_path / "samples"


@pytest.fixture
def scores(samples: Path) -> Path:
    """Scores of the samples: `good` prefers iter1 everywhere, `flat` sees no difference."""
    for model in MODELS:
        frame = pd.read_parquet(samples / model / "manifest.parquet").drop(columns="image")
        frame = frame.assign(good=1.0 if model == "iter1" else 0.0, flat=0.5, flagged=False)
        (samples.parent / "scores" / model).mkdir(parents=True)
        frame.to_parquet(samples.parent / "scores" / model / "scores.parquet")
    return samples.parent / "scores"


@pytest.fixture
def votes(samples: Path) -> Iterator[Votes]:
    opened = open_votes(samples)
    yield opened
    opened.close()


def open_votes(samples: Path) -> Votes:
    digests = {model: samples_digest(samples / model) for model in MODELS}
    return Votes(samples.parent / "votes.sqlite", digests)


def client(samples: Path, votes: Votes, seed: int = 0) -> TestClient:
    app = create_app(read_matches(samples, MODELS), votes, MODELS, rng=random.Random(seed))
    return TestClient(app, base_url="http://127.0.0.1")


def shown(page: TestClient, token: str, side: str) -> str:
    """Which model's image is on a side: what a judge cannot know, told from the pixels."""
    with Image.open(io.BytesIO(page.get(f"/image/{token}/{side}").content)) as image:
        return "iter1" if image.getpixel((0, 0)) == (255, 255, 255) else "base"


def test_a_vote_counts_for_the_model_whose_image_was_chosen(samples: Path, votes: Votes) -> None:
    page = client(samples, votes)
    for _ in range(2 * PROMPTS):
        token = page.get("/api/next").json()["token"]
        side = "left" if shown(page, token, "left") == "iter1" else "right"
        assert shown(page, token, {"left": "right", "right": "left"}[side]) == "base"
        assert page.post("/api/vote", json={"token": token, "choice": side}).json() == {"counted": True}
    (row,) = standings(votes.read(), MODELS)
    assert (row.model, row.over, row.win_rate, row.votes) == ("iter1", "base", 1.0, 2 * PROMPTS)
    assert row.prompts == PROMPTS
    assert 0.5 < row.low < 1.0, "winning all of 6 prompts is not certainty"


def test_nothing_that_the_page_gets_names_a_model(samples: Path, votes: Votes) -> None:
    page = client(samples, votes)
    match = page.get("/api/next")
    image = page.get(f"/image/{match.json()['token']}/left")
    for answer in (page.get("/"), match, image):
        seen = answer.text + str(answer.headers) + str(answer.url)
        assert not re.search(r"iter1|\bbase\b", seen)


def test_both_sides_and_all_prompts_come_up_evenly(samples: Path, votes: Votes) -> None:
    page = client(samples, votes)
    sides, prompts = Counter(), Counter()
    for _ in range(20 * PROMPTS):
        match = page.get("/api/next").json()
        ticket = votes.find(match["token"])
        assert ticket is not None
        sides[ticket.left] += 1
        prompts[match["prompt"]] += 1
        page.post("/api/vote", json={"token": match["token"], "choice": "tie"})
    assert set(prompts.values()) == {20}, "no prompt is judged twice more often than another"
    assert 36 <= sides["iter1"] <= 84  # 120 fair coins, five standard deviations


def test_a_double_click_counts_once_and_the_first_choice_stands(samples: Path, votes: Votes) -> None:
    page = client(samples, votes)
    token = page.get("/api/next").json()["token"]
    answers = []

    def click(choice: str) -> None:
        answers.append(page.post("/api/vote", json={"token": token, "choice": choice}).json()["counted"])

    threads = [threading.Thread(target=click, args=("left",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    click("right")
    assert sorted(answers) == [False] * 8 + [True]
    assert votes.read()["choice"].tolist() == ["left"]


def test_votes_that_name_no_showing_or_no_side_are_refused(samples: Path, votes: Votes) -> None:
    page = client(samples, votes)
    token = page.get("/api/next").json()["token"]
    assert page.post("/api/vote", json={"token": "made up", "choice": "left"}).status_code == 404
    assert page.post("/api/vote", json={"token": token, "choice": "both"}).status_code == 422
    assert page.get("/image/made-up/left").status_code == 404
    assert page.get(f"/image/{token}/up").status_code == 422
    assert votes.read().empty


def test_pages_of_other_hosts_get_no_answer(samples: Path, votes: Votes) -> None:
    assert client(samples, votes).get("/api/next", headers={"Host": "evil.example"}).status_code == 400


def test_a_black_image_is_not_shown_and_is_counted(samples: Path, votes: Votes) -> None:
    Image.new("RGB", (8, 8)).save(samples / "base" / "images" / "00002-0.png")
    page = client(samples, votes)
    prompts = []
    for _ in range(3 * PROMPTS):
        match = page.get("/api/next").json()
        prompts.append(match["prompt"])
        page.post("/api/vote", json={"token": match["token"], "choice": "left"})
    assert "thing 2" not in prompts
    assert page.get("/api/results").json()["left_out"] == 1
    for index in range(PROMPTS):
        Image.new("RGB", (8, 8)).save(samples / "base" / "images" / f"{index:05d}-0.png")
    assert client(samples, votes).get("/api/next").json()["token"] is None


def test_votes_on_other_images_of_the_same_name_are_not_mixed(samples: Path) -> None:
    open_votes(samples).close()
    write_json(samples / "iter1" / "model.json", {"unet_sha256": "other"})
    with pytest.raises(
        EvaluationError, match="holds votes on other images of iter1 than these; name another"
    ):
        open_votes(samples)


def test_a_file_that_holds_no_votes_is_refused_and_left_as_it_is(samples: Path) -> None:
    path = samples.parent / "votes.sqlite"
    path.write_bytes(b"a picture of a cat, kept here for years" * 30)
    with pytest.raises(EvaluationError, match="must be a file of votes, but SQLite cannot use it"):
        open_votes(samples)
    assert path.read_bytes() == b"a picture of a cat, kept here for years" * 30


def test_models_that_were_not_drawn_alike_are_not_shown_side_by_side(samples: Path) -> None:
    path = samples / "base" / "protocol.json"
    write_json(path, {**read_json(path), "guidance_scale": 7.5})
    with pytest.raises(EvaluationError, match=r"their protocol has guidance_scale 7\.5 and 3\.0"):
        read_matches(samples, MODELS)
    write_json(path, {**read_json(path), "guidance_scale": 3.0})
    manifest = samples / "base" / "manifest.parquet"
    pd.read_parquet(manifest).assign(seed=1).to_parquet(manifest)
    with pytest.raises(EvaluationError, match="their images have other seeds"):
        read_matches(samples, MODELS)
    (samples / "base" / "images" / "00001-0.png").unlink()
    with pytest.raises(EvaluationError, match="must hold the 6 images that it lists, 1 are missing"):
        read_matches(samples, MODELS)
    with pytest.raises(EvaluationError, match="needs two models or more, each once, got iter1"):
        read_matches(samples, ["iter1"])
    with pytest.raises(EvaluationError, match="needs the images of dpo"):
        read_matches(samples, ["iter1", "dpo"])


def test_three_models_meet_two_by_two(samples: Path) -> None:
    shutil.copytree(samples / "base", samples / "sft")
    matches = read_matches(samples, [*MODELS, "sft"])
    assert len(matches) == 3 * PROMPTS
    assert len({match.key for match in matches}) == 3 * PROMPTS


def ballot(choices: list[str], left: str = "iter1") -> pd.DataFrame:
    right = {"iter1": "base", "base": "iter1"}[left]
    rows = [(f"test-{i % PROMPTS}", 0, left, right, choice, "") for i, choice in enumerate(choices)]
    return pd.DataFrame(rows, columns=["prompt_id", "image_index", "left", "right", "choice", "voted_at"])


def test_standings_by_hand() -> None:
    (row,) = standings(ballot(["left", "right", "tie", "left"]), MODELS)
    assert (row.win_rate, row.ties, row.votes, row.prompts) == (0.625, 1, 4, 4)
    assert row.low <= row.win_rate <= row.high


def test_swapping_all_sides_and_choices_changes_nothing() -> None:
    choices = ["left", "right", "tie", "left", "left", "right", "left"]
    other = {"left": "right", "right": "left", "tie": "tie"}
    assert standings(ballot(choices), MODELS) == standings(
        ballot([other[choice] for choice in choices], left="base"), MODELS
    )


def test_winning_rates_seen_from_both_models_add_to_one() -> None:
    votes = ballot(["left", "right", "tie", "left"])
    (ours,), (theirs,) = standings(votes, MODELS), standings(votes, MODELS[::-1])
    assert ours.win_rate + theirs.win_rate == pytest.approx(1)


def test_many_votes_on_one_prompt_weigh_as_one_prompt() -> None:
    votes = pd.concat([ballot(["left"] * 1), ballot(["right"] * 2).iloc[1:], ballot(["left"])])
    (row,) = standings(votes, MODELS)  # prompt 0 won twice, prompt 1 lost once
    assert (row.win_rate, row.votes, row.prompts) == (0.5, 3, 2)


def test_scorers_stand_beside_people_on_the_same_images(scores: Path) -> None:
    rows = standings(ballot(["left", "left", "right"]), MODELS, read_scores(scores, MODELS))
    by_judge = {row.judge: row for row in rows}
    assert set(by_judge) == {"people", "good", "flat"}
    assert by_judge["good"].win_rate == 1.0
    assert by_judge["good"].agreement == pytest.approx(2 / 3)
    assert (by_judge["flat"].win_rate, by_judge["flat"].ties, by_judge["flat"].agreement) == (0.5, 3, 0.5)
    text = standings_table(rows, ballot(["left", "left", "right"]))
    assert "SPIN iter 1 over Base" in text
    assert "Of 3 decided votes 67% were for the image on the left" in text


def test_scores_of_other_images_are_refused(scores: Path) -> None:
    path = scores / "base" / "scores.parquet"
    pd.read_parquet(path).iloc[1:].to_parquet(path)
    with pytest.raises(EvaluationError, match="lacks some of base; score it again"):
        standings(ballot(["left"]), MODELS, read_scores(scores, MODELS))
    path.unlink()
    with pytest.raises(EvaluationError, match="needs the scores of base"):
        read_scores(scores, MODELS)


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
                assert page.get("/api/next").json()["votes"] == len(counted)
                if cut is not None:  # a page left open from before still votes, and once
                    again = page.post("/api/vote", json={"token": cut, "choice": "right"})
                    assert again.json() == {"counted": True}
                    counted.append(cut)
                for _ in range(5):
                    token = page.get("/api/next").json()["token"]
                    page.post("/api/vote", json={"token": token, "choice": "left"}).raise_for_status()
                    counted.append(token)
                cut = page.get("/api/next").json()["token"]
        finally:
            server.send_signal(signal.SIGKILL)
            server.wait()
    with sqlite3.connect(votes_file) as database:
        kept = [token for (token,) in database.execute("SELECT token FROM votes")]
    assert sorted(kept) == sorted(counted)
    assert len(kept) == 11
