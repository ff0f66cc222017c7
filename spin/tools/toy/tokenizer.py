"""A word-level CLIP tokenizer for the world's captions, in the real format (vocab.json and merges.txt)."""

import json
from collections.abc import Sequence
from pathlib import Path

from spin.toy.world import BACKGROUNDS, COLOURS, RELATIONS, SHAPES

MAX_LENGTH = 16  # "a red circle left of a blue square on white" is 10 words, plus start and end
START, END = "<|startoftext|>", "<|endoftext|>"


def caption_words() -> list[str]:
    """Every word a caption can hold."""
    relations = " ".join(RELATIONS).split()
    return sorted({"a", "on", *relations, *COLOURS, *SHAPES, *BACKGROUNDS})


def vocabulary(words: Sequence[str] | None = None) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return (token -> id, merges): letters, then each word built up letter by letter, then start and end.

    `words` are those of the world's captions, or others of the letters a to z.
    """
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in caption_words() if words is None else words:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        built = pieces[0]
        for piece in pieces[1:]:
            if (built, piece) not in merges:
                merges.append((built, piece))
            built += piece
            if built not in tokens:
                tokens.append(built)
    return {token: index for index, token in enumerate([*tokens, START, END])}, merges


def write_tokenizer(folder: Path, words: Sequence[str] | None = None, max_length: int = MAX_LENGTH) -> None:
    """Write a tokenizer of `vocabulary(words)` that `transformers.CLIPTokenizer.from_pretrained(folder)` loads."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab, merges = vocabulary(words)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": max_length,
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
