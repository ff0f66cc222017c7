"""Prompt sets for evaluation: the published ones, their counts checked, and any file of prompts."""

from spin.prompts.named import NAMED
from spin.prompts.sets import load_prompt_set

__all__ = ["NAMED", "load_prompt_set"]
"""`load_prompt_set(spec, source=None)` is the way in; `NAMED` lists the sets that have a name."""
