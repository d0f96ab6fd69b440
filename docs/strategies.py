"""What strategies.md and memory.md count and tabulate, from the strategies themselves: `python docs/strategies.py`.

What stands between two comments of a page is made anew, by the function below that the first one names:

    <!-- flops:begin -->
    <!-- flops:end -->

No strategy runs, and a GPU is not looked at: the tables are the same on every machine that has all packages.
"""

from __future__ import annotations

import argparse
import fnmatch
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from gpucnn.bench.report import figures
from gpucnn.kernels.conv.numpy_fft import spectrum_size
from gpucnn.kernels.problem import DTYPES, LAYOUTS, PADDING_MODES, ConvProblem, Problem, parse
from gpucnn.kernels.strategy import STRATEGIES, Missing, StagedStrategy, Strategy, load, strategies

PAGES = [Path(__file__).with_name(name) for name in ("strategies.md", "memory.md")]
PLACE = re.compile(r"(<!-- (\w+):begin ?(.*?) -->\n).*?(<!-- \2:end -->)", re.DOTALL)
FAMILY = "conv."

# Heading in tables -> layer, in half precision, channels last: as networks run on tensor cores.  Batches are such that
# no strategy cuts them to keep within its workspace: it would move more than its workspace tells then.
LAYERS = {
    "VGG 3×3": 'mb16ic128ih56oc256kh3ph1n"VGG-16, conv3_1"',
    "ResNet 3×3": 'mb16ic128ih28oc128kh3ph1n"ResNet-50, res3a_branch2b"',
    "1×1": 'mb16ic256ih14oc1024kh1n"ResNet-50, res4a_branch2c"',
    "stem": 'mb16ic3ih224oc64oh112kh7sh2ph3n"ResNet-50, conv1"',
    "grouped": 'g32mb16ic128ih56oc128kh3ph1n"ResNeXt-50 32×4d, conv2"',
    "depthwise": 'g512mb16ic512ih14oc512kh3ph1n"MobileNet, at 14×14"',
    "11×11": 'mb16ic64ih56oc64kh11ph5n"none: 64 channels, a large filter"',
    "dw 31×31": 'g128mb1ic128ih56oc128kh31ph15n"RepLKNet-31B, stage 1"',
}
OPTIONS = {"dtype": "float16", "layout": "channels_last"}

# What memory.md counts on: of each operator of the suites pool, softmax and linear one or two.
STREAMING = {
    "max pooling 3×3/2": '--op=max_pool2d mb32ic64ih112oh56kh3sh2ph1n"ResNet-50, pool1"',
    "max pooling 3×3/1": '--op=max_pool2d mb32ic480ih14kh3ph1n"GoogLeNet, 4a"',
    "global average": '--op=adaptive_avg_pool2d mb32ic2048ih7oh1n"ResNet-50, pool5"',
    "unpooling": '--op=max_unpool2d mb32ic64ih112oh224n"SegNet, unpool1"',
    "softmax": '--op=softmax 256x1000n"ResNet-50, softmax"',
    "softmax, long rows": "--op=softmax 256x262144",
    "softmax, pixels": '--op=softmax --axis=1 1x21x500x500n"FCN"',
    "loss": '--op=cross_entropy 8192x50257n"GPT-2"',
    "linear, batch 1": '--op=linear --bias --activation=relu mb1ic25088oc4096n"VGG-16, fc6"',
    "linear, batch 256": '--op=linear --bias --activation=relu mb256ic25088oc4096n"VGG-16, fc6"',
}
STREAMED = ("pool", "rowwise", "gemm")  # families

# Key -> layers; rows of (what, formula, unit).  A formula has the layer's letters, `e` bytes an element, `L` values of
# the FFT's plane, and every name to which a row before it, `name = formula`, gave a value.
Rows = tuple[tuple[str, str, str], ...]
COUNTS: dict[str, tuple[tuple[str, ...], Rows]] = {
    "layer": (
        ("ResNet 3×3", "1×1", "depthwise"),
        (
            ("FLOPs, two for each multiply-add", "F = 2*N*K*P*Q * C/G*R*S", "FLOP"),
            ("input", "x = N*C*H*W * e", "B"),
            ("filters", "w = K*C/G*R*S * e", "B"),
            ("output", "y = N*K*P*Q * e", "B"),
            ("intensity at best", "F / (x + w + y)", "FLOP/B"),
        ),
    ),
    "direct": (
        ("ResNet 3×3",),
        (
            ("inputs staged for a tile of 8·16 pixels, a channel", "t = (8 + R - 1) * (16 + S - 1)", ""),
            ("inputs, once per 64 filters", "x = N*P*Q/(8*16) * t * C * e * K/64", "B"),
            ("filters, once per tile of pixels", "w = K*C*R*S * e * N*P*Q/(8*16)", "B"),
            ("FLOPs for each byte staged", "2*N*K*P*Q*C*R*S / (x + w)", "FLOP/B"),
            ("multiply-adds for each value read from shared memory, 8·4 a thread", "8*4 / (8 + 4)", ""),
        ),
    ),
    "depthwise": (
        ("depthwise", "dw 31×31"),
        (
            ("FLOPs", "F = 2*N*K*P*Q * C/G*R*S", "FLOP"),
            ("input, filters and output, once each", "B = (N*C*H*W + K*C/G*R*S + N*K*P*Q) * e", "B"),
            ("intensity", "F / B", "FLOP/B"),
            ("loads for an output, each window read anew", "R*S", ""),
            ("loads for an output, in a strip of 4·2 outputs", "(4 + R - 1)*(2 + S - 1) / (4*2)", ""),
        ),
    ),
    "im2col": (
        ("ResNet 3×3", "depthwise"),
        (
            ("columns", "c = N*P*Q * C*R*S * e", "B"),
            ("columns for each input", "c / (N*C*H*W * e)", "×"),
            ("input, filters and output, once each", "m = (N*C*H*W + K*C/G*R*S + N*K*P*Q) * e", "B"),
            ("traffic, the columns written and read", "m + 2*c", "B"),
            ("traffic by the minimum", "(m + 2*c) / m", "×"),
            ("intensity", "2*N*K*P*Q * C/G*R*S / (m + 2*c)", "FLOP/B"),
        ),
    ),
    "implicit": (
        ("ResNet 3×3",),
        (
            ("tiles of 128 filters and 128 pixels", "t = K/128 * N*P*Q/128", ""),
            ("operands of a tile", "b = (128 + 128) * C*R*S * e", "B"),
            ("operands of all tiles", "t * b", "B"),
            ("FLOPs for each of these bytes", "2*N*K*P*Q*C*R*S / (t * b)", "FLOP/B"),
            ("from memory, if L2 keeps what tiles share", "(N*C*H*W + K*C*R*S + N*K*P*Q) * e", "B"),
        ),
    ),
    "winograd": (
        ("VGG 3×3", "ResNet 3×3"),
        (
            ("input, filters and output, once each", "m = (N*C*H*W + K*C*R*S + N*K*P*Q) * e", "B"),
            ("F(2,3): tiles of 2·2 outputs", "t = N * P/2 * Q/2", ""),
            ("F(2,3): products", "p = 2*16 * K*C * t", "FLOP"),
            ("F(2,3): products by the textbook's FLOPs", "p / (2*N*K*P*Q*C*R*S)", "×"),
            ("F(2,3): U in float32", "u = 16 * K*C * 4", "B"),
            ("F(2,3): V and M in float32", "v = 16 * (C + K) * t * 4", "B"),
            ("F(2,3): traffic by the minimum, fused", "(m + 2*u) / m", "×"),
            ("F(2,3): traffic by the minimum, in stages", "(m + 2*(u + v)) / m", "×"),
            ("F(4,3): tiles of 4·4 outputs", "t = N * P/4 * Q/4", ""),
            ("F(4,3): products", "p = 2*36 * K*C * t", "FLOP"),
            ("F(4,3): products by the textbook's FLOPs", "p / (2*N*K*P*Q*C*R*S)", "×"),
            ("F(4,3): U, V and M in float32", "v = 36 * (K*C + (C + K) * t) * 4", "B"),
            ("F(4,3): traffic by the minimum, in stages", "(m + 2*v) / m", "×"),
        ),
    ),
    "fft": (
        ("ResNet 3×3", "11×11", "dw 31×31"),
        (
            ("values of a padded plane", "L", ""),
            ("planes of x, w and y", "z = N*C + K*C/G + N*K", ""),
            ("transforms", "t = 2.5*L*log2(L) * z", "FLOP"),
            ("products", "p = 8 * L/2 * N*K*C/G", "FLOP"),
            ("both, by the textbook's FLOPs", "(t + p) / (2*N*K*P*Q * C/G*R*S)", "×"),
            ("spectra", "s = 8 * L/2 * z", "B"),
            ("spectra by the least traffic", "s / ((N*C*H*W + K*C/G*R*S + N*K*P*Q) * e)", "×"),
        ),
    ),
    "stem": (
        ("stem",),
        (
            ("FLOPs", "F = 2*N*K*P*Q * C*R*S", "FLOP"),
            ("input, filters and output, once each", "B = (N*C*H*W + K*C*R*S + N*K*P*Q) * e", "B"),
            ("intensity", "F / B", "FLOP/B"),
            ("padded copy of four channels, stride 2", "c = N * (2*(P - 1) + R) * (2*(Q - 1) + S) * 4 * e", "B"),
            ("traffic by the minimum, the copy written and read", "(B + 2*c) / B", "×"),
            ("products, those with the fourth channel too", "4 / C", "×"),
            ("loads for a window, each number by itself", "C*R*S", ""),
            ("loads for a window, a pixel at a time", "R*S", ""),
        ),
    ),
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A Markdown table, whose first columns are words and the others numbers."""
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def layer(heading: str) -> ConvProblem:
    return parse(LAYERS[heading], **OPTIONS)


def quantity(value: float, unit: str) -> str:
    """A number with its unit, SI prefix and at most three digits.

    >>> quantity(7.4e9, "FLOP"), quantity(295000, "B"), quantity(9, "×"), quantity(25088, "")
    ('7.4 GFLOP', '295 kB', '9×', '25088')
    """
    if unit == "" and value == int(value):
        return str(int(value))
    if unit not in ("FLOP", "B"):
        return figures(value) + (unit if unit == "×" else f" {unit}" if unit else "")
    power = min(max(int(math.log10(value or 1) // 3), 0), 4)
    return f"{figures(value / 1000**power)} {' kMGT'[power].strip()}{unit}"


# Strategies and their sections ----------------------------------------------------------------------------------------


def registered() -> list[Strategy]:
    """The convolutions of the registry; ModuleNotFoundError where one lacks a package."""
    found = strategies("conv2d")
    if missing := [strategy.reason for strategy in found if isinstance(strategy, Missing)]:
        raise ModuleNotFoundError(" ".join(missing))
    return found


def link(name: str, family: str = "conv") -> str:
    return f"[{name}](../kernels/{family}/{name}.py)"


def refused(strategy: Strategy, problem: Problem) -> list[str]:
    """Why it does not compute the problem where it runs best, whatever this machine has."""
    return strategy.limits(problem, "cuda" if "cuda" in strategy.devices else "cpu")


def modules(patterns: str) -> str:
    """Links to the modules of a section's strategies."""
    names = [entry.removeprefix(FAMILY) for entry in STRATEGIES if entry.startswith(FAMILY)]
    chosen = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns.split())]
    return f"Modules: {', '.join(map(link, chosen))}." if chosen else ""


# Tables ---------------------------------------------------------------------------------------------------------------


def layers(_: str) -> str:
    """What each layer is, does and moves at least."""
    rows = []
    for heading in LAYERS:
        p = layer(heading)
        line = parse(LAYERS[heading]).replace(name="").text(minimal=True)
        intensity = f"{figures(p.flops() / p.min_bytes())} FLOP/B"
        rows.append(
            (heading, p.name, f"`{line}`", quantity(p.flops(), "FLOP"), quantity(p.min_bytes(), "B"), intensity)
        )
    return table(("layer", "of", "problem", "FLOPs", "least traffic", "intensity"), rows, words=3)


def counts(key: str) -> str:
    """A section's formulas, and their values for its layers."""
    headings, formulas = COUNTS[key]
    found = [evaluate(formulas, layer(heading)) for heading in headings]
    rows = []
    for what, formula, unit in formulas:
        shown = re.sub(r"\s*\*\s*", "·", formula)
        rows.append((what, f"`{shown}`", *(quantity(values[what], unit) for values in found)))
    return table(("", "counted", *headings), rows, words=2)


def evaluate(formulas: Rows, problem: ConvProblem) -> dict[str, float]:
    """What a row is -> its formula's value for a layer."""
    p, found = problem, {}
    known: dict[str, Any] = {
        "N": p.n, "C": p.c, "H": p.h, "W": p.w, "K": p.k, "P": p.p, "Q": p.q, "R": p.r, "S": p.s, "G": p.groups,
        "e": DTYPES[p.dtype], "L": math.prod(spectrum_size(p)), "log2": math.log2,
    }  # fmt: skip
    for what, formula, _ in formulas:
        name, _, right = formula.rpartition(" = ")
        found[what] = eval(right, {"__builtins__": {}}, known)
        known |= {name: found[what]} if name else {}
    return found


def cells(value: Callable[[Strategy, ConvProblem], str], of: Iterable[Strategy]) -> str:
    """Strategies by layers; – where the strategy does not compute the layer."""
    problems = [layer(heading) for heading in LAYERS]
    return table(
        ("strategy", *LAYERS),
        ((link(s.name), *("–" if refused(s, p) else value(s, p) for p in problems)) for s in of),
    )


def flops(_: str) -> str:
    """Executed FLOPs by the textbook's."""
    ours = [strategy for strategy in registered() if strategy.algorithm != "vendor"]
    return cells(lambda s, p: f"{figures(s.executed_flops(p) / p.flops())}×", ours)


def workspace_bytes(strategy: Strategy, problem: Problem) -> int:
    """Without a library's own work area, which takes a GPU to know."""
    if isinstance(strategy, StagedStrategy):
        return StagedStrategy.workspace_bytes(strategy, problem)
    return strategy.workspace_bytes(problem)


def traffic(_: str) -> str:
    """Workspace, and the least traffic with it; then who has none."""

    def cell(strategy: Strategy, problem: ConvProblem) -> str:
        extra, least = workspace_bytes(strategy, problem), problem.min_bytes()
        return f"{quantity(extra, 'B')}, {figures((least + 2 * extra) / least)}×" if extra else "0"

    problems = [layer(heading) for heading in LAYERS]
    some, none = [], []
    for s in registered():
        if s.algorithm != "vendor":
            (some if any(not refused(s, p) and workspace_bytes(s, p) for p in problems) else none).append(s)
    return f"{cells(cell, some)}\n\nWithout workspace: {', '.join(link(s.name) for s in none)}."


# What each strategy takes: problems that differ from one that it takes in one parameter -------------------------------

FIELDS = {
    "g": 1, "ic": 64, "oc": 64, "ih": 36, "iw": 36, "kh": 3, "kw": 3,
    "sh": 1, "sw": 1, "dh": 0, "dw": 0, "ph": 1, "pw": 1,
}  # fmt: skip
BASES = ({}, {"g": 64}, {"ic": 3, "kh": 7, "kw": 7, "sh": 2, "sw": 2, "ph": 3, "pw": 3})  # dense, depthwise, stem
FLAVOURS = ({}, {"layout": "channels_last"}, {"dtype": "float16"}, {"dtype": "float16", "layout": "channels_last"})

Change = dict[str, Any]


def window(r: int, s: int) -> Change:
    return {"kh": r, "kw": s, "ph": (r - 1) // 2, "pw": (s - 1) // 2}


# Column -> {value: what it changes}.  A function of the base's fields where that depends on them.
PROBES: dict[str, dict[str, Change | Callable[[Change], Change]]] = {
    "filter": {
        f"{r}×{s}": window(r, s) for r, s in ((1, 1), (2, 2), (3, 3), (1, 7), (5, 5), (7, 7), (11, 11), (31, 31))
    },
    "stride": {
        **{f"{h}×{w}": {"sh": h, "sw": w} for h, w in ((1, 1), (2, 2), (1, 2), (3, 3))},
        "2×2 in odd sizes": {"sh": 2, "sw": 2, "ih": 35, "iw": 35},
    },
    "dilation": {f"{h}×{w}": {"dh": h - 1, "dw": w - 1} for h, w in ((1, 1), (2, 2), (1, 3))},
    "groups": {
        "1": {"g": 1},
        "2": {"g": 2, "ic": 128, "oc": 128},
        "of 4 channels": {"g": 16, "ic": 64},
        "of 1 channel": lambda base: {"g": base["ic"], "oc": base["ic"]},
        "of 1, 2 filters": lambda base: {"g": base["ic"], "oc": 2 * base["ic"]},
    },
    "channels": {
        str(c): lambda base, c=c: {"ic": c, **({"g": c, "oc": c} if base["g"] > 1 else {})} for c in (1, 3, 17, 64, 100)
    },
    "filters": {
        str(k): lambda base, k=k: {"oc": k, **({"g": k, "ic": k} if base["g"] > 1 else {})} for k in (1, 17, 64, 100)
    },
    "padding": {
        "none": {"ph": 0, "pw": 0},
        "equal": lambda base: {"ph": base["kh"] // 2, "pw": base["kw"] // 2},
        "uneven": {"ph": 0, "pw": 0, "more": 1},
        "beyond the filter": lambda base: {"ph": base["kh"] + 1, "pw": base["kw"] + 1},
    },
    "padding mode": {
        mode: {"padding_mode": mode, "padding_value": 1.0 if mode == "constant" else 0.0} for mode in PADDING_MODES
    },
    "layout": {layout: {"layout": layout} for layout in LAYOUTS},
    "dtype": {
        "TF32" if tf32 else dtype: {"dtype": dtype, "allow_tf32": tf32}
        for dtype, tf32 in (*((dtype, False) for dtype in DTYPES), ("float32", True))
    },
}


def probe(fields: Change) -> ConvProblem:
    """The problem of benchdnn's fields and of options; `more` outputs along each axis pad below and to the right."""
    options = {name: value for name, value in fields.items() if name not in FIELDS and name != "more"}
    problem, more = parse("mb2" + "".join(f"{name}{fields[name]}" for name in FIELDS)), fields.get("more", 0)
    return problem.replace(p=problem.p + more, q=problem.q + more, **options)


def base_of(strategy: Strategy) -> Change:
    """The first of the bases, in the first flavour, that the strategy takes."""
    for flavour in FLAVOURS:
        for base in BASES:
            fields = {**FIELDS, **base, **flavour}
            if not refused(strategy, probe(fields)):
                return fields
    raise ValueError(f"{strategy.name} takes none of the problems from which parameters are varied")


def probed(strategy: Strategy) -> dict[str, dict[str, list[str]]]:
    """Column -> value -> why the strategy refuses it."""
    base = base_of(strategy)
    return {
        column: {
            value: refused(strategy, probe({**base, **(change(base) if callable(change) else change)}))
            for value, change in values.items()
        }
        for column, values in PROBES.items()
    }


def taken(reasons: dict[str, list[str]]) -> str:
    """all; all but the few that are refused; or those that are not."""
    yes = [value for value, why in reasons.items() if not why]
    no = [value for value, why in reasons.items() if why]
    if not no:
        return "all"
    return f"all but {no[0]}" if len(no) == 1 < len(yes) else "; ".join(yes)


def parameters(_: str) -> str:
    """Strategies by parameters: what each takes of the values that are tried."""
    tried = table(("tried", *PROBES), [("", *("; ".join(values) for values in PROBES.values()))], words=1 + len(PROBES))
    rows = []
    for strategy in registered():
        found = probed(strategy)
        rows.append((link(strategy.name), *(taken(reasons) for reasons in found.values())))
    return tried + "\n\n" + table(("strategy", *PROBES), rows, words=1 + len(PROBES))


def refusals(_: str) -> str:
    """Each strategy's own first sentences on each parameter that it refuses; those of the same sentences together."""
    said: dict[str, list[str]] = {}
    for strategy in registered():
        sentences: dict[str, None] = {}
        for reasons in probed(strategy).values():
            sentences.update(dict.fromkeys(next(filter(None, reasons.values()), [])))
        said.setdefault(" ".join(sentences), []).append(f"`{strategy.name}`")
    return "\n".join(f"- {', '.join(names)}: {sentences}" for sentences, names in said.items() if sentences)


# What memory.md has --------------------------------------------------------------------------------------------------


def streaming() -> dict[str, Problem]:
    """Heading -> problem."""
    return {heading: parse(line, **OPTIONS) for heading, line in STREAMING.items()}


def moved(_: str) -> str:
    """Of each problem: the bytes that must move, the FLOPs, and these by those."""
    rows = []
    for heading, problem in streaming().items():
        flops, least = problem.flops(), problem.min_bytes()
        line = f"`{problem.unnamed().text(minimal=True)}`"
        rows.append((heading, line, quantity(least, "B"), quantity(flops, "FLOP"), figures(flops / least)))
    return table(("layer", "problem", "must move", "FLOPs", "FLOPs a byte"), rows, words=2)


def launched(_: str) -> str:
    """Strategies by problems: how many launches, and the workspace where there is some."""

    def cell(strategy: Strategy, problem: Problem) -> str:
        if problem.operation not in strategy.operations or refused(strategy, problem):
            return "–"
        count = len(strategy.steps(problem)) if isinstance(strategy, StagedStrategy) else 1
        extra = workspace_bytes(strategy, problem)
        return f"{count}, {quantity(extra, 'B')}" if extra else str(count)

    problems, rows = streaming(), []
    for family, name in (entry.split(".") for entry in STRATEGIES):
        if family in STREAMED and name.startswith(("cupy_", "triton_")):
            strategy = load(f"{family}.{name}")
            rows.append((link(name, family), *(cell(strategy, problem) for problem in problems.values())))
    return table(("strategy", *problems), rows)


TABLES = {
    function.__name__: function
    for function in (modules, layers, counts, flops, traffic, parameters, refusals, moved, launched)
}


def generate(text: str) -> str:
    """The page with everything between its comments made anew."""
    return PLACE.sub(lambda place: f"{place[1]}\n{TABLES[place[2]](place[3])}\n\n{place[4]}", text)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pages", type=Path, nargs="*", default=PAGES, help="the pages; both if left out")
    pages = parser.parse_args(arguments).pages
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a strategy may choose its tiles by the GPU at hand
    for page in pages:
        page.write_text(generate(page.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"{page} is up to date.")


if __name__ == "__main__":
    main()
