"""Checkpoints in the formats that other tools read: `spin export`."""

from spin.export.formats import FORMATS, export_checkpoint

__all__ = ["FORMATS", "export_checkpoint"]
