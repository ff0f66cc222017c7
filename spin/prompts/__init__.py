"""Prompt sets for evaluation: the published ones, their counts checked, and any file of prompts.

May import `data` and what stands after it. Read first: `sets` (the way in), then `named` (the sets that have a name).
"""
