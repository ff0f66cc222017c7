"""Prefect tasks: each runs one DVC stage, retries it and shows what it made."""
