"""Coverage-guided search with Atheris (libFuzzer): ``python -m fuzz.guided codec|wire ...``.

Atheris follows the branches of the Python layers. Kernels are machine code that it cannot
see, so what became of an input, the kind of refusal or features of the value, is turned into
branches as well (``tell``). Only functions that run as Python are instrumented: Numba
compiles the bytecode of the others.

Further arguments are libFuzzer's; an input file in their place repeats that input.
"""

from __future__ import annotations

import inspect
import json
import pkgutil
import struct
import sys
import zlib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from random import Random
from types import FunctionType, ModuleType
from typing import Any

import atheris
import numpy as np

from codec_golden import DRAW, FOLDER
from codec_reference import Draw
from fuzz import frames
from fuzz.beds import Arenas, Bed, Outcome
from fuzz.inputs import forms, possible
from guard_pages import GuardedScratch
from psrv import codec
from psrv import wire as psrv_wire

SIZES = ((3, 9), (16, 33, 1, 40), (100, 4100), (1,), (7,), (64,), (70,), (2048, 5))
"""How a vector is cut; the first three are those of the golden payloads."""

LEAVES = 128


def _signal() -> Callable[[int], int]:
    """A function with a branch of its own for each number below LEAVES: a tree of ``if``."""

    def branch(low: int, high: int, depth: int) -> list[str]:
        if high - low == 1:
            return [" " * depth + f"return {low}"]
        middle = (low + high) // 2
        left, right = branch(low, middle, depth + 1), branch(middle, high, depth + 1)
        return [" " * depth + f"if number < {middle}:", *left, " " * depth + "else:", *right]

    scope: dict[str, Any] = {}
    exec("\n".join(["def signal(number):", *branch(0, LEAVES, 1)]), scope)
    return scope["signal"]


SIGNALS = [_signal() for _ in range(16)]
"""Several, since the time to instrument a function grows with the square of its length."""


def tell(feature: str) -> None:
    """Make libFuzzer keep the input if no other one has shown this feature."""
    which, leaf = divmod(zlib.crc32(feature.encode()) % (len(SIGNALS) * LEAVES), LEAVES)
    SIGNALS[which](leaf)


# The codec


class Codec:
    """An input: form, cut, number of senders and place, as a byte each, then the payload.

    The highest bit of the last byte asks that the payload be cut or filled up to the size
    that is expected: otherwise hardly any input would get past the check of the size.
    """

    def __init__(self) -> None:
        self._room = Arenas()
        self._forms = forms()
        self._beds: dict[tuple[int, int, int], Bed] = {}

    def seeds(self) -> list[bytes]:
        """The golden payloads, and a valid payload of every form and cut."""
        found = []
        names = {form.spec: index for index, form in enumerate(self._forms) if not form.contracted}
        for path in FOLDER.glob("*.json"):
            golden = json.loads(path.read_text("utf-8"))
            for cut, case in enumerate(golden["cases"].values()):
                if golden["compressor"] in names:
                    head = bytes([names[golden["compressor"]], cut, 2, 4])
                    found.append(head + bytes.fromhex(case["payload"]))
        for index in range(len(self._forms)):
            for cut in range(len(SIZES)):
                bed = self._bed(index, cut, 1)
                found.append(bytes([index, cut, 1, 0x80]) + bed.payloads[0])
        return found

    def try_input(self, data: bytes) -> None:
        """One input; raises ``Finding``."""
        if len(data) < 4:
            return
        index, cut = data[0] % len(self._forms), data[1] % len(SIZES)
        bed = self._bed(index, cut, data[2] % 3)
        rank, payload = (data[3] & 15) % len(bed.payloads), data[4:]
        if data[3] & 0x80:
            size = bed.compressor.payload_bytes(bed.blocks, bed.draws[rank])
            if size is not None:
                payload = payload[:size].ljust(size, b"\0")
        outcome = bed.receive(payload, rank, bool(data[3] & 0x40), data[3] >> 4, thorough=False)
        self._tell(str(bed.form), outcome)

    def _bed(self, index: int, cut: int, senders: int) -> Bed:
        key = index, cut, senders
        if key not in self._beds:
            form, wanted = self._forms[index], (1, 3, DRAW.workers)[senders]
            fit = (  # some forms need more coordinates, or more senders
                (sizes, workers)
                for sizes in (SIZES[cut], SIZES[0], SIZES[1])
                for workers in (wanted, 1, DRAW.workers)
                if possible(form.compressor(), sum(sizes), workers)
            )
            sizes, workers = next(fit)
            draws = [Draw(*DRAW[:3], rank, workers) for rank in range(workers)]
            self._beds[key] = Bed(form, sizes, draws, Random(repr(key)), self._room)
        return self._beds[key]

    @staticmethod
    def _tell(form: str, outcome: Outcome) -> None:
        tell(f"{form} {outcome.kind()}")
        if outcome.value is not None:
            value = outcome.value
            nonzero = np.flatnonzero(value)
            tell(f"{form} {nonzero.size.bit_length()} nonzero")
            tell(f"{form} {np.frexp(np.abs(value).max())[1] // 16} high")
            if nonzero.size:
                tell(f"{form} {int(nonzero[0]).bit_length()} first")
                tell(f"{form} {int(value.size - nonzero[-1]).bit_length()} last")


# The wire protocol


class Wire:
    """An input: how many frames, whether to repair the checksum, the first's size; then frames."""

    def seeds(self) -> list[bytes]:
        """Every kind of message."""
        return [self._packed(example) for example in frames.VALID]

    @staticmethod
    def _packed(example: list[bytes]) -> bytes:
        return struct.pack("<BH", len(example), len(example[0])) + b"".join(example)

    def try_input(self, data: bytes) -> None:
        """One input; raises ``Finding``."""
        if len(data) < 3:
            return
        count, size = struct.unpack_from("<BH", data)
        rest = data[3:]
        found = [rest] if count & 3 == 1 else [rest[:size], rest[size:]]
        if not count & 0x80:
            found = frames.repaired(found)
        tell(frames.receive(found))


# Instruments


def instrument_module(module: ModuleType) -> None:
    """Have Atheris follow every plain function and method of a module."""
    for name, item in list(vars(module).items()):
        if getattr(item, "__module__", None) != module.__name__:
            continue
        if isinstance(item, FunctionType):
            setattr(module, name, atheris.instrument_func(item))
        elif inspect.isclass(item):
            for key, member in list(vars(item).items()):
                if isinstance(member, FunctionType) and not key.startswith("__"):
                    setattr(item, key, atheris.instrument_func(member))


def compressors() -> list[ModuleType]:
    """The codec's modules that hold a compressor or the contract."""
    found = []
    for info in pkgutil.iter_modules(codec.__path__, "psrv.codec."):
        module = import_module(info.name)
        if any(
            inspect.isclass(x) and issubclass(x, codec.Compressor) for x in vars(module).values()
        ):
            found.append(module)
    return found


TARGETS: dict[str, type[Codec] | type[Wire]] = {"codec": Codec, "wire": Wire}


def main() -> None:
    """``codec|wire seeds FOLDER`` writes the first corpus; all else goes to libFuzzer."""
    kind, *rest = sys.argv[1:]
    GuardedScratch().install()
    target = TARGETS[kind]()
    if rest and rest[0] == "seeds":
        for number, data in enumerate(target.seeds()):
            (Path(rest[1]) / f"seed-{number:04d}").write_bytes(data)
        return
    for signal in SIGNALS:
        atheris.instrument_func(signal)
    modules = [psrv_wire, import_module("psrv.wire_plain")] if kind == "wire" else compressors()
    for module in modules:
        instrument_module(module)
    atheris.Setup([sys.argv[0], *rest], target.try_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
