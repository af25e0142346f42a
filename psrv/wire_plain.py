"""MessagePack from strangers: plain values only, bounded before anything is allocated.

Plain values are nil, booleans, 64-bit integers, finite floats, text, and lists and maps of
them whose keys are distinct texts. ``pack_map`` and ``unpack_map`` carry jobs and summaries;
``survey`` and ``unpack`` also serve the headers in psrv/wire.py.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, Final

import msgpack

from psrv.errors import ProtocolError, PsrvError, WireError
from psrv.messages import MAX_DEPTH, MAX_ITEMS, MAX_STRING, show


def pack_map(value: object, what: str, limit: int) -> bytes:
    """A dict of plain values in at most ``limit`` bytes; tuples become lists.

    Raises:
        ProtocolError: not a dict, not plain, nested deeper than MAX_DEPTH, or too large.
    """
    if type(value) is not dict:
        raise ProtocolError(f"{what} is {show(value)}; expected a dict")
    # Before packing: the walk also ends where a map holds itself.
    if fault := _fault(value, MAX_DEPTH):
        raise ProtocolError(f"{what}{fault}")
    packed: bytes = msgpack.packb(value)
    if len(packed) > limit:
        raise ProtocolError(f"{what} packs into {len(packed)} bytes; the limit is {limit}")
    survey(memoryview(packed), what, MAX_DEPTH, MAX_ITEMS, ProtocolError)
    return packed


def unpack_map(view: memoryview, what: str) -> dict[str, Any]:
    """The map of plain values in ``view``, whose size the caller has checked.

    Raises:
        WireError: anything else than one such map.
    """
    survey(view, what, MAX_DEPTH, MAX_ITEMS)
    value = unpack(view, what, MAX_STRING)
    if type(value) is not dict:
        raise WireError(f"{what} is {show(value)}; expected a map")
    if fault := _fault(value, MAX_DEPTH):
        raise WireError(f"{what}{fault}")
    return value


def is_unicode(text: str) -> bool:
    """Whether ``text`` can be sent as UTF-8, which has no lone surrogates."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def unpack(view: memoryview, what: str, text: int) -> Any:
    """One MessagePack value with texts of up to ``text`` characters and no extension types.

    Raises:
        WireError: invalid, incomplete or followed by more; a map key repeated or not text.
    """
    try:
        # Without limits of their own, unpackb holds all other lengths to the bytes there are.
        return msgpack.unpackb(
            view,
            strict_map_key=True,
            max_ext_len=0,
            max_str_len=4 * text,
            object_pairs_hook=_strict_map,
        )
    except ValueError as error:
        raise WireError(f"{what} is not valid MessagePack: {str(error) or 'bad format'}") from None


def survey(
    view: memoryview, what: str, depth: int, items: int, fault: type[PsrvError] = WireError
) -> None:
    """Walk over packed data, and refuse it if it is nested too deep or holds too much.

    unpackb makes room for an array as soon as it has read its length. Nested false lengths would
    make a message of kilobytes cost gigabytes, so what is long is walked over first.

    Args:
        depth: most lists and maps inside one another, empty ones not counted.
        items: most values and keys in all.
    """
    end = view.nbytes
    position = 0
    pending = [1]  # values still to come, by level
    while pending:
        if pending[-1] == 0:
            pending.pop()
            continue
        pending[-1] -= 1
        if position == end:
            raise fault(f"{what} ends early, at byte {end}")
        tag = _TAGS[view[position]]
        if tag is None:
            raise fault(f"{what} has an extension or an unused tag at byte {position}")
        position += 1
        size, count, width, unit = tag
        if width:
            length = int.from_bytes(view[position : position + width], "big")
            position += width
            size, count = (0, unit * length) if unit else (length, 0)
        position += size
        items -= count
        if position > end:
            raise fault(f"{what} claims more than its {end} bytes can hold")
        if items < 0:
            raise fault(f"{what} holds too many values")
        if count:
            pending.append(count)
            if len(pending) > depth + 1:
                raise fault(f"{what} is nested deeper than {depth}")
    if position != end:
        raise fault(f"{what} ends at byte {position}, but {end} came")


def _tags() -> list[tuple[int, int, int, int] | None]:
    """By first byte: bytes and values that follow, then the width of a length and its unit.

    Unit 0 counts bytes, 1 and 2 count values (arrays, maps). None: not allowed.
    """
    tags: list[tuple[int, int, int, int] | None] = [(0, 0, 0, 0)] * 256
    for low in range(16):
        tags[0x80 + low] = (0, 2 * low, 0, 0)
        tags[0x90 + low] = (0, low, 0, 0)
    for low in range(32):
        tags[0xA0 + low] = (low, 0, 0, 0)
    for power in range(3):
        tags[0xC4 + power] = tags[0xD9 + power] = (0, 0, 1 << power, 0)
    for power in range(4):
        tags[0xCC + power] = tags[0xD0 + power] = (1 << power, 0, 0, 0)
    for power in range(2):
        tags[0xCA + power] = (4 << power, 0, 0, 0)
        tags[0xDC + power] = (0, 0, 2 << power, 1)
        tags[0xDE + power] = (0, 0, 2 << power, 2)
    for refused in (0xC1, *range(0xC7, 0xCA), *range(0xD4, 0xD9)):
        tags[refused] = None
    return tags


_TAGS: Final = _tags()


def _strict_map(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if type(key) is not str or key in table:
            raise ValueError("a map key is repeated or not text")
        table[key] = value
    return table


def _fault(value: Any, depth: int) -> str:
    """Where and why ``value`` is not plain (as ``['key'][0] is ...``), or nothing."""
    kind = type(value)
    if kind is str:
        return "" if _is_text(value) else f" is {show(value)}; expected {_TEXT}"
    if kind is int:
        if -(1 << 63) <= value < 1 << 64:
            return ""
        return f" is {show(value)}; expected an integer of at most 64 bits"
    if kind is float:
        return "" if isfinite(value) else f" is {value}; expected a finite number"
    if kind is bool or value is None:
        return ""
    if kind is not dict and kind is not list and kind is not tuple:
        return f" is {show(value)}; expected a plain value"
    if depth == 0:
        return f" is nested deeper than {MAX_DEPTH}"
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or not _is_text(key):
                return f" has the key {show(key)}; expected {_TEXT}"
            if fault := _fault(item, depth - 1):
                return f"[{show(key)}]{fault}"
        return ""
    for index, item in enumerate(value):
        if fault := _fault(item, depth - 1):
            return f"[{index}]{fault}"
    return ""


_TEXT: Final = f"text of at most {MAX_STRING} characters"


def _is_text(text: str) -> bool:
    return len(text) <= MAX_STRING and is_unicode(text)
