"""The strategy that operators choose with prefer="ours": gpucnn bench smoke --strategy examples/ours.py"""

from gpucnn.bench.chosen import Chosen

strategy = Chosen("ours")
