"""The example on photographs runs from the pictures to a LoRA that diffusers loads over the base."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.photographs.pictures import CUTS, write_pictures

ROOT = Path(__file__).resolve().parent.parent


def test_every_installed_photograph_gives_its_captioned_pictures(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the photographs of scikit-learn are not installed")
    number = write_pictures(tmp_path)
    lines = (tmp_path / "metadata.csv").read_text("utf-8").splitlines()
    assert len(list(tmp_path.glob("*.png"))) == number == len(lines) - 1
    assert number >= 16, "fewer are too few to train on"
    texts = [caption for cuts in CUTS.values() for _, caption in cuts]
    assert len(set(texts)) == len(texts), "a caption held out must not come back with another picture"
    assert all(re.fullmatch(r"[a-z ,]+", text) for text in texts), "the base's tokenizer has these letters"


@pytest.mark.slow
def test_it_goes_from_photographs_to_a_lora_that_changes_what_the_base_draws(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the photographs of scikit-learn are not installed")
    work = tmp_path / "work"
    command = [sys.executable, "-m", "examples.photographs", "--work", str(work), "--size", "tiny"]
    settings = {"HF_HUB_OFFLINE": "1", "SPIN_TRACKING": "off", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **settings})
    assert done.returncode == 0, done.stderr[-2000:]
    assert (work / "outputs" / "report" / "report.html").is_file()
    assert "the embedded aesthetic, clip learned from 32x32 scenes" in done.stderr

    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(work / "tiny-sd")
    before = pipeline.unet.state_dict().keys()
    pipeline.load_lora_weights(work / "lora")
    assert len(pipeline.unet.state_dict()) > len(before)
    assert pipeline.get_active_adapters()
