"""Prefect flows: what is run in which order, from a shell, from a page or by a schedule."""

from flows import (
    environment as environment,
)  # first of all: its switches must stand before Prefect is imported
