"""Tables of shapes (.csv, .tsv, .parquet) -> problems: a row is a problem, a column a field, in the first row named:

    our fields         mb ic ih iw oc oh ow kh kw sh sw ph pw dh dw g, and every option: op dtype layout bias ...
    cuDNN's letters    N C H W, K R S (filters, their height and width), P Q (output), G; lower case n c h w g
    PyTorch's names    batch_size in_channels out_channels in_features out_features kernel_size stride padding dilation
                       groups; the middle four for both axes, as 3, 3x3 or (3, 3)
    others             kernel_h filter_h stride_h pad_h padding_h dil_h dilation_h height in_h out_h p_out_h ..., and
                       the same with w
    the problem's      name, or model (network) and layer, which give "model:layer"; count: how often it occurs;
                       dims (shape), as 64x1000, of softmax and cross_entropy

Dilation counts from 0 in dh and dw, which are benchdnn's, and from 1 in dil_h, dilation and every other name, as in
PyTorch.  Otherwise lines' rules hold: without a width it is the height, without a height there is one row; `mb` is 2;
an output size that is given decides the padding below and on the right.  Layouts are NCHW and NHWC, too, dtypes f16,
half, fp16, ... too.  An empty cell says nothing.  Names may be in upper or lower case, letters are as above: k, s, p,
r, q and d mean several things, and are refused.  So are two columns for one field, and names that look like a shape's.
Other columns are not used, and warned of.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..kernels.problem import Problem, ProblemError, parse
from . import UsageError
from .benchdnn import DTYPES, OPTIONS

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".tsv", ".parquet")

# A field of a line -> what its column may be called.  Fields of one letter are for both axes.
ALIASES: dict[str, tuple[str, ...]] = {
    "mb": ("mb", "N", "n", "batch", "batch_size", "batchsize", "minibatch"),
    "g": ("g", "G", "groups", "group", "num_groups", "group_count"),
    "ic": ("ic", "C", "c", "in_channels", "input_channels", "channels_in", "in_features"),
    "oc": ("oc", "K", "out_channels", "output_channels", "channels_out", "out_features", "filters", "num_filters"),
    **{
        field.format(axis): tuple(name.format(axis) for name in names)
        for axis in "hw"
        for field, names in {
            "k{}": ("k{}", "kernel_{}", "filter_{}", "kernel_size_{}", "r_filter_{}"),
            "s{}": ("s{}", "stride_{}", "strides_{}"),
            "p{}": ("p{}", "pad_{}", "padding_{}"),
            "d{}": ("d{}",),
            "dilation_{}": ("dil_{}", "dilation_{}", "dilations_{}"),
        }.items()
    },
    "ih": ("ih", "H", "h", "height", "in_h", "h_in", "input_h", "in_height", "input_height"),
    "iw": ("iw", "W", "w", "width", "in_w", "w_in", "input_w", "in_width", "input_width"),
    "oh": ("oh", "P", "p_out_h", "out_h", "h_out", "output_h", "out_height", "output_height"),
    "ow": ("ow", "Q", "q_out_w", "out_w", "w_out", "output_w", "out_width", "output_width"),
    "k": ("kernel_size", "kernel", "filter_size"),
    "s": ("stride", "strides"),
    "p": ("padding", "pad"),
    "dilation": ("dilation", "dilations"),
    "dims": ("dims", "shape"),
    "network": ("model", "network", "net"),
    "name": ("name", "layer", "layer_name"),
    "count": ("count", "multiplicity", "occurrences", "repeats"),
    **{option: (option,) for option in OPTIONS},
    "op": ("op", "operation", "operator"),
    "dtype": ("dtype", "data_type"),
    "layout": ("layout", "memory_format"),
}
ALIASES["kh"] += ("R",)
ALIASES["kw"] += ("S",)
FIELDS = {name: field for field, names in ALIASES.items() for name in names}  # column -> field
_NUMBERS = {
    *("mb", "g", "ic", "oc", "ih", "iw", "oh", "ow", "count"),
    *(field + axis for field in ("k", "s", "p", "d", "dilation_") for axis in "hw"),
}
_BOTH = {"k", "s", "p", "dilation"}
_TEXT_OPTIONS = {"dtype", "layout", "op", "padding_mode", "activation", "reduction"}
# A column whose name has one of these must not be overlooked.
_SHAPELY = re.compile(
    "pad|strid|dilat|kernel|filter|channel|group|batch|height|width|depth|dtype|layout|format|bias|transpos|direction"
)
_LETTERS = {
    "k": "filters (oc) or the filter's size (kh, kw)",
    "s": "the stride (sh, sw) or the filter's width (kw)",
    "p": "the padding (ph, pw) or the output's height (oh)",
    "r": "the filter's height (kh) or something else",
    "q": "the output's width (ow) or something else",
    "d": "the dilation (dh, dw) or a depth",
}
_VALUES = {
    "dtype": {
        **DTYPES,
        "fp64": "float64",
        "double": "float64",
        "fp32": "float32",
        "float": "float32",
        "fp16": "float16",
        "half": "float16",
    },
    "layout": {"nchw": "contiguous", "nhwc": "channels_last"},
}
_FLAGS = {"1": "true", "true": "true", "yes": "true", "0": "false", "false": "false", "no": "false"}


def read(path: Path, defaults: dict[str, str]) -> Iterator[Problem | str]:
    """The problems of a table, and a sentence for the columns that are not used.

    `defaults` are options of rows that say nothing.  Raises UsageError, which names file, line, column and value.
    """
    header, rows = _parquet(path) if path.suffix.lower() == ".parquet" else _text(path)
    columns, unused = _columns(path, header)
    if unused:
        yield f"{path}: not used: {', '.join(unused)}"
    for where, cells in rows:
        row = {column: cell for column, cell in zip(header, cells, strict=True) if cell}
        if row:
            given = {field: (column, row[column]) for column, field in columns.items() if column in row}
            yield _problem(where, given, defaults)


_Rows = list[tuple[str, list[str]]]  # (where it stands, its cells)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise UsageError("tables of shapes need pandas: pip install 'gpucnn[bench]'") from None
    return pandas


def _text(path: Path) -> tuple[list[str], _Rows]:
    pandas = _pandas()
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        frame: pd.DataFrame = pandas.read_csv(
            path, sep=separator, header=None, dtype=str, keep_default_na=False, skip_blank_lines=False,
            encoding="utf-8-sig", skipinitialspace=True,
        ).fillna("")  # fmt: skip
    except (OSError, ValueError) as error:  # ValueError: pandas' own, and text that is no UTF-8
        raise UsageError(f"{path} cannot be read: {str(error).strip()}") from None
    header, *rows = ([str(cell).strip() for cell in row] for row in frame.itertuples(index=False))
    return header, [(f"{path}:{number}", row) for number, row in enumerate(rows, 2)]


def _parquet(path: Path) -> tuple[list[str], _Rows]:
    pandas = _pandas()
    try:
        frame: pd.DataFrame = pandas.read_parquet(path)
    except ImportError:
        raise UsageError(f"{path} needs pyarrow: pip install 'gpucnn[bench]'") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {str(error).strip()}") from None
    cells = frame.astype(object).where(frame.notna(), "")
    rows = ([str(cell).strip() for cell in row] for row in cells.itertuples(index=False))
    return [str(name) for name in frame.columns], [(f"{path}, row {number}", row) for number, row in enumerate(rows, 1)]


def _columns(path: Path, header: list[str]) -> tuple[dict[str, str], list[str]]:
    """{column: field}, and the columns that are not used."""
    columns: dict[str, str] = {}
    unused: list[str] = []
    for column in header:
        name = re.sub(r"[\s-]+", "_", column.strip())
        name = name if len(name) == 1 else name.lower()
        field = FIELDS.get(name)
        if field is None and name.lower() in _LETTERS:
            raise UsageError(f"{path}: column {column!r} may be {_LETTERS[name.lower()]}: name it so")
        if field is None and name:
            near = difflib.get_close_matches(name, [each for each in FIELDS if len(each) > 3], n=1, cutoff=0.8)
            if near or len(name) == 1 or _SHAPELY.search(name):
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise UsageError(f"{path}: column {column!r} is not understood{hint}")
        if field is None:
            unused.append(repr(column))
            continue
        for other, taken in columns.items():
            if taken == field or other == column or _overlap(taken, field):
                raise UsageError(f"{path}: columns {other!r} and {column!r} say the same")
        columns[column] = field
    for pair in ({"R", "S"}, {"P", "Q"}):
        if len(pair & columns.keys()) == 1:
            (lone,), (other,) = pair & columns.keys(), pair - columns.keys()
            raise UsageError(f"{path}: column {lone!r} without {other!r} may be something else: name its field")
    return columns, unused


def _overlap(one: str, other: str) -> bool:
    """Whether two fields say the same of an axis."""

    def parts(field: str) -> set[tuple[str, str]]:
        kind = "d" if field.startswith("dilation") else field[0]
        return {(kind, axis) for axis in ("hw" if field in _BOTH else field[-1])}

    spatial = _BOTH | _NUMBERS - {"mb", "g", "ic", "oc", "count"}
    return {one, other} <= spatial and bool(parts(one) & parts(other))


def _problem(where: str, cells: dict[str, tuple[str, str]], defaults: dict[str, str]) -> Problem:
    """A row's problem: its cells become a line, {field: (column, cell)}."""
    fields: dict[str, int] = {}
    both: dict[str, tuple[int, int]] = {}
    words: list[str] = []

    def refuse(field: str, expected: str) -> UsageError:
        column, cell = cells[field]
        return UsageError(f"{where}: column {column!r} has value {cell!r}, expected {expected}")

    for field, (_, cell) in cells.items():
        if field in _NUMBERS:
            if not re.fullmatch(r"\d+(\.0*)?", cell):
                raise refuse(field, "an integer >= 0")
            fields[field] = int(float(cell))
        elif field in _BOTH:
            if not re.fullmatch(r"[(\[]?\s*\d+(\.0*)?(\s*[x,;]\s*\d+)?\s*[)\]]?", cell):
                raise refuse(field, "an integer >= 0, or one for each axis, as 3x3")
            sizes = [int(float(size)) for size in re.findall(r"\d+(?:\.0*)?", cell)]
            both[field] = sizes[0], sizes[-1]
        elif field in OPTIONS:
            words.append(f"--{field.replace('_', '-')}={_option(field, cell)}")

    if "ih" not in fields and "iw" in fields:
        axes = "w"
    elif all(first == second for first, second in both.values()) and not any(field[-1] == "w" for field in fields):
        axes = "h"  # which alone is a square
    else:
        axes = "hw"
    for field, sizes in both.items():
        stem = "dilation_" if field == "dilation" else field
        fields |= {stem + axis: size for axis, size in zip("hw", sizes, strict=True) if axis in axes}
    for axis in "hw":
        if f"dilation_{axis}" in fields:
            fields[f"d{axis}"] = fields.pop(f"dilation_{axis}") - 1
            if fields[f"d{axis}"] < 0:
                column = "dilation" if "dilation" in cells else f"dilation_{axis}"
                raise refuse(column, "an integer >= 1 (benchdnn's, which count from 0, are dh and dw)")
    if "ih" in fields and "iw" not in fields and any(field[-1] == "w" for field in fields):
        fields["iw"] = fields["ih"]
    count = fields.pop("count", 1)
    if count < 1:
        raise refuse("count", "an integer >= 1")
    name = ":".join(cells[field][1] for field in ("network", "name") if field in cells)
    name = re.sub(r'["\s]', "_", name) + (f"*{count}" if count > 1 else "")
    shape = cells["dims"][1] if "dims" in cells else "".join(f"{field}{size}" for field, size in fields.items())
    try:
        return parse(" ".join([*words, shape + (f'n"{name}"' if name else "")]), **defaults)
    except ProblemError as error:
        raise UsageError(f"{where}: {error}") from None


def _option(field: str, cell: str) -> str:
    """An option's value as a line has it."""
    if field in _VALUES:
        return _VALUES[field].get(cell.lower(), cell)
    if field in _TEXT_OPTIONS:
        return cell.lower()
    return _FLAGS.get(cell.lower(), cell) if "bool" in str(OPTIONS[field].type) else cell
