"""SPIN-Diffusion: self-play fine-tuning of text-to-image diffusion models (arXiv:2402.10210).

The library knows the method and nothing of orchestration. Its rooms, each importing only what stands after it:
cli > tools, stages > training, evaluation > prompts, sampling > data > models, rewards, tracking >
method, toy, params, runtime > seeding, errors, paths. Read first: `spin.method.losses`.
"""

__version__ = "0.1.0"
