"""Training the embedded base and scorers from nothing: `spin toy build`, for those who maintain them.

A user never runs it: the assets are shipped in `spin/toy/assets`. Read first: `build`.
"""
