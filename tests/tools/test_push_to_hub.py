"""`spin export --push-to-hub` against a hub on localhost: what goes up, who sees it, and what is refused before any work."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load

from spin.cli import main
from spin.runtime.files import write_json
from spin.runtime.provenance import content_md5
from tests.tools.local_hub import LocalHub, local_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    """A hub on localhost, anna's token, and an empty folder to stand in."""
    with local_hub() as served:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.address)
        monkeypatch.setenv("HF_TOKEN", "hf_write")
        monkeypatch.chdir(tmp_path)
        yield served


def export(checkpoint: Path, *arguments: str, out: str = "lora", kind: str = "lora") -> int:
    return main(["export", "--checkpoint", str(checkpoint), "--format", kind, "--out", out, *arguments])


def front_matter(card: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(card.split("---")[1])
    return found


def test_an_export_goes_up_as_a_private_model_with_a_card(
    hub: LocalHub, checkpoints: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(checkpoints / "iter2", "--push-to-hub", "anna/circles", "--license", "openrail") == 0
    assert f"{hub.address}/anna/circles, for you alone" in capsys.readouterr().out
    shared = hub.repos["anna/circles"]
    assert shared["private"] is True
    assert sorted(shared["files"]) == ["README.md", "pytorch_lora_weights.safetensors"]
    weights = Path("lora/pytorch_lora_weights.safetensors").read_bytes()
    assert shared["files"]["pytorch_lora_weights.safetensors"] == weights
    assert load(weights)
    card = shared["files"]["README.md"].decode()
    told = front_matter(card)
    assert told["license"] == "openrail"
    assert told["library_name"] == "diffusers"
    assert told["pipeline_tag"] == "text-to-image"
    assert "lora" in told["tags"]  # type: ignore[operator]
    assert 'load_lora_weights("anna/circles")' in card
    assert "base -> iter1" in card
    assert "LoRA of rank" in card
    assert "`openrail`" in card.partition("## Licence")[2]
    assert "## Results" not in card, "nothing is recorded of this checkpoint"
    assert str(tiny_base) not in card, "where a file lies here is nobody else's matter"


def test_what_is_recorded_of_this_very_checkpoint_stands_on_the_card(
    hub: LocalHub, checkpoints: Path, samples: Path
) -> None:
    _record(checkpoints / "iter1", samples)
    assert export(checkpoints / "iter1", "--push-to-hub", "circles") == 0
    shared = hub.repos["anna/circles"]["files"]
    card = shared["README.md"].decode()
    assert shared["samples.png"].startswith(b"\x89PNG")
    assert "![The base and this model on the same prompts](samples.png)" in card
    assert "## Results on the prompts `test`" in card
    assert "| SPIN iter 1 | 61.0 [52.0, 70.0] |" in card
    assert "| dropped: without a caption | 2 |" in card
    assert '"learning_rate": 0.001' in card
    assert front_matter(card)["datasets"] == ["somebody/pictures"]

    # The same records after another training: they are of another model.
    lock = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(lock.replace(content_md5(checkpoints / "iter1"), "0" * 32 + ".dir"))
    assert export(checkpoints / "iter1", "--push-to-hub", "others", "--force") == 0
    shared = hub.repos["anna/others"]["files"]
    card = shared["README.md"].decode()
    assert "samples.png" not in shared
    assert not {"## Results", "## Data", "## Training"} & {line.split(" on")[0] for line in card.splitlines()}


def _record(checkpoint: Path, samples: Path) -> None:
    """A project's outputs and dvc.lock around a checkpoint, as far as a card looks at them."""
    folders = {name: Path("outputs") / name for name in ("data", "tables/test", "samples/test/iter1")}
    for name in ("data", "tables/test", "samples/test"):
        Path("outputs", name).mkdir(parents=True)
    for model in ("base", "iter1"):
        (samples / model).rename(Path("outputs/samples/test") / model)
    dropped = {"without a caption": 2}
    card = {"source": "somebody/pictures", "rows_read": 9, "dropped": dropped, "kept": {"train": 7}}
    write_json(folders["data"] / "card.json", card)
    (folders["tables/test"] / "winrate_over_base.md").write_text("| SPIN iter 1 | 61.0 [52.0, 70.0] |\n")
    entries = {path: {"path": path.as_posix(), "md5": content_md5(path)} for path in folders.values()}
    model = {"path": "outputs/checkpoints/iter1", "md5": content_md5(checkpoint)}
    data, tables, drawn = entries.values()
    scores = Path("outputs/scores/test")
    for name in ("base", "iter1"):
        write_json(scores / name / "scores.json", {"clip": 1.0})
    scored = {"path": (scores / "iter1").as_posix(), "md5": content_md5(scores / "iter1")}
    all_scores = {"path": scores.as_posix(), "md5": content_md5(scores)}
    settings = {"params.yaml": {"iterations.iter1": {"learning_rate": 0.001}}}
    stages = {
        "data": {"outs": [data]},
        "train@iter1": {"deps": [data], "outs": [model], "params": settings},
        "generate@test-iter1": {"deps": [model], "outs": [drawn]},
        "score@test-iter1": {"deps": [drawn], "outs": [scored]},
        "tables@test": {"deps": [all_scores], "outs": [tables]},
    }
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": stages}))


@pytest.mark.parametrize(
    ("token", "arguments", "message"),
    [
        ("hf_write", ["a b"], "must be NAME or OWNER/NAME as the hub writes it, got a b"),
        ("hf_write", ["a/b/c"], "must be NAME or OWNER/NAME"),
        ("hf_write", ["bob/circles"], "a place where anna may write (anna, lab), got bob/circles"),
        ("hf_write", ["zoo/circles"], "a place where anna may write (anna, lab), got zoo/circles"),
        ("hf_read", ["circles"], "needs a token that may write to anna/circles"),
        ("hf_fine", ["circles"], "needs a token that may write to anna/circles"),
        ("hf_nobody", ["circles"], "needs a token that the hub knows, but it refused this one"),
        (
            None,
            ["circles"],
            "needs a token of the hub, found none; log in with `hf auth login`, or set HF_TOKEN",
        ),
        ("hf_write", ["open"], "is private unless --public is given, but anna/open is there and public"),
        (
            "hf_write",
            ["circles", "--public"],
            "--public needs a licence for the card, but the base names none",
        ),
        ("hf_write", ["circles", "--license", "My own!"], "--license must be a name of the hub's"),
    ],
)
def test_what_the_hub_would_refuse_is_one_sentence_before_any_work(
    token: str | None,
    arguments: list[str],
    message: str,
    hub: LocalHub,
    checkpoints: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.repos["anna/open"] = {"private": False, "files": {}}
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    assert export(checkpoints / "iter1", "--push-to-hub", *arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not Path("lora").exists()
    assert not [each for each in hub.asked if not each.startswith("GET")]


def test_without_a_network_it_is_one_sentence(
    hub: LocalHub, checkpoints: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert export(checkpoints / "iter1", "--push-to-hub", "circles") == 2
    assert "the hub must say who you are, but it does not answer" in capsys.readouterr().err
    assert export(checkpoints / "iter1", "--public") == 2
    assert "--public and --license need --push-to-hub NAME" in capsys.readouterr().err


def test_an_organisation_and_a_token_for_it_alone(
    hub: LocalHub, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_fine")
    assert export(checkpoints / "iter1", "--push-to-hub", "lab/circles", out="unet", kind="unet") == 0
    assert hub.repos["lab/circles"]["private"] is True
    card = hub.repos["lab/circles"]["files"]["README.md"].decode()
    assert 'from_pretrained("lab/circles", subfolder="unet"' in card


def test_public_opens_it_and_a_single_file_is_brought_by_its_card(hub: LocalHub, checkpoints: Path) -> None:
    hub.repos["anna/circles"] = {"private": True, "files": {}}
    given = ["--push-to-hub", "circles", "--public", "--license", "mit"]
    assert export(checkpoints / "whole", *given, out="circles.safetensors", kind="single-file") == 0
    shared = hub.repos["anna/circles"]
    assert shared["private"] is False
    assert sorted(shared["files"]) == ["README.md", "circles.safetensors"]
    assert (
        "`hf download anna/circles circles.safetensors --local-dir .`"
        in shared["files"]["README.md"].decode()
    )


def test_a_refusal_at_the_end_leaves_the_export_and_says_so(
    hub: LocalHub, checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refuses_creation = True
    assert export(checkpoints / "iter1", "--push-to-hub", "circles") == 2
    said = capsys.readouterr().err
    assert "it answers 403" in said
    assert "lora is whole: run the same command again with --force" in said
    assert Path("lora/pytorch_lora_weights.safetensors").is_file()
