"""CUDA C as text: headers taken in, comments left out, what a kernel declares.

Both compilers, NVRTC and the host's, get the text that `inlined` makes, and both get a kernel's parameters from it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

_INCLUDE = re.compile(r'\s*#\s*include\s+[<"](.+?)[>"]')
_ATTRIBUTES = r"((?:__(?:launch_bounds|cluster_dims|maxnreg)__\s*\((?:[^()]|\([^()]*\))*\)\s*)*)"
_KERNEL = rf"\b__global__\s+{_ATTRIBUTES}(?:static\s+)?void\s+{_ATTRIBUTES}"
_UNREAD = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"|(?<!\w)\'(?:[^\'\\\n]|\\.)+\'', re.DOTALL)


def inlined(
    text: str, name: str, folders: Sequence[Path], kept: Collection[str] = (), done: set[str] | None = None
) -> str:
    """A source with headers in place of their #include; #line keeps the compilers' messages right.

    name     of the source, as messages give it
    folders  where headers are looked for; what is in none of them is CUDA's own or the system's, and stays an #include
    kept     headers that stay an #include wherever they are

    A header with `#pragma once` is taken in once.  The text is all that a cache of compiled kernels has to look at.
    """
    done = set() if done is None else done
    lines = [f'#line 1 "{name}"']
    for number, line in enumerate(text.splitlines(), start=1):
        header = _INCLUDE.match(line)
        found = header and next((folder / header[1] for folder in folders if (folder / header[1]).is_file()), None)
        if line.strip() == "#pragma once":
            lines.append("")
        elif not header or not found or header[1] in kept:
            lines.append(line)
        elif str(found) in done:
            lines.append("")
        else:
            inner = found.read_text()
            if re.search(r"^\s*#\s*pragma once", inner, re.MULTILINE):
                done.add(str(found))
            lines += [inlined(inner, _relative(found, folders), [found.parent, *folders], kept, done)]
            lines += [f'#line {number + 1} "{name}"']
    return "\n".join(lines)


def _relative(path: Path, folders: Sequence[Path]) -> str:
    """A header's name in messages: below the folder that holds all others, or whole."""
    root = folders[-1]
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def masked(text: str) -> str:
    """The text with blanks in place of comments and literals: every other character stays where it is.

    >>> masked('f(1); // "asm"')
    'f(1);         '
    """
    return _UNREAD.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def uncommented(text: str) -> str:
    """The text with a blank in place of each comment, and no line more than it needs.

    >>> uncommented('f("//"); /* why */  g();  // how')
    'f("//"); g();'
    """
    return " ".join(_UNREAD.sub(lambda match: " " if match[0][0] == "/" else match[0], text).split())


def place(text: str, position: int) -> tuple[str, int]:
    """The file and line, by the #line before it, of a position in an inlined text."""
    before = text[:position]
    markers = list(re.finditer(r'^#line (\d+) "(.*)"\n', before, re.MULTILINE))
    if not markers:
        return "", before.count("\n") + 1
    return markers[-1][2], int(markers[-1][1]) + before[markers[-1].end() :].count("\n")


def kernels(text: str) -> list[str]:
    """The names of the kernels that are no templates, in order, with their namespaces.

    >>> kernels("template <class T> __global__ void t(T* x) {} __global__ void __launch_bounds__(64) k(int* x) {}")
    ['k']
    >>> kernels("namespace a { namespace { void f() {} } namespace b { __global__ void k(int* x) {} } }")
    ['a::b::k']
    """
    text, found = masked(text), []
    for match in re.finditer(rf"{_KERNEL}(?P<name>\w+)\s*\(", text):
        head = re.split(r"[;}]", text[: match.start()])[-1]
        name = "::".join([*_namespaces(text[: match.start()]), match["name"]])
        if not re.search(r"\btemplate\b", head) and name not in found:
            found.append(name)
    return found


def _namespaces(before: str) -> list[str]:
    """The named namespaces that are open at the end of a text."""
    scopes: list[str] = []
    for match in re.finditer(r"(?:\bnamespace\s*([\w:]*)\s*)?\{|\}", before):
        if match[0] == "}":
            scopes = scopes[:-1]
        else:
            scopes.append(match[1] or "")
    return [scope for scope in scopes if scope]


def declaration(text: str, kernel: str) -> tuple[list[str], list[str]] | None:
    """The template parameters and the parameters of a kernel, as they are declared; None where it is not found.

    >>> declaration("template <typename T, int N> __global__ void scale(const T* x, float by)", "scale")
    (['typename T', 'int N'], ['const T* x', 'float by'])
    """
    pattern = rf"(?:template\s*<(?P<templates>[^<>]*)>\s*)?{_KERNEL}{kernel}\s*\((?P<parameters>[^()]*)\)"
    found = re.search(pattern, masked(text))
    if found is None:
        return None
    templates, parameters = ((found[group] or "").split(",") for group in ("templates", "parameters"))
    return [one.strip() for one in templates if one.strip()], [one.strip() for one in parameters if one.strip()]


@dataclass(frozen=True)
class Clusters:
    """What a kernel says of its clusters.

    kernel     its name, with its namespaces
    templates  its template parameters, as it declares them; "" where it is no template
    sizes      what __cluster_dims__ has in its parentheses
    """

    kernel: str
    templates: str
    sizes: str


def clusters(text: str) -> list[Clusters]:
    """Those of every kernel that has __cluster_dims__, which stands behind __global__, before or behind `void`.

    >>> clusters("template <int N> __global__ void __cluster_dims__(N, 1, 1) k(int* x) {}")
    [Clusters(kernel='k', templates='int N', sizes='N, 1, 1')]
    """
    text, found = masked(text), []
    for match in re.finditer(rf"(?:template\s*<(?P<templates>[^<>]*)>\s*)?{_KERNEL}(?P<name>\w+)\s*\(", text):
        if sizes := re.search(r"__cluster_dims__\s*\(((?:[^()]|\([^()]*\))*)\)", match[2] + match[3]):
            name = "::".join([*_namespaces(text[: match.start()]), match["name"]])
            found.append(Clusters(name, match["templates"] or "", sizes[1]))
    return found


def parameter_names(text: str, kernel: str) -> list[str]:
    """The names of a kernel's parameters; [] where its declaration is not understood."""
    declared = declaration(text, kernel.partition("<")[0].rpartition("::")[2])
    return [re.findall(r"\w+", parameter)[-1] for parameter in declared[1]] if declared else []
