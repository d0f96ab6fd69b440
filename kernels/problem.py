"""Problems: what is to be computed, as one line of text that parses back to itself.

A line is oneDNN benchdnn's descriptor, with the options that benchdnn does not have in front of it:

    g1mb50ic3ih224iw224oc64oh112ow112kh7kw7sh2sw2ph3pw3n"resnet_50:conv1*1"
    --dtype=float16 --activation=relu g1mb1ic64ih56iw56oc64oh56ow56kh3kw3sh1sw1ph1pw1
    --op=max_pool2d mb1ic64ih112iw112oh56ow56kh3kw3sh2sw2ph1pw1
    --op=adaptive_avg_pool2d mb1ic2048ih7iw7oh1ow1
    --op=max_unpool2d mb1ic64ih56iw56oh112ow112
    --op=softmax --axis=1 64x1000
    --op=cross_entropy 64x1000
    --op=linear mb32ic2048oc1000

benchdnn's rules hold: fields may be divided by underscores; where no width is given, width = height; where only a
width is given, the problem is one row high; `mb` defaults to 2, `g` and strides to 1; `dh0` is PyTorch's dilation 1;
an output size that is not given follows from the padding, and a padding that is not given from the output size;
padding below and to the right follows from the output size.  `*k` at the end of the name says how often a layer occurs.

Symbols: N C H W input, K R S filter, P Q output, G groups.  Source: oneDNN, tests/benchdnn/doc/knobs_desc.md.
"""

from __future__ import annotations

import dataclasses
import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

DTYPES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}  # name -> bytes an element
INTEGERS = {"int8": 1, "uint8": 1, "int32": 4}  # which maxima are taken of, too
POSITIONS = "int64"  # of indices and of labels
SIZES = {**DTYPES, **INTEGERS, POSITIONS: 8}  # of every array that a problem may have
LAYOUTS = ("contiguous", "channels_last")
PADDING_MODES = ("zeros", "constant", "reflect", "replicate", "circular")
ACTIVATIONS = ("relu", "tanh", "sigmoid", "gelu", "silu")
POOL_OPS = ("max_pool2d", "avg_pool2d", "sum_pool2d", "lp_pool2d")
ADAPTIVE_POOL_OPS = ("adaptive_max_pool2d", "adaptive_avg_pool2d")
SOFTMAX_OPS = ("softmax", "log_softmax")
REDUCTIONS = ("mean", "sum", "none")
_POOL_OPTION_OWNERS = {
    "return_indices": "max_pool2d",
    "count_include_pad": "avg_pool2d",
    "divisor_override": "avg_pool2d",
    "norm_type": "lp_pool2d",
}

Shape = tuple[int, ...]


class ProblemError(ValueError):
    """A problem that is malformed or has no meaning; the message names the field, its value and what is allowed."""


# One spatial axis -----------------------------------------------------------------------------------------------------


def window_extent(size: int, dilation: int) -> int:
    """How many input positions a window of `size` taps spans.

    >>> window_extent(3, 1), window_extent(3, 2)
    (3, 5)
    """
    return (size - 1) * dilation + 1


def output_size(
    size: int, window: int, stride: int, before: int, after: int, dilation: int = 1, ceil: bool = False
) -> int:
    """Outputs along one axis; with `ceil`, a window may hang over the end but must start before it (PyTorch's rule).

    >>> output_size(224, 7, 2, 3, 3), output_size(112, 3, 2, 0, 0), output_size(112, 3, 2, 0, 0, ceil=True)
    (112, 55, 56)
    """
    span = size + before + after - window_extent(window, dilation)
    if not ceil:
        return span // stride + 1
    out = -(-span // stride) + 1
    return out - 1 if (out - 1) * stride >= size + before else out


def padding_after(size: int, out: int, window: int, stride: int, before: int, dilation: int) -> int:
    """Padding after the end that `out` outputs reach into; negative where the last inputs are never read."""
    return (out - 1) * stride + window_extent(window, dilation) - size - before


@lru_cache(maxsize=4096)
def _inputs_read(size: int, out: int, window: int, stride: int, before: int, dilation: int) -> int:
    """How many of `size` inputs along an axis are read by some window."""
    return len({p * stride - before + r * dilation for p in range(out) for r in range(window)} & set(range(size)))


# The line -------------------------------------------------------------------------------------------------------------

_FIELD = re.compile(r"_*([a-z]+)(-?\d*)")


def _fields(line: str, offset: int, known: tuple[str, ...]) -> tuple[dict[str, int], str]:
    """`mb2ic3..n"name"` -> ({field: value}, name); `offset` is what stood before it, in positions that errors name."""
    values: dict[str, int] = {}
    at = 0
    while at < len(line):
        match = _FIELD.match(line, at)
        if not match:
            raise ProblemError(f"expected a field at position {offset + at}, found {line[at:]!r}")
        key, digits = match.groups()
        if key.startswith("n") and key not in known:  # the name is the rest of the line
            name = line[match.start(1) + 1 :]
            return values, name[1:-1] if len(name) >= 2 and name[0] == name[-1] == '"' else name
        where = f"at position {offset + match.start(1)}"
        if key in ("id", "od", "kd", "sd", "pd", "dd"):
            raise ProblemError(f"3-D not supported: field {key!r} with value {digits!r} {where}")
        if key not in known:
            raise ProblemError(f"unknown field {key!r} with value {digits!r} {where}; known: {', '.join(known)}")
        if key in values:
            raise ProblemError(f"field {key!r} given twice, the second time with value {digits!r}, {where}")
        if not digits.isdigit():
            found = digits or line[match.end() : match.end() + 8]
            raise ProblemError(f"field {key!r} has value {found!r}, expected a number >= 0, {where}")
        values[key] = int(digits)
        at = match.end()
    return values, ""


@dataclass(frozen=True)
class _Axis:
    """One spatial axis of a window operation, as a line gives it."""

    size: int
    out: int
    window: int
    stride: int
    before: int
    dilation: int

    @classmethod
    def absent(cls) -> _Axis:
        return cls(1, 1, 1, 1, 0, 1)

    @classmethod
    def of(cls, values: dict[str, int], axis: str) -> _Axis | None:
        given = {key[0]: value for key, value in values.items() if len(key) == 2 and key[1] == axis}
        if not given:
            return None
        for key in "ik":
            if key not in given:
                raise ProblemError(f"field '{key}{axis}' is missing")
        size, window, stride, dilation = given["i"], given["k"], given.get("s", 1), given.get("d", 0) + 1
        if stride < 1:
            raise ProblemError(f"field 's{axis}' has value {stride}, expected >= 1")
        out, before = given.get("o"), given.get("p")
        if out is None:
            before = before or 0
            out = output_size(size, window, stride, before, before, dilation)
            if out < 1:
                raise ProblemError(f"no output along {axis}: 'k{axis}' {window} is larger than the padded 'i{axis}'")
        elif before is None:
            before = int(padding_after(size, out, window, stride, 0, dilation) / 2)
            if before < 0:
                raise ProblemError(
                    f"field 'o{axis}' has value {out}: the padding deduced from it, {before}, is negative"
                )
        return cls(size, out, window, stride, before, dilation)

    def minimal(self, axis: str) -> str:
        """The fewest fields from which `of` deduces the rest."""
        text = f"i{axis}{self.size}"
        same = output_size(self.size, self.window, self.stride, self.before, self.before, self.dilation) == self.out
        text += "" if same else f"o{axis}{self.out}"
        text += f"k{axis}{self.window}"
        text += f"s{axis}{self.stride}" if self.stride > 1 else ""
        text += f"p{axis}{self.before}" if self.before or not same else ""
        return text + (f"d{axis}{self.dilation - 1}" if self.dilation > 1 else "")


_WINDOW_FIELDS = tuple(key + axis for key in "iokspd" for axis in "hw")


def _axes(values: dict[str, int]) -> tuple[_Axis, _Axis]:
    h, w = _Axis.of(values, "h"), _Axis.of(values, "w")
    if h is None and w is None:
        raise ProblemError("field 'ih' (or 'iw') is missing")
    if w is None:
        assert h is not None
        return h, h
    return h or _Axis.absent(), w


# Problems -------------------------------------------------------------------------------------------------------------


def option(default: Any, allowed: tuple[Any, ...] | None = None, always: bool = False) -> Any:
    """A dataclass field that is `--name=value` in front of the descriptor: where it is not `default`, or `always`."""
    return dataclasses.field(default=default, metadata={"option": True, "allowed": allowed, "always": always})


@dataclass(frozen=True, kw_only=True)
class Problem(ABC):
    """What every problem has: options, a name, and a text form with `parse(str(p)) == p`."""

    name: str = ""
    dtype: str = option("float32", tuple(DTYPES))

    @property
    @abstractmethod
    def operation(self) -> str:
        """The operator's name in `gpucnn.kernels`: conv2d, max_pool2d, softmax, ..."""

    @abstractmethod
    def inputs(self) -> dict[str, Shape]:
        """The input arrays in the order in which a launch takes them: name -> shape."""

    @abstractmethod
    def outputs(self) -> dict[str, Shape]:
        """The output arrays in the order in which a launch takes them: name -> shape."""

    def dtypes(self) -> dict[str, str]:
        """Every input's and output's dtype by name."""
        positions = ("indices", "target")
        return {name: POSITIONS if name in positions else self.dtype for name in (*self.inputs(), *self.outputs())}

    @abstractmethod
    def flops(self) -> int:
        """Floating-point operations of the textbook's algorithm (a multiply-add counts as two)."""

    def min_bytes(self) -> int:
        """Bytes that must cross memory: every input that is used, read once; every output, written once."""
        dtypes = self.dtypes()
        return sum(
            math.prod(shape) * SIZES[dtypes[name]] for name, shape in {**self.inputs(), **self.outputs()}.items()
        )

    @abstractmethod
    def reduction_length(self) -> int:
        """How many terms are summed for one output; the length that error bounds grow with."""

    @abstractmethod
    def descriptor(self, minimal: bool = False) -> str:
        """The line without options."""

    @classmethod
    @abstractmethod
    def parse_descriptor(cls, line: str, offset: int, **options: Any) -> Problem:
        """The problem of a line without options, which stand in `offset` characters before it."""

    @property
    def count(self) -> int:
        """How often this layer occurs in its network: the `*k` at the end of the name.

        >>> parse('mb1ic64ih56oc64kh3ph1n"resnet_50:res2a_branch2b*3"').count
        3
        """
        match = re.search(r"\*(\d+)$", self.name)
        return int(match[1]) if match else 1

    def replace(self, **changes: Any) -> Any:
        """A copy with some fields changed.

        >>> str(parse("mb1ic8ih4oc8kh1").replace(dtype="float16"))
        '--dtype=float16 g1mb1ic8ih4iw4oc8oh4ow4kh1kw1sh1sw1ph0pw0'
        """
        return dataclasses.replace(self, **changes)

    def batched(self, size: int) -> Any:
        """The same layer on a batch of another size.

        >>> str(parse("mb1ic8ih4oc8kh1").batched(32)), str(parse("--op=softmax 1x1000").batched(32))
        ('g1mb32ic8ih4iw4oc8oh4ow4kh1kw1sh1sw1ph0pw0', '--op=softmax --axis=1 32x1000')
        """
        return self.replace(n=size)

    def unnamed(self) -> Any:
        """The same work without its name: what caches and tuned tables are keyed by."""
        return self.replace(name="") if self.name else self

    def options(self) -> list[str]:
        """The options that differ from their default, as they stand in the line and on the command line."""
        words = [] if self.operation == "conv2d" else [f"--op={self.operation}"]
        for field in dataclasses.fields(self):
            value, always = getattr(self, field.name), field.metadata.get("always")
            if not field.metadata.get("option") or field.name == "op" or (value == field.default and not always):
                continue
            flag = "--" + field.name.replace("_", "-")
            text = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words.append(flag if value is True else f"{flag}={'false' if value is False else text}")
        return words

    def text(self, minimal: bool = False) -> str:
        """Options, then the descriptor: canonical, or with every field left out that follows from the others.

        >>> parse('mb1ic3ih224oc64oh112kh7sh2ph3').text(minimal=True)
        'mb1ic3oc64ih224kh7sh2ph3'
        """
        name = f'n"{self.name}"' if self.name else ""
        return " ".join([*self.options(), self.descriptor(minimal) + name])

    def __str__(self) -> str:
        return self.text()

    def _check(self, at_least: dict[str, int]) -> None:
        for field in dataclasses.fields(self):
            allowed, value = field.metadata.get("allowed"), getattr(self, field.name)
            if allowed and value not in allowed:
                raise ProblemError(f"{field.name} is {value!r}, expected one of {', '.join(map(repr, allowed))}")
        for name, least in at_least.items():
            values = getattr(self, name)
            for value in values if isinstance(values, tuple) else (values,):
                if not isinstance(value, int) or isinstance(value, bool) or value < least:
                    raise ProblemError(f"{name} is {values!r}, expected integers >= {least}")

    def _bytes(self, elements: int) -> int:
        return elements * SIZES[self.dtype]


def _maximal(problem: Problem, op: str) -> None:
    """ProblemError for integers where `op`, of which `problem` is one, does more than to compare."""
    if problem.dtype in INTEGERS and "max" not in op:
        raise ProblemError(f"dtype is {problem.dtype}, which maxima are taken of, not {op}")


@dataclass(frozen=True, kw_only=True)
class ConvProblem(Problem):
    """y[n,k,p,q] = act(b[k] + sum over c,r,s of x[n, c, p*stride-pad+r*dilation, ...] * w[k,c,r,s]), in groups.

    `padding` is (top, left); what is below and to the right follows from the output size (p, q): `padding_sides()`.
    Arrays: x (N,C,H,W), w (K,C/G,R,S), b (K,) where `bias`, y (N,K,P,Q).
    """

    n: int
    c: int
    h: int
    w: int
    k: int
    p: int
    q: int
    r: int
    s: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    allow_tf32: bool = option(False, (False, True))
    layout: str = option("contiguous", LAYOUTS)
    padding_mode: str = option("zeros", PADDING_MODES)
    padding_value: float = option(0.0)
    bias: bool = option(False, (False, True))
    activation: str | None = option(None, (None, *ACTIVATIONS))

    def __post_init__(self) -> None:
        self._check({"n": 0, "c": 0, "h": 0, "w": 0, "k": 1, "p": 0, "q": 0, "r": 1, "s": 1})
        self._check({"stride": 1, "padding": 0, "dilation": 1, "groups": 1})
        if self.c % self.groups or self.k % self.groups:
            raise ProblemError(f"groups is {self.groups}, expected a divisor of C = {self.c} and of K = {self.k}")
        if self.padding_mode != "constant" and self.padding_value != 0.0:
            raise ProblemError(f"padding_value is {self.padding_value}: only padding_mode 'constant' takes one")
        if self.allow_tf32 and self.dtype != "float32":
            raise ProblemError(f"allow_tf32 is for dtype float32, not {self.dtype}")
        limit = {"reflect": 1, "circular": 0}.get(self.padding_mode)
        for name, size, sides in zip("HW", (self.h, self.w), self.padding_sides(), strict=True):
            if limit is not None and max(sides) > size - limit:
                raise ProblemError(
                    f"padding is {sides} along {name}, expected at most {size - limit} for {name} = {size} "
                    f"with padding_mode {self.padding_mode!r}"
                )
            if self.padding_mode == "replicate" and size == 0 and max(sides) > 0:
                raise ProblemError(f"padding_mode 'replicate' has nothing to repeat: {name} = 0")

    @property
    def operation(self) -> str:
        return "conv2d"

    def padding_sides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """((top, bottom), (left, right)); the end is negative where the last rows or columns are never read.

        >>> parse("mb1ic3ih224oc64kh7sh2ph3").padding_sides()
        ((3, 2), (3, 2))
        """
        top, left = self.padding
        return (
            (top, padding_after(self.h, self.p, self.r, self.stride[0], top, self.dilation[0])),
            (left, padding_after(self.w, self.q, self.s, self.stride[1], left, self.dilation[1])),
        )

    def is_padded(self) -> bool:
        """Whether some window reaches beyond its input.

        >>> parse("mb1ic3ih5oc4kh3").is_padded(), parse("mb1ic3ih5oc4kh3ph1").is_padded()
        (False, True)
        """
        return any(side > 0 for sides in self.padding_sides() for side in sides)

    def is_pixelwise(self) -> bool:
        """Whether every output reads the one input at its own place: a 1x1 filter, with neither stride nor padding.

        >>> parse("mb1ic3ih5oc4kh1").is_pixelwise(), parse("mb1ic3ih5oc4kh1sh2").is_pixelwise()
        (True, False)
        """
        return not self.is_padded() and (self.r, self.s, self.h, self.w) == (1, 1, self.p, self.q)

    def inputs(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {
            "x": (self.n, self.c, self.h, self.w),
            "w": (self.k, self.c // self.groups, self.r, self.s),
        }
        return {**shapes, "b": (self.k,)} if self.bias else shapes

    def outputs(self) -> dict[str, Shape]:
        return {"y": (self.n, self.k, self.p, self.q)}

    def reduction_length(self) -> int:
        return self.c // self.groups * self.r * self.s

    def flops(self) -> int:
        """Those of the direct algorithm, taps in the padding counted too; bias and activation are not.

        >>> parse("mb1ic64ih56oc64kh3ph1").flops()
        231211008
        """
        return 2 * self.n * self.k * self.p * self.q * self.reduction_length()

    def min_bytes(self) -> int:
        rows = _inputs_read(self.h, self.p, self.r, self.stride[0], self.padding[0], self.dilation[0])
        cols = _inputs_read(self.w, self.q, self.s, self.stride[1], self.padding[1], self.dilation[1])
        weights = self.k * self.reduction_length() + (self.k if self.bias else 0)
        return self._bytes(self.n * self.c * rows * cols + weights + self.n * self.k * self.p * self.q)

    def descriptor(self, minimal: bool = False) -> str:
        if minimal:
            groups = f"g{self.groups}" if self.groups > 1 else ""
            return f"{groups}mb{self.n}ic{self.c}oc{self.k}{_minimal_window(self)}"
        return f"g{self.groups}mb{self.n}ic{self.c}{_canonical_window(self, f'oc{self.k}')}"

    @classmethod
    def parse_descriptor(cls, line: str, offset: int, **options: Any) -> ConvProblem:
        values, name = _fields(line, offset, ("g", "mb", "ic", "oc", *_WINDOW_FIELDS))
        _require(values, ("ic", "oc"))
        sizes = {"n": values.get("mb", 2), "c": values["ic"], "k": values["oc"], "groups": values.get("g", 1)}
        return cls(name=name, **sizes, **_parse_window(values), **options)


@dataclass(frozen=True, kw_only=True)
class PoolProblem(Problem):
    """A reduction over a window of each plane: max, average, sum, or the p-norm `(average of x**norm * R*S)**(1/norm)`.

    `op` names the operator.  `padding` is (top, left); the rest follows from (p, q).  `padding_end` is (bottom, right)
    as declared; it decides the divisor of an average whose window hangs over the end (ceil_mode) and matters nowhere
    else, where it is None.  Arrays: x (N,C,H,W), y (N,C,P,Q), and with `return_indices` indices (N,C,P,Q), int64, flat
    in (H,W).  Integers (INTEGERS) have maxima alone.
    """

    op: str = option("max_pool2d", POOL_OPS)
    dtype: str = option("float32", (*DTYPES, *INTEGERS))
    n: int
    c: int
    h: int
    w: int
    p: int
    q: int
    r: int
    s: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    padding_end: tuple[int, int] | None = option(None)
    count_include_pad: bool = option(True, (True, False))
    divisor_override: int | None = option(None)
    norm_type: float = option(2.0)
    return_indices: bool = option(False, (False, True))
    layout: str = option("contiguous", LAYOUTS)

    def __post_init__(self) -> None:
        self._check({"n": 0, "c": 0, "h": 1, "w": 1, "p": 0, "q": 0, "r": 1, "s": 1})
        self._check({"stride": 1, "padding": 0, "dilation": 1})
        _maximal(self, self.op)
        for field in dataclasses.fields(self):
            owner, value = _POOL_OPTION_OWNERS.get(field.name, self.op), getattr(self, field.name)
            if owner != self.op and value != field.default:
                raise ProblemError(f"{field.name} is {value!r}, which {owner} takes, not {self.op}")
        if self.divisor_override == 0:
            raise ProblemError("divisor_override is 0, expected another integer")
        if self.norm_type <= 0:
            raise ProblemError(f"norm_type is {self.norm_type}, expected > 0")
        counted = self.op == "avg_pool2d" and self.count_include_pad and self.divisor_override is None
        if not counted or self.padding_end == self._deduced_end():
            object.__setattr__(self, "padding_end", None)

    def _deduced_end(self) -> tuple[int, int]:
        """(bottom, right) padding where none is declared: as before the start, or what more the outputs need."""
        axes = zip(
            (self.h, self.w),
            (self.p, self.q),
            (self.r, self.s),
            self.stride,
            self.padding_sides(),
            self.dilation,
            strict=True,
        )
        bottom, right = (
            before if out <= output_size(size, window, stride, before, before, dilation, ceil=True) else after
            for size, out, window, stride, (before, after), dilation in axes
        )
        return bottom, right

    @property
    def operation(self) -> str:
        return self.op

    padding_sides = ConvProblem.padding_sides

    def counted_end(self) -> tuple[int, int]:
        """(bottom, right) padding that `count_include_pad` counts into an average's divisor."""
        return self.padding_end or self._deduced_end()

    def inputs(self) -> dict[str, Shape]:
        return {"x": (self.n, self.c, self.h, self.w)}

    def outputs(self) -> dict[str, Shape]:
        y = (self.n, self.c, self.p, self.q)
        return {"y": y, "indices": y} if self.return_indices else {"y": y}

    def reduction_length(self) -> int:
        return self.r * self.s

    def flops(self) -> int:
        """One comparison or addition a tap; the p-norm's powers count as one more.

        >>> parse("--op=max_pool2d mb1ic64ih112kh3sh2ph1").flops()
        1806336
        """
        taps = self.n * self.c * self.p * self.q * self.r * self.s
        return 2 * taps if self.op == "lp_pool2d" else taps

    def min_bytes(self) -> int:
        rows = _inputs_read(self.h, self.p, self.r, self.stride[0], self.padding[0], self.dilation[0])
        cols = _inputs_read(self.w, self.q, self.s, self.stride[1], self.padding[1], self.dilation[1])
        out = self.n * self.c * self.p * self.q
        return self._bytes(self.n * self.c * rows * cols + out) + (8 * out if self.return_indices else 0)

    def descriptor(self, minimal: bool = False) -> str:
        return f"mb{self.n}ic{self.c}{_minimal_window(self) if minimal else _canonical_window(self)}"

    @classmethod
    def parse_descriptor(cls, line: str, offset: int, **options: Any) -> PoolProblem:
        values, name = _fields(line, offset, ("mb", "ic", *_WINDOW_FIELDS))
        _require(values, ("ic",))
        return cls(name=name, n=values.get("mb", 2), c=values["ic"], **_parse_window(values), **options)


@dataclass(frozen=True, kw_only=True)
class _Planes(Problem):
    """What problems from planes (H,W) to planes (P,Q) have in common."""

    n: int
    c: int
    h: int
    w: int
    p: int
    q: int

    def descriptor(self, minimal: bool = False) -> str:
        square = minimal and (self.h, self.p) == (self.w, self.q)
        sizes = f"ih{self.h}oh{self.p}" if square else f"ih{self.h}iw{self.w}oh{self.p}ow{self.q}"
        return f"mb{self.n}ic{self.c}{sizes}"

    @classmethod
    def parse_descriptor(cls, line: str, offset: int, **options: Any) -> Self:
        values, name = _fields(line, offset, ("mb", "ic", "ih", "iw", "oh", "ow"))
        _require(values, ("ic", "ih", "oh"))
        if ("iw" in values) != ("ow" in values):
            raise ProblemError("fields 'iw' and 'ow' go together")
        h, p = values["ih"], values["oh"]
        return cls(
            name=name,
            n=values.get("mb", 2),
            c=values["ic"],
            h=h,
            w=values.get("iw", h),
            p=p,
            q=values.get("ow", p),
            **options,
        )


@dataclass(frozen=True, kw_only=True)
class AdaptivePoolProblem(_Planes):
    """Pooling to a given output size: window p covers rows floor(p*H/P) up to ceil((p+1)*H/P), PyTorch's rule.

    Arrays: x (N,C,H,W), y (N,C,P,Q), and with `return_indices` (max only) indices (N,C,P,Q), int64, flat in (H,W).
    """

    op: str = option("adaptive_avg_pool2d", ADAPTIVE_POOL_OPS)
    dtype: str = option("float32", (*DTYPES, *INTEGERS))
    return_indices: bool = option(False, (False, True))
    layout: str = option("contiguous", LAYOUTS)

    def __post_init__(self) -> None:
        self._check({"n": 0, "c": 0, "h": 1, "w": 1, "p": 0, "q": 0})
        _maximal(self, self.op)
        if self.return_indices and self.op != "adaptive_max_pool2d":
            raise ProblemError(f"return_indices is True, which adaptive_max_pool2d takes, not {self.op}")

    @property
    def operation(self) -> str:
        return self.op

    inputs = PoolProblem.inputs
    outputs = PoolProblem.outputs

    def windows(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """[(start, end)] of each output row's window, and of each output column's.

        >>> parse("--op=adaptive_avg_pool2d mb1ic1ih7iw4oh3ow2").windows()
        ([(0, 3), (2, 5), (4, 7)], [(0, 2), (2, 4)])
        """

        def along(size: int, out: int) -> list[tuple[int, int]]:
            return [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]

        return along(self.h, self.p), along(self.w, self.q)

    def reduction_length(self) -> int:
        rows, cols = self.windows()
        return max((b - a for a, b in rows), default=0) * max((b - a for a, b in cols), default=0)

    def flops(self) -> int:
        rows, cols = self.windows()
        return self.n * self.c * sum(b - a for a, b in rows) * sum(b - a for a, b in cols)

    def min_bytes(self) -> int:
        return super().min_bytes() if self.p * self.q else 0


@dataclass(frozen=True, kw_only=True)
class UnpoolProblem(_Planes):
    """The inverse of max pooling: x put where its maxima stood, zero elsewhere.

    Arrays: x (N,C,H,W); indices (N,C,H,W), int64, flat in (P,Q), the same for several x only where these are equal, as
    those of overlapping windows are; one outside of the plane is left out; y (N,C,P,Q).
    """

    layout: str = option("contiguous", LAYOUTS)

    def __post_init__(self) -> None:
        self._check({"n": 0, "c": 0, "h": 1, "w": 1, "p": 1, "q": 1})

    @property
    def operation(self) -> str:
        return "max_unpool2d"

    def inputs(self) -> dict[str, Shape]:
        shape = (self.n, self.c, self.h, self.w)
        return {"x": shape, "indices": shape}

    def outputs(self) -> dict[str, Shape]:
        return {"y": (self.n, self.c, self.p, self.q)}

    def reduction_length(self) -> int:
        return 1

    def flops(self) -> int:
        return 0


class _Rows(Problem):
    """What problems along one axis have in common: an array `dims` seen as (outer, length, inner)."""

    dims: Shape
    axis: int

    def rows(self) -> tuple[int, int, int]:
        """(outer, length, inner): the sizes before, along and behind the axis.

        >>> parse("--op=softmax --axis=1 2x10x4x4").rows()
        (2, 10, 16)
        """
        return math.prod(self.dims[: self.axis]), self.dims[self.axis], math.prod(self.dims[self.axis + 1 :])

    def reduction_length(self) -> int:
        return self.dims[self.axis]

    def descriptor(self, minimal: bool = False) -> str:
        return "x".join(map(str, self.dims))

    @classmethod
    def parse_descriptor(cls, line: str, offset: int, **options: Any) -> Self:
        sizes, _, name = line.partition("n")
        words = sizes.rstrip("_").split("x")
        for position, word in enumerate(words):
            if not word.isdigit():
                raise ProblemError(f"dimension {position} has value {word!r}, expected a number >= 0")
        return cls(name=name.strip('"'), dims=tuple(map(int, words)), **options)  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True, kw_only=True)
class SoftmaxProblem(_Rows):
    """y = exp(x - max) / sum(exp(x - max)) along one axis, or its logarithm.  Arrays: x and y of shape `dims`.

    out_dtype   y's dtype where it is not x's; sums are taken as for x, and y is rounded once
    row_stride  where the axis is the last one: elements from a row of x to the next, if more than the row has
    """

    op: str = option("softmax", SOFTMAX_OPS)
    dims: Shape
    axis: int = option(1, always=True)
    out_dtype: str | None = option(None, (None, *DTYPES))
    row_stride: int | None = option(None)

    def __post_init__(self) -> None:
        self._check({"dims": 0})
        if not -len(self.dims) <= self.axis < len(self.dims):
            raise ProblemError(
                f"axis is {self.axis}, expected {-len(self.dims)} to {len(self.dims) - 1} for shape {self.dims}"
            )
        object.__setattr__(self, "axis", self.axis % len(self.dims))
        if self.out_dtype == self.dtype:
            object.__setattr__(self, "out_dtype", None)
        if self.row_stride is not None:
            self._check({"row_stride": self.dims[-1]})
            if self.axis != len(self.dims) - 1:
                raise ProblemError(f"row_stride is {self.row_stride}, which is for the last axis, not axis {self.axis}")
            if self.row_stride == self.dims[-1]:
                object.__setattr__(self, "row_stride", None)

    @property
    def operation(self) -> str:
        return self.op

    def batched(self, size: int) -> SoftmaxProblem:
        return self.replace(dims=(size, *self.dims[1:])) if self.axis else self

    def lead(self) -> int:
        """Elements from a row of x to the next, where none of the axes behind its own has more than one."""
        return self.row_stride or self.dims[self.axis]

    def inputs(self) -> dict[str, Shape]:
        return {"x": self.dims}

    def outputs(self) -> dict[str, Shape]:
        return {"y": self.dims}

    def dtypes(self) -> dict[str, str]:
        return {"x": self.dtype, "y": self.out_dtype or self.dtype}

    def flops(self) -> int:
        """Five an element: maximum, subtract, exponential, add, divide."""
        return 5 * math.prod(self.dims)


@dataclass(frozen=True, kw_only=True)
class CrossEntropyProblem(_Rows):
    """The loss of a classifier: log(sum over classes of exp(x)) less x of the target's class, by the softmax's rules.

    Arrays: x (N, C, d...), with the classes along axis 1; target (N, d...), int64; y (N, d...), or (1,) where the
    losses are added up ("sum"), or added up and divided by their number ("mean").  A target that is `ignore_index` has
    the loss 0 and is not counted; the loss of any other that is no class is NaN.
    """

    dims: Shape
    reduction: str = option("mean", REDUCTIONS)
    ignore_index: int = option(-100)

    def __post_init__(self) -> None:
        self._check({"dims": 0})
        if len(self.dims) < 2 or self.dims[1] < 1:
            raise ProblemError(f"x has shape {self.dims}, expected (N, C, ...) with C >= 1")

    @property
    def operation(self) -> str:
        return "cross_entropy"

    @property
    def axis(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1

    def batched(self, size: int) -> CrossEntropyProblem:
        return self.replace(dims=(size, *self.dims[1:]))

    def inputs(self) -> dict[str, Shape]:
        return {"x": self.dims, "target": (self.dims[0], *self.dims[2:])}

    def outputs(self) -> dict[str, Shape]:
        return {"y": self.inputs()["target"] if self.reduction == "none" else (1,)}

    def flops(self) -> int:
        """Four an element: maximum, subtract, exponential, add."""
        return 4 * math.prod(self.dims)


@dataclass(frozen=True, kw_only=True)
class LinearProblem(Problem):
    """y = act(x @ w.T + b).  Arrays: x (N,C), w (K,C), b (K,) where `bias`, y (N,K)."""

    n: int
    c: int
    k: int
    allow_tf32: bool = option(False, (False, True))
    bias: bool = option(False, (False, True))
    activation: str | None = option(None, (None, *ACTIVATIONS))

    def __post_init__(self) -> None:
        self._check({"n": 0, "c": 0, "k": 0})
        if self.allow_tf32 and self.dtype != "float32":
            raise ProblemError(f"allow_tf32 is for dtype float32, not {self.dtype}")

    @property
    def operation(self) -> str:
        return "linear"

    def inputs(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {"x": (self.n, self.c), "w": (self.k, self.c)}
        return {**shapes, "b": (self.k,)} if self.bias else shapes

    def outputs(self) -> dict[str, Shape]:
        return {"y": (self.n, self.k)}

    def reduction_length(self) -> int:
        return self.c

    def flops(self) -> int:
        return 2 * self.n * self.c * self.k

    def descriptor(self, minimal: bool = False) -> str:
        return f"mb{self.n}ic{self.c}oc{self.k}"

    @classmethod
    def parse_descriptor(cls, line: str, offset: int, **options: Any) -> LinearProblem:
        values, name = _fields(line, offset, ("mb", "ic", "oc"))
        _require(values, ("ic", "oc"))
        return cls(name=name, n=values.get("mb", 2), c=values["ic"], k=values["oc"], **options)


# Text -----------------------------------------------------------------------------------------------------------------


def _require(values: dict[str, int], keys: tuple[str, ...]) -> None:
    for key in keys:
        if key not in values:
            raise ProblemError(f"field {key!r} is missing")


def _parse_window(values: dict[str, int]) -> dict[str, Any]:
    h, w = _axes(values)
    sizes = {"h": h.size, "w": w.size, "p": h.out, "q": w.out, "r": h.window, "s": w.window}
    return {
        **sizes,
        "stride": (h.stride, w.stride),
        "padding": (h.before, w.before),
        "dilation": (h.dilation, w.dilation),
    }


def _canonical_window(problem: Any, filters: str = "") -> str:
    (sh, sw), (ph, pw), (dh, dw) = problem.stride, problem.padding, problem.dilation
    sizes = f"ih{problem.h}iw{problem.w}{filters}oh{problem.p}ow{problem.q}kh{problem.r}kw{problem.s}"
    return sizes + f"sh{sh}sw{sw}ph{ph}pw{pw}" + (f"dh{dh - 1}dw{dw - 1}" if (dh, dw) != (1, 1) else "")


def _minimal_window(problem: Any) -> str:
    h = _Axis(problem.h, problem.p, problem.r, problem.stride[0], problem.padding[0], problem.dilation[0])
    w = _Axis(problem.w, problem.q, problem.s, problem.stride[1], problem.padding[1], problem.dilation[1])
    if h == w:
        return h.minimal("h")
    return w.minimal("w") if h == _Axis.absent() else h.minimal("h") + w.minimal("w")


CLASSES: dict[str, type[Problem]] = {  # by operation
    "conv2d": ConvProblem,
    "linear": LinearProblem,
    **dict.fromkeys(POOL_OPS, PoolProblem),
    **dict.fromkeys(ADAPTIVE_POOL_OPS, AdaptivePoolProblem),
    "max_unpool2d": UnpoolProblem,
    **dict.fromkeys(SOFTMAX_OPS, SoftmaxProblem),
    "cross_entropy": CrossEntropyProblem,
}
OPERATIONS = tuple(CLASSES)


def _option_value(field: dataclasses.Field[Any], text: str | None) -> Any:
    """The value of `--name=text` (text None: a bare `--name`), read as the field's default or annotation says."""
    kind = str(field.type)
    try:
        if "bool" in kind:
            return {None: True, "true": True, "false": False}[text]
        if text is None:
            raise ValueError
        if "tuple" in kind:
            first, second = text.split("x")
            return int(first), int(second)
        return (
            int(text)
            if "int" in kind
            else float(text)
            if "float" in kind
            else None
            if (text, kind) == ("none", "str | None")
            else text
        )
    except (KeyError, ValueError):
        raise ProblemError(f"option --{field.name.replace('_', '-')} has value {text!r}, expected {kind}") from None


def parse(line: str, **defaults: Any) -> Any:
    """A line -> its problem.  `defaults` are options that hold where the line does not name them, if it has them.

    Raises ProblemError (a ValueError) that names the field, the value and its position.

    >>> p = parse("g1mb50ic3ih224iw224oc64oh112ow112kh7kw7sh2sw2ph3pw3")
    >>> p.outputs(), p.padding_sides()
    ({'y': (50, 64, 112, 112)}, ((3, 2), (3, 2)))
    >>> parse(str(p)) == p
    True
    >>> parse("--op=softmax --axis=-1 64x1000").dims
    (64, 1000)
    """
    try:
        return _parse(line.strip(), defaults)
    except ProblemError as error:
        raise ProblemError(f"{error}, in {line.strip()!r}") from None


def _parse(line: str, defaults: dict[str, Any]) -> Any:
    rest, given = line, {}
    while rest.startswith("--"):
        word, _, rest = rest.partition(" ")
        name, equals, value = word[2:].partition("=")
        given[name.replace("-", "_")] = value if equals else None
        rest = rest.lstrip()
    if not rest:
        raise ProblemError("no problem")
    operation = given.pop("op", "conv2d")
    if operation not in CLASSES:
        raise ProblemError(f"unknown --op={operation}; known: {', '.join(CLASSES)}")
    cls = CLASSES[operation]
    fields = {field.name: field for field in dataclasses.fields(cls) if field.metadata.get("option")}
    has_op = fields.pop("op", None) is not None
    options = {name: value for name, value in defaults.items() if name in fields}
    for name, value in given.items():
        if name not in fields:
            known = ", ".join("--" + key.replace("_", "-") for key in fields)
            raise ProblemError(f"unknown option --{name.replace('_', '-')} for {operation}; known: {known}")
        options[name] = _option_value(fields[name], value)
    if has_op:
        options["op"] = operation
    return cls.parse_descriptor(rest, len(line) - len(rest), **options)
