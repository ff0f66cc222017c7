"""Two models' samples for the arena: which models, and how many prompts."""

MODELS = ["iter1", "base"]
PROMPTS = 6
