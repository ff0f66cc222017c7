"""Checkpoints in the formats that other tools read. Read first: `formats`."""
