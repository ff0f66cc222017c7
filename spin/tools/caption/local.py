"""A captioning model of transformers on this machine: BLIP (Li et al. 2022, arXiv:2201.12086) or Florence-2 (Xiao et al.
2023, arXiv:2311.06242). Weights from safetensors alone, and no code but that of the installed library."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from spin.errors import ModelError, ParamsError
from spin.runtime.devices import default_device
from spin.runtime.hub import fetch, is_hub_id

PROMPTS: dict[str, str | None] = {"blip": None, "florence2": "<MORE_DETAILED_CAPTION>"}
"""Model type -> what it is asked unless told. Florence-2 knows tasks; BLIP goes on with the words that it is given."""
TASKS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
FILES = ("*.json", "*.txt", "*.safetensors")


class LocalCaptioner:
    """RGB images -> captions, without chance: the likeliest words by the model's own search."""

    def __init__(
        self, source: str, revision: str | None, prompt: str | None, max_tokens: int, device: str | None
    ) -> None:
        """Load the model; raises `ModelError` if it is not one of these or does not load, `ParamsError` for its prompt."""
        folder = _folder(source, revision)
        kind = _model_type(source, folder)
        self._prompt = PROMPTS[kind] if prompt is None else prompt
        if kind == "florence2" and self._prompt not in TASKS:
            raise ParamsError(
                f"--prompt must be one of {', '.join(TASKS)} for Florence-2, got {prompt}; choose one."
            )
        self._max_tokens = max_tokens
        self._device = torch.device(_usable(device or default_device()))
        self._processor, self._model = _load(source, folder)
        most = self._model.config.get_text_config(decoder=True).max_position_embeddings // 2
        if max_tokens > most:
            raise ParamsError(
                f"--max-tokens must be at most {most} with this model, got {max_tokens}; lower it."
            )
        self._model.to(self._device).eval()

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """Caption some images together."""
        asked = {} if self._prompt is None else {"text": [self._prompt] * len(images)}
        inputs = self._processor(images=list(images), return_tensors="pt", **asked).to(self._device)
        try:
            said = self._model.generate(**inputs, max_new_tokens=self._max_tokens, do_sample=False)
        except torch.OutOfMemoryError:
            raise ModelError(
                f"{len(images)} images must fit into the memory of {self._device} at a time, but they do not; lower "
                "--batch-size and run the same command: it goes on."
            ) from None
        captions: list[str] = self._processor.batch_decode(said, skip_special_tokens=True)
        return captions


def _folder(source: str, revision: str | None) -> Path:
    if Path(source).is_dir() or not is_hub_id(source):
        return Path(source)
    return fetch("--model", source, revision, FILES)


def _model_type(source: str, folder: Path) -> str:
    """What the folder's config calls the model; raises `ModelError` for what is not here or not known."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
        if not isinstance(kind, str):
            raise TypeError("a model_type must be text")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ModelError(
            f"--model must be a captioning model's folder or hub id, but {source} has no config.json that names a "
            "model_type; check the path."
        ) from None
    if kind not in PROMPTS:
        raise ModelError(
            f"--model must be of the type {' or '.join(PROMPTS)}, but {source} is of the type {kind}; choose another, or "
            "let a server load it and name that with --endpoint."
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"--model must have its weights as .safetensors, but {source} has none; choose one that has."
        )
    return kind


def _load(source: str, folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    local: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        model, loaded = AutoModelForImageTextToText.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **local
        )
        processor = AutoProcessor.from_pretrained(folder, **local)
    except Exception as error:  # of the library on a stranger's files: any
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"--model must be a whole captioning model, but {source} does not load ({reason}); fetch it again or "
            "choose another."
        ) from None
    lacking = sorted(loaded["missing_keys"]) + sorted(str(key) for key in loaded["mismatched_keys"])
    if lacking:  # they would be drawn at random
        raise ModelError(
            f"--model must be a whole captioning model, but {source} lacks {len(lacking)} of its weights, such as "
            f"{lacking[0]}; choose one in the layout of transformers."
        )
    return processor, model


def _usable(device: str) -> str:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ParamsError(
            f"--device must be one that this machine has, got {device} ({reason}); leave it out or give cpu."
        ) from None
    return device
