"""The arena: blind, fair in order and side, and no vote is counted twice or for other images."""

import io
import random
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from spin.errors import EvaluationError
from spin.runtime.files import read_json, write_json
from spin.tools.arena.matches import read_matches, samples_digest
from spin.tools.arena.standings import standings
from spin.tools.arena.votes import Votes

pytest.importorskip("fastapi", reason="the arena's page needs the extra ops")
pytest.importorskip("httpx", reason="the page is asked through httpx")

from fastapi.testclient import TestClient

from spin.tools.arena.app import create_app
from tests.tools.arena_samples import MODELS, PROMPTS


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
        token = page.post("/api/next").json()["token"]
        side = "left" if shown(page, token, "left") == "iter1" else "right"
        assert shown(page, token, {"left": "right", "right": "left"}[side]) == "base"
        assert page.post("/api/vote", json={"token": token, "choice": side}).json() == {"counted": True}
    (row,) = standings(votes.read(), MODELS)
    assert (row.model, row.over, row.win_rate, row.votes) == ("iter1", "base", 1.0, 2 * PROMPTS)
    assert row.prompts == PROMPTS
    assert 0.3 < row.low < 0.6, "winning all of 6 prompts is not certainty"


def test_nothing_that_the_page_gets_names_a_model(samples: Path, votes: Votes) -> None:
    page = client(samples, votes)
    match = page.post("/api/next")
    image = page.get(f"/image/{match.json()['token']}/left")
    for answer in (page.get("/"), match, image):
        seen = answer.text + str(answer.headers) + str(answer.url)
        assert not re.search(r"iter1|\bbase\b", seen)


def test_both_sides_and_all_prompts_come_up_evenly(samples: Path, votes: Votes) -> None:
    page = client(samples, votes)
    sides, prompts = Counter(), Counter()
    for _ in range(20 * PROMPTS):
        match = page.post("/api/next").json()
        ticket = votes.find(match["token"])
        assert ticket is not None
        sides[ticket.left] += 1
        prompts[match["prompt"]] += 1
        page.post("/api/vote", json={"token": match["token"], "choice": "tie"})
    assert set(prompts.values()) == {20}, "no prompt is judged twice more often than another"
    assert 36 <= sides["iter1"] <= 84  # 120 fair coins, five standard deviations


def test_a_double_click_counts_once_and_the_first_choice_stands(samples: Path, votes: Votes) -> None:
    page = client(samples, votes)
    token = page.post("/api/next").json()["token"]
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
    token = page.post("/api/next").json()["token"]
    assert page.post("/api/vote", json={"token": "made-up", "choice": "left"}).status_code == 404
    assert page.post("/api/vote", json={"token": token, "choice": "both"}).status_code == 422
    assert page.get("/image/made-up/left").status_code == 404
    assert page.get(f"/image/{token}/up").status_code == 422
    assert votes.read().empty


def test_pages_of_other_hosts_get_no_answer(samples: Path, votes: Votes) -> None:
    assert client(samples, votes).post("/api/next", headers={"Host": "evil.example"}).status_code == 400


def test_a_black_image_is_not_shown_and_is_counted(samples: Path, votes: Votes) -> None:
    Image.new("RGB", (8, 8)).save(samples / "base" / "images" / "00002-0.png")
    page = client(samples, votes)
    prompts = []
    for _ in range(3 * PROMPTS):
        match = page.post("/api/next").json()
        prompts.append(match["prompt"])
        page.post("/api/vote", json={"token": match["token"], "choice": "left"})
    assert "thing 2" not in prompts
    assert page.get("/api/results").json()["left_out"] == 1
    for index in range(PROMPTS):
        Image.new("RGB", (8, 8)).save(samples / "base" / "images" / f"{index:05d}-0.png")
    assert client(samples, votes).post("/api/next").json()["token"] is None


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


def test_a_foreign_page_can_neither_ask_nor_vote_and_a_body_has_a_limit(samples: Path, votes: Votes) -> None:
    page = client(samples, votes)
    foreign = {"Origin": "http://evil.example"}
    assert page.post("/api/next", headers=foreign).status_code == 403
    assert page.post("/api/vote", json={}, headers=foreign).status_code == 403
    assert page.get("/api/next").status_code == 405, "nothing is written by a GET"
    assert page.post("/api/vote", content=b"x" * 2000).status_code == 413
    half_a_character = b'{"token": "\\ud800", "choice": "left"}'
    assert page.post("/api/vote", content=half_a_character).status_code == 422
    assert "frame-ancestors 'none'" in page.get("/").headers["content-security-policy"]
    assert votes.read().empty
