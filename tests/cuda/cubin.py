"""Registers and local memory of the kernels in a cubin, as the CUDA compiler wrote them into the ELF file.

The section `.nv.info` is a list of attributes (format 1 byte, attribute 1 byte, size or value 2 bytes, value); those of
format 4 that concern a kernel begin with the index of its symbol. `cuobjdump --dump-resource-usage` prints the same.
"""

from __future__ import annotations

import struct
from pathlib import Path

REGISTERS, STACK = 0x2F, 0x12


def resources(path: str | Path) -> dict[str, tuple[int, int]]:
    """{kernel: (registers a thread, bytes of stack a thread)}, without the suffixes that Warp appends to names."""
    data = Path(path).read_bytes()
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]

    def text(section, offset: int) -> str:
        start = section[4] + offset
        return data[start : data.index(b"\0", start)].decode()

    by_name = {text(sections[names], section[0]): section for section in sections}
    symbols, info = by_name[".symtab"], by_name[".nv.info"]
    found: dict[str, dict[int, int]] = {}
    at, end = info[4], info[4] + info[5]
    while at < end:
        form, attribute, length = struct.unpack_from("<BBH", data, at)
        at += 4
        if form != 4:
            continue
        if attribute in (REGISTERS, STACK):
            index, value = struct.unpack_from("<II", data, at)
            (offset,) = struct.unpack_from("<I", data, symbols[4] + 24 * index)
            name = text(sections[symbols[6]], offset)
            if "__locals__" in name and name.endswith("_cuda_kernel_forward"):
                short = name.split("__locals__")[1].removesuffix("_cuda_kernel_forward").rsplit("_", 1)[0]
                found.setdefault(short, {})[attribute] = value
        at += length
    return {name: (values[REGISTERS], values.get(STACK, 0)) for name, values in sorted(found.items())}
