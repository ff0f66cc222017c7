"""The embedded world: rendered scenes of two shapes with captions, an oracle that reads pixels, and shipped assets.

May import `seeding` and `errors`. Read first: `world`, then `oracle`; `assets/CARD.md` says how good the models are.
"""
