"""The strategy that operators choose when none is named: gpucnn bench smoke --strategy examples/fastest.py"""

from gpucnn.bench.chosen import Chosen

strategy = Chosen("fastest")
