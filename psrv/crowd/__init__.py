"""Simulation with thousands of workers, on arrays in place of objects.

team.py      threads that divide the ranks
rows.py      the vectors of all ranks
draws.py     which rank sends which coordinates, from the compressors' own streams
kernels.py   loops over ranks; leaders.py: top-k of many rows
lines.py     the uplinks of all ranks in a bucket, by compressor
crowd.py     a round: lines, the server's relay, the replica
drive.py     all rounds: history, stopping, progress; checkpoint.py: going on later
"""

from psrv.crowd.crowd import Crowd, covers

__all__ = ["Crowd", "covers"]
