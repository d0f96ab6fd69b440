"""Records for tests."""

import math

from gpucnn.bench.records import SCHEMA, Accuracy, Provenance, Record, Timing, Work

LINE = 'g1mb1ic3ih6iw6oc4oh4ow4kh3kw3sh1sw1ph0pw0n"net:conv1"'


def make(strategy="numpy_direct", verdict="PASSED", cold_us=(10.0, 12.0, 11.0), problem=LINE, **changes):
    """A record; only one that passed has a timing."""
    fields = {
        "schema": SCHEMA,
        "problem": problem,
        "operation": "conv2d",
        "dtype": "float32",
        "layout": "contiguous",
        "strategy": strategy,
        "device": "cpu",
        "seed": 0,
        "verdict": verdict,
        "message": "",
        "algorithm": None,
        "accuracy": Accuracy(1.5e-7, 0.25, 64, 64),
        "timing": Timing("host", cold_us, (5.0, 6.0, 7.0), {}) if verdict == "PASSED" else None,
        "work": Work(3456, 3456, 1024, 0, 20.0, 100.0, 0.05),
        "provenance": Provenance(
            *("2026-01-02T03:04:05+00:00", "host", "Linux 6", "Some CPU", None, 2),
            *({"numpy": "2.0"}, "abc", False, {"load_average": 0.5}),
        ),
    }
    return Record(**{**fields, **changes})


ODD = make("odd", verdict="FAILED", message='y[0] is nan "quoted"\n', accuracy=Accuracy(math.nan, math.inf, 64, 64))
BARE = make("bare", verdict="UNSUPPORTED", accuracy=None, work=Work(1, None, 2, None, 20.0, 100.0, 0.05))
