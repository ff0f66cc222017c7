"""From photographs that Python packages ship to an exported LoRA, without the hub; read `README.md`, then `__main__.py`."""
