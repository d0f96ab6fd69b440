"""Files of problem lines -> problems: ours, and oneDNN benchdnn's shape and batch files as they are.

A line holds words: options, each for the problems behind it in the line, and problems.  Options that stand alone in a
line hold for the lines below it.  Blank lines and what follows a word that begins with `#` say nothing; a line that
ends in a backslash goes on in the next one.

benchdnn's own options ("knobs") hold until they are given again, or until --reset; of a list, every value in turn:

    --dt --cfg --sdt --ddt          the dtype
    --dir=FWD_B, FWD_D, FWD_I       with a bias, without
    --stag --dtag --tag             abx, nchw, ...: contiguous; axb, nhwc, ...: channels_last; any: either
    --attr-post-ops=relu, tanh, ... the activation
    --alg=max, avg_p, avg_np        poolings;  SOFTMAX, LOGSOFTMAX: softmaxes;  DIRECT, WINO, AUTO: convolutions
    --mb=N                          in place of the lines' own batch sizes, where it is not 0
    --batch=FILE                    the lines of another file, beside this one

What says how to run is not used.  Problems under any other value (int8, backward, blocked layouts, ...) are not ours,
and left out.  Both are warned of, by file and line.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..kernels.problem import CLASSES, INTEGERS, PoolProblem, Problem, ProblemError, parse
from . import UsageError

OPTIONS = {  # of problems of any kind
    option.name: option
    for cls in CLASSES.values()
    for option in dataclasses.fields(cls)
    if option.metadata.get("option")
}
DTYPES = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "s8": "int8",
    "u8": "uint8",
    "s32": "int32",
}
_TAGS = {
    **dict.fromkeys(("abx", "nchw", "abcd", "ncw", "abc", "nc", "ab"), "contiguous"),
    **dict.fromkeys(("axb", "nhwc", "acdb", "nwc", "acb"), "channels_last"),
}
_ALGORITHMS = {
    **{key: {} for key in ("direct", "wino", "auto")},
    **{key: {"op": "max_pool2d"} for key in ("max", "pooling_max")},
    **{key: {"op": "avg_pool2d", "count_include_pad": True} for key in ("avg_p", "pooling_avg_include_padding")},
    **{key: {"op": "avg_pool2d", "count_include_pad": False} for key in ("avg_np", "pooling_avg_exclude_padding")},
    **{key: {"op": "softmax"} for key in ("softmax", "softmax_accurate")},
    **{key: {"op": "log_softmax"} for key in ("logsoftmax", "softmax_log")},
}
_POST_OPS = {
    "": {},
    "relu": {"activation": "relu"},
    "tanh": {"activation": "tanh"},
    "logistic": {"activation": "sigmoid"},
    "gelu_erf": {"activation": "gelu"},
    "swish:1": {"activation": "silu"},
}

_Options = dict[str, Any]


def _dtype(value: str, name: str = "dtype") -> _Options | None:
    """Of one array, or of all where they are the same."""
    words = set(re.findall("bf16|f64|f32|f16|s32|s8|u8|.+", value.removesuffix("_wino").replace(":", "")))
    known = len(words) == 1 and words <= DTYPES.keys()
    return {name: DTYPES[words.pop()]} if known else None


def _tag(name: str) -> Callable[[str], _Options | None]:
    return lambda value: {} if value in ("any", "undef") else {name: _TAGS[value]} if value in _TAGS else None


# knob -> one of its values -> options of ours; None where no problem of ours is meant
_KNOBS: dict[str, Callable[[str], _Options | None]] = {
    "dt": _dtype,
    "cfg": _dtype,
    "sdt": _dtype,
    "ddt": lambda value: _dtype(value, "out_dtype"),
    "dir": lambda value: {"FWD_B": {"bias": True}, "FWD_D": {}, "FWD_I": {}}.get(value.upper()),
    "stag": _tag("source"),
    "dtag": _tag("destination"),
    "tag": _tag("source"),
    "alg": lambda value: _ALGORITHMS.get(value.lower()),
    "attr-post-ops": _POST_OPS.get,
    "mb": lambda value: {"mb": int(value)} if value.isdigit() else None,
    "wtag": lambda value: {} if value in ("any", "undef") else None,
    "attr-fpmath": lambda value: {} if value in ("", "strict") else None,
    **dict.fromkeys(
        ("attr-scales", "attr-zero-points", "attr-oscale", "strides", "match"), lambda value: None if value else {}
    ),
}
_ABOUT_RUNS = {
    *("allow-enum-tags-only", "attr-same-pd-check", "attr-scratchpad", "attr-deterministic", "attr-acc-mode"),
    *("canonical", "cold-cache", "cpu-isa-hints", "ctx-exe", "ctx-init", "engine", "execution-mode", "fast-ref"),
    *("fast-ref-gpu", "fix-times-per-prb", "global-impl", "impl", "inplace", "max-ms-per-prb", "mem-check"),
    *("memory-kind", "mode", "mode-modifier", "perf-template", "repeats-per-prb", "skip-impl", "start", "verbose"),
}


@dataclass
class _State:
    """What options that stand above a line say."""

    knobs: dict[str, list[tuple[str, _Options | None]]] = field(default_factory=dict)
    own: list[str] = field(default_factory=list)
    said: set[str] = field(default_factory=set)  # why problems are left out, until a knob is turned

    def combinations(self) -> Iterator[_Options | str]:
        """Options of ours for each combination of the knobs' values, or why there are none: "" where that is said."""
        for combination in itertools.product(*self.knobs.values()):
            options: _Options = {}
            for _, each in combination:
                options |= each or {}
            layouts = {options.pop(name) for name in ("source", "destination") if name in options}
            if any(each is None for _, each in combination):
                yield ""
            elif len(layouts) > 1:
                yield "its input and its output have different layouts"
            elif options.get("dtype") in INTEGERS and options.get("op") != "max_pool2d":
                yield f"its dtype is {options['dtype']}"
            else:
                yield {**options, **({"layout": layouts.pop()} if layouts else {})}


def read(path: Path, defaults: dict[str, str]) -> Iterator[Problem | str]:
    """The problems of a file, and a sentence for what is left out or not used.

    `defaults` are options of lines for which the file says nothing.  Raises UsageError, which names file and line.
    """
    yield from _read(path, defaults, _State(), ())


def _read(path: Path, defaults: dict[str, str], state: _State, outer: tuple[Path, ...]) -> Iterator[Problem | str]:
    for number, line in _lines(path):
        where, own, found = f"{path}:{number}", [], False
        for word in re.findall(r'(?:"[^"]*"|\S)+', line):
            if word.startswith("#"):
                break
            knob, _, value = word[2:].partition("=")
            if not word.startswith("--"):
                found = True
                yield from _problems(word, [*state.own, *own], state, defaults, where)
            elif knob == "batch":
                state.own, own = [*state.own, *own], []
                yield from _read(_included(path, value, outer, where), defaults, state, (*outer, path))
            elif knob == "reset":
                state.knobs, state.own, state.said = {}, [], set()
            elif knob in _ABOUT_RUNS:
                yield f"{where}: {word} is not used"
            elif knob in _KNOBS:
                state.said = set()
                state.knobs[knob] = [(one, _KNOBS[knob](one)) for one in value.strip('"').split(",")]
                foreign = ",".join(one for one, options in state.knobs[knob] if options is None)
                if foreign:
                    yield f"{where}: problems with --{knob}={foreign} are left out"
            elif knob.replace("-", "_") not in OPTIONS:
                near = difflib.get_close_matches(knob, [name.replace("_", "-") for name in OPTIONS], n=1)
                raise UsageError(f"{where}: unknown option --{knob}" + (f"; did you mean --{near[0]}?" if near else ""))
            else:
                own.append(word)
        if not found:
            state.own += own


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number of its first line, text) of each line, with those that it goes on in."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    text, first = "", 0
    for number, line in enumerate(lines, 1):
        text, first = text + line.strip(), first or number
        if text.endswith("\\"):
            text = text[:-1].rstrip()
            text += "" if text.endswith(",") else " "
            continue
        yield first, text
        text, first = "", 0
    if text:
        yield first, text


def _included(path: Path, name: str, outer: tuple[Path, ...], where: str) -> Path:
    included = path.parent / name
    if not included.is_file():
        raise UsageError(f"{where}: --batch={name}: there is no file {included}")
    if included.resolve() in {each.resolve() for each in (*outer, path)}:
        raise UsageError(f"{where}: --batch={name}: {included} is being read already")
    return included


def _problems(
    word: str, own: list[str], state: _State, defaults: dict[str, str], where: str
) -> Iterator[Problem | str]:
    """One word, once for each combination of the knobs' values."""
    for options in state.combinations():
        if isinstance(options, str):
            yield from _once(options, state, where)
            continue
        batch = options.pop("mb", 0)
        words = [f"--op={options.pop('op')}"] if "op" in options else []
        try:
            problem = parse(" ".join([*words, *own, word]), **{**defaults, **options})
        except ProblemError as error:
            if not str(error).startswith("3-D not supported"):
                raise UsageError(f"{where}: {error}") from None
            yield f"{where}: left out: {error}"
            return
        if options.get("layout") == "channels_last" and not hasattr(problem, "layout"):
            yield from _once(f"{problem.operation} has no layout", state, where)
            continue
        if "activation" in options and not hasattr(problem, "activation"):
            yield from _once(f"{problem.operation} has no activation", state, where)
            continue
        if isinstance(problem, PoolProblem) and problem.op == "avg_pool2d" and options.get("count_include_pad"):
            (_, bottom), (_, right) = problem.padding_sides()  # benchdnn divides by the window, wherever that lies
            problem = problem.replace(padding_end=(max(bottom, 0), max(right, 0)))
        yield problem.batched(batch) if batch else problem


def _once(reason: str, state: _State, where: str) -> Iterator[str]:
    """That problems are left out, where it has not been said yet."""
    if reason and reason not in state.said:
        state.said.add(reason)
        yield f"{where}: left out, as what follows under the same options: {reason}"
