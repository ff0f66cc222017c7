"""Ours against the peers' way, in turns within one run; `benchmarks.run` is the command.

`subjects` keeps each contestant in processes of its own and gives them turns; `workspace` is what they work on; `ours`
and `peers` are the contestants. They need `spin` alone.
"""
