"""A kernel's source -> a C++ program's.  Hardly anything is rewritten: a header makes C++ of most of CUDA C."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..source import Clusters, clusters, masked, place
from .errors import NotSupportedError

# What includes of these names give stands in include/, or is the host's own.
HEADERS = {
    *("cuda_runtime.h", "cuda_fp16.h", "cuda_bf16.h", "mma.h", "cuda_pipeline.h", "cooperative_groups.h"),
    *("math.h", "float.h", "limits.h", "stdint.h", "stddef.h", "stdio.h", "string.h", "assert.h"),
    *("cmath", "cfloat", "climits", "cstdint", "cstddef", "cstdio", "cstring", "cassert"),
    *("type_traits", "utility", "limits"),
}
NOT_SUPPORTED = {
    r"\b(?:asm|__asm__|__asm)\b": "inline PTX (asm)",
    r"<<<": "a launch (<<<...>>>) in the source, which is to hold kernels alone",
    r"\bcuda::\w+": "libcu++ (cuda::)",
    r"\b(?:tex(?:[123]D|Cubemap)\w*|surf(?:[123]D|Cubemap)\w*|cuda(?:Texture|Surface)Object_t)\b": "textures",
    r"\b__managed__\b": "managed memory (__managed__)",
    r"\bCUtensorMap\b": "tensor maps (CUtensorMap)",
}
_SHARED = r"(?:__shared__|volatile|__align__\s*\([^()]*\)|alignas\s*\([^()]*\))"
_DYNAMIC = re.compile(
    rf"\bextern\s+(?P<qualifiers>(?:{_SHARED}\s*)+)(?P<type>[\w:<>,\s]+?)\s*\b"
    rf"(?P<late>{_SHARED}\s*)?(?P<name>\w+)\s*\[\s*\]\s*;"
)
_VARIABLE = re.compile(
    r"^[ \t]*(?:static\s+|extern\s+)?(?P<space>__constant__|__device__)\s+(?!const\b|constexpr\b|inline\b)"
    r"(?P<type>[\w:<>,\s]+?)\s*\b(?P<name>\w+)\s*(?:\[[^\]]*\]\s*)*(?:;|=|\{[^;]*\};)",
    re.MULTILINE,
)


def translate(text: str, names: Sequence[str]) -> str:
    """The program of a source (`source.inlined`) and the kernels, template arguments and all, that it can launch.

    Raises NotSupportedError, with file and line, for what the emulator does not have.
    """
    code, headers = masked(text), []
    for found in re.finditer(r'^[ \t]*#[ \t]*include[ \t]+[<"](.+?)[>"]', text, re.MULTILINE):
        if code[found.start() : found.end()].strip() == "":
            continue  # in a comment
        if found[1] not in HEADERS:
            raise NotSupportedError(f"#include <{found[1]}>", *place(text, found.start()))
        headers.append(f"#include <{found[1]}>")
    groups = "|".join(
        ["cooperative_groups", *re.findall(r"\bnamespace\s+(\w+)\s*=\s*(?:::)?cooperative_groups\b", code)]
    )
    if found := re.search(rf"\b(?:{groups})\s*::\s*(?!this_cluster\b|cluster_group\b)(\w+)", code):
        raise NotSupportedError(f"cooperative groups but for clusters ({found[1]})", *place(text, found.start()))
    for pattern, what in NOT_SUPPORTED.items():
        if found := re.search(pattern, code):
            raise NotSupportedError(what, *place(text, found.start()))
    text = re.sub(r'^[ \t]*#[ \t]*include[ \t]+[<"].+?[>"]', "", text, flags=re.MULTILINE)
    text = _DYNAMIC.sub(_pointer, text)
    text = re.sub(r"\bstatic[ \t]+__shared__|__shared__[ \t]+static\b", "__shared__", text)
    clustered = clusters(text)
    if len(clustered) < len(found := list(re.finditer(r"\b__cluster_dims__\b", code))):
        what = "__cluster_dims__ in another place than behind a kernel's __global__"
        raise NotSupportedError(what, *place(text, found[0].start()))
    # The tables stand in the source's own namespace, in which its names are looked up first.
    entries = [_entry(name, clustered) for name in names]
    listed = [f'  emulator::variable("{name}", {name}),' for name in variables(text)]
    return "\n".join(
        [
            '#include "cuda_emulator.h"',
            *dict.fromkeys(headers),
            "namespace {",
            text,
            '#line 1 "table of kernels"',
            *(_sizes(one) for one in clustered),
            *("const emulator::Entry emulator_entries[] = {", *entries, "  {}};"),
            *("const emulator::Variable emulator_variables[] = {", *listed, "  {}};"),
            "}",
            "namespace emulator {",
            "const Entry* const entries = emulator_entries;",
            "const Variable* const variables = emulator_variables;",
            f"const int entry_count = {len(entries)}, variable_count = {len(listed)};",
            "}",
            "",
        ]
    )


def _sizes(one: Clusters) -> str:
    """A function of the sizes of a kernel's clusters, with the kernel's namespaces and template parameters."""
    *spaces, name = one.kernel.split("::")
    head = f"template <{one.templates}> " if one.templates else ""
    function = f"{head}constexpr dim3 emulator_cluster_of_{name}() {{ return dim3({one.sizes}); }}"
    return " ".join([*(f"namespace {space} {{" for space in spaces), function, *("}" for _ in spaces)])


def _entry(name: str, clustered: Sequence[Clusters]) -> str:
    kernel, bracket, arguments = name.partition("<")
    if not any(one.kernel == kernel for one in clustered):
        return f'  emulator::entry("{name}", &{name}),'
    spaces, colons, own = kernel.rpartition("::")
    return f'  emulator::entry("{name}", &{name}, {spaces}{colons}emulator_cluster_of_{own}{bracket}{arguments}()),'


def _pointer(match: re.Match[str]) -> str:
    """Dynamic shared memory: `extern __shared__ T x[];` -> a pointer to it, on as many lines."""
    if "__shared__" not in match["qualifiers"] + (match["late"] or ""):
        return match[0]
    pointer = f"{match['type']}* {match['name']} = reinterpret_cast<{match['type']}*>(emulator::dynamic_shared());"
    return pointer + "\n" * (match[0].count("\n") - pointer.count("\n"))


def variables(text: str) -> dict[str, str]:
    """Variables of the module that may change: name -> "__constant__" or "__device__".

    >>> variables("__constant__ float taps[9];\\n__device__ const int two = 2;\\n__device__ int count = 0;")
    {'taps': '__constant__', 'count': '__device__'}
    """
    return {match["name"]: match["space"] for match in _VARIABLE.finditer(masked(text))}
