"""From captioned images to what training reads: a manifest, prompt sets, cached latents and text embeddings.

May import `models` and what stands after it. Read first: `manifest` (what a data set is), then `prepare` (one entry for
every kind of source) and `cache` (encoded once, read by row).
"""
