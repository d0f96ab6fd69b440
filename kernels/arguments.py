"""Operators' arguments, checked before anything runs; an error names the argument, its value and what is allowed."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .arrays import Array, dtype_of, library_of, placement, span
from .problem import DTYPES, POSITIONS, output_size, window_extent

Pair = tuple[int, int]
Sides = tuple[Pair, Pair]  # ((top, bottom), (left, right))


def integer(name: str, value: Any, least: int) -> int:
    """value as an int >= least."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, expected an integer >= {least}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, expected an integer >= {least}")
    if number < least:
        raise ValueError(f"{name} is {value!r}, expected an integer >= {least}")
    return number


def pair(name: str, value: Any, least: int) -> Pair:
    """An int, or two of them for H and W, each >= least."""
    if not isinstance(value, (tuple, list)):
        number = integer(name, value, least)
        return number, number
    if len(value) != 2:
        raise ValueError(f"{name} is {value!r}, expected one integer or two, for H and W")
    return integer(name, value[0], least), integer(name, value[1], least)


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, expected True or False")
    return value


def choice(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, allowed))}")
    return value


def sides(padding: Any, size: Pair, window: Pair, stride: Pair, dilation: Pair, words: Sequence[str]) -> Sides:
    """`padding` in any of its forms -> ((top, bottom), (left, right)).

    "same" gives ceil(size / stride) outputs, the odd one of padding at the end; "causal" pads before, along W only.
    """
    extents = [window_extent(taps, step) for taps, step in zip(window, dilation, strict=True)]
    if isinstance(padding, str):
        choice("padding", padding, words)
        if padding == "causal":
            return (0, 0), (extents[1] - 1, 0)
        if padding == "valid":
            return (0, 0), (0, 0)
        totals = [max(0, (-(-n // step) - 1) * step + e - n) for n, step, e in zip(size, stride, extents, strict=True)]
        top, left = (total // 2 for total in totals)
        return (top, totals[0] - top), (left, totals[1] - left)
    if isinstance(padding, (tuple, list)) and any(isinstance(side, (tuple, list)) for side in padding):
        if len(padding) != 2 or not all(isinstance(side, (tuple, list)) for side in padding):
            raise ValueError(f"padding is {padding!r}, expected ((top, bottom), (left, right))")
        vertical, horizontal = (pair("padding", side, 0) for side in padding)
        return vertical, horizontal
    vertical, horizontal = pair("padding", padding, 0)
    return (vertical, vertical), (horizontal, horizontal)


def outputs(
    window_name: str, size: Pair, window: Pair, stride: Pair, padding: Sides, dilation: Pair, ceil: bool = False
) -> Pair:
    """The output's size (P, Q); ValueError where the window does not fit into the padded input."""
    found = []
    for axis, n, taps, step, (before, after), spread in zip("HW", size, window, stride, padding, dilation, strict=True):
        if window_extent(taps, spread) > n + before + after:
            raise ValueError(
                f"{window_name} spans {window_extent(taps, spread)} along {axis}, more than the padded input's "
                f"{n + before + after} ({axis} = {n}, padding {before} + {after})"
            )
        found.append(output_size(n, taps, step, before, after, spread, ceil))
    return found[0], found[1]


def arrays(allowed: Iterable[str] = DTYPES, **given: Array | None) -> tuple[list[Array], str]:
    """The arrays that were given, and their dtype's name; they must be of one library, device and dtype."""
    present = {name: array for name, array in given.items() if array is not None}
    first, expected = next(iter(present)), {}
    for name, array in present.items():
        try:
            facts = {"library": library_of(array), "device": placement(array), "dtype": dtype_of(array)}
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
        if facts["dtype"] not in allowed:
            raise TypeError(f"{name} has dtype {facts['dtype']}, expected one of {', '.join(allowed)}")
        expected = expected or facts
        for what, value in facts.items():
            if value != expected[what]:
                kind = TypeError if what != "device" else ValueError
                raise kind(f"{name} has {what} {value}, expected that of {first}: {expected[what]}")
        torch = sys.modules.get("torch")
        if facts["library"] == "torch" and array.requires_grad and torch is not None and torch.is_grad_enabled():
            raise ValueError(f"{name} requires a gradient, and there is no backward pass: use torch.no_grad()")
    return list(present.values()), expected["dtype"]


def positions(name: str, array: Array, shape: tuple[int, ...], like: Array) -> Array:
    """Indices or labels: int64, of `shape`, of the library and on the device of `like`."""
    for what, found, expected in (
        ("library", library_of(array), library_of(like)),
        ("dtype", dtype_of(array), POSITIONS),
        ("device", placement(array), placement(like)),
        ("shape", tuple(array.shape), shape),
    ):
        if found != expected:
            kind = TypeError if what in ("library", "dtype") else ValueError
            raise kind(f"{name} has {what} {found}, expected {expected}")
    return array


def below(name: str, array: Array, size: int, but: int | None = None) -> None:
    """Check that positions, on the host, are from 0 to less than `size`, or `but`.

    On a GPU they are not looked at, which would wait for it; the kernels say what becomes of others.
    """
    numbers = array if isinstance(array, np.ndarray) else array.numpy()
    if not numbers.size or numbers.view(np.uint64).max() < size:  # a negative one is huge then
        return
    wrong = numbers[((numbers < 0) | (numbers >= size)) & (numbers != but)]
    if wrong.size:
        other = "" if but is None else f" or {but}"
        raise ValueError(f"{name} has {wrong[0]}, expected 0 to {size - 1}{other}")


def dims(name: str, array: Array, *allowed: str) -> tuple[int, ...]:
    """The array's shape, if it has as many dimensions as one of the `allowed` shapes such as "(N, C, H, W)"."""
    if array is None:
        raise TypeError(f"{name} is None, expected an array {' or '.join(allowed)}")
    shape = tuple(array.shape)
    if len(shape) not in {text.count(",") + (not text.endswith(",)")) for text in allowed}:
        raise ValueError(f"{name} has shape {shape}, expected {' or '.join(allowed)}")
    return shape


def destination(out: Array | None, shape: tuple[int, ...], inputs: Sequence[Array]) -> None:
    """Check `out`: an array like the first input, of the result's shape, that shares no memory with an input."""
    if out is None:
        return
    arrays(x=inputs[0], out=out)
    if tuple(out.shape) != shape:
        raise ValueError(f"out has shape {tuple(out.shape)}, expected {shape}")
    if library_of(out) == "numpy" and not out.flags.writeable:
        raise ValueError("out is read-only")
    start, stop = span(out)
    if any(start < last and first < stop for first, last in map(span, inputs)):
        raise ValueError("out shares memory with an input")
