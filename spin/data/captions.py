"""Captions: what counts as one, and which are held out."""

import heapq
import re
from collections.abc import Mapping

from spin.data.card import DataCard
from spin.seeding import derive_seed

LONG_CAPTION_WORDS = 75
"""CLIP's tokenizer keeps 75 tokens; a caption of more words is surely cut by it."""
MOST_IN_TRAINING = {"val": 50, "test": 500}
"""Training captions that are prompts where none is held out."""


def clean_caption(value: object, card: DataCard) -> str | None:
    """Return a caption with its white space made single blanks, or None after counting the row as dropped."""
    if value is None or value == "":
        card.drop("without a caption")
        return None
    if not isinstance(value, str):
        card.drop("with a caption that is not text")
        return None
    # Halves of surrogate pairs, which JSON can hold, are no text that a table or tokenizer could take.
    caption = " ".join(value.replace("\0", " ").encode("utf-8", "replace").decode().split())
    if not caption:
        card.drop("without a caption")
        return None
    return caption


def with_trigger(caption: str, trigger: str | None) -> str:
    """`trigger, caption`, unless there is none to teach or the caption has it as words of its own."""
    if trigger is None or re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", caption):
        return caption
    return f"{trigger}, {caption}"


def note_length(caption: str, card: DataCard) -> None:
    """Count a kept caption that the tokenizer is sure to cut."""
    if len(caption.split()) > LONG_CAPTION_WORDS:
        card.note(f"with a caption over {LONG_CAPTION_WORDS} words, which CLIP's tokenizer cuts")


class HeldOut:
    """The first captions by a hash, found in one pass and in memory that does not grow with the set.

    The choice depends on which captions there are, not on their order or their files. Adding captions can bring
    others to the front, so keep a set's held-out captions by keeping the set.
    """

    def __init__(self, num_val: int, num_test: int) -> None:
        self.num_val, self.num_test = num_val, num_test
        self._largest_first: list[tuple[int, str]] = []
        self._chosen: set[str] = set()

    @property
    def wanted(self) -> int:
        """How many captions are to be held out."""
        return self.num_val + self.num_test

    def offer(self, caption: str) -> None:
        """Consider one caption; offering it again changes nothing."""
        if caption in self._chosen or not self.wanted:
            return
        entry = (-derive_seed("hold out", caption), caption)
        if len(self._largest_first) < self.wanted:
            heapq.heappush(self._largest_first, entry)
        elif entry > self._largest_first[0]:
            self._chosen.discard(heapq.heappushpop(self._largest_first, entry)[1])
        else:
            return
        self._chosen.add(caption)

    def splits(self) -> dict[str, str]:
        """Return caption -> "val" or "test", in the order of the hash."""
        captions = [caption for _, caption in sorted(self._largest_first, reverse=True)]
        return {caption: "val" if index < self.num_val else "test" for index, caption in enumerate(captions)}


class InTraining:
    """The first training captions by the hash: the prompts of a split for which none is held out."""

    def __init__(self, num_val: int, num_test: int) -> None:
        self._most = {
            split: most
            for (split, most), number in zip(MOST_IN_TRAINING.items(), (num_val, num_test), strict=True)
            if not number
        }
        self._first = HeldOut(0, num_val + num_test + max(self._most.values()) if self._most else 0)

    def offer(self, caption: str) -> None:
        """Consider one caption."""
        self._first.offer(caption)

    def prompts(self, held_out: Mapping[str, str]) -> dict[str, list[str]]:
        """Split -> its prompts, of the captions that are not held out for the other one."""
        captions = [caption for caption in self._first.splits() if caption not in held_out]
        return {split: captions[:most] for split, most in self._most.items()}
