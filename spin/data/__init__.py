"""From captioned images to what training reads: a manifest, prompt sets, cached latents and text embeddings."""
