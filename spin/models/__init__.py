"""Model families behind one small interface."""

from spin.models.checkpoint import load_model, reference_of, save_checkpoint
from spin.models.stable_diffusion import StableDiffusion

__all__ = ["StableDiffusion", "load_model", "reference_of", "save_checkpoint"]
