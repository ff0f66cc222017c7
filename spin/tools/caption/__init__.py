"""Captions for images that have none, by a model, for a person to correct. Read first: `command`, then `written`."""
