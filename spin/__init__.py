"""SPIN-Diffusion: self-play fine-tuning of text-to-image diffusion models (arXiv:2402.10210).

The library knows the method and nothing of orchestration: `schedule`, `objectives` and `train` are the
mathematics, `models` the model families, `data` and `sampling` what a training set is made of, `rewards` and
`evaluation` how a result is judged. `cli` offers one subcommand per stage of the pipeline.
"""

__version__ = "0.1.0"
