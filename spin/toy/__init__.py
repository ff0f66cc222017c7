"""The embedded default: a small world of rendered scenes, a base model of it and scorers trained on it."""
