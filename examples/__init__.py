"""Worked examples, each a package that `python -m` runs."""
