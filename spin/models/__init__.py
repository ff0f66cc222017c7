"""Model families behind one interface: Stable Diffusion 1 and 2, XL and 3.

May import `method`, `params`, `runtime` and what stands after them. Read first: `latent_diffusion` (the interface), then
`stable_diffusion`; `checkpoint` loads and saves, `lora` the adapters, `find` the places weights come from, `flops` counts.
"""
