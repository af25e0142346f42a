"""Spoilt messages of the wire protocol: each is a message or a ``WireError``."""

from __future__ import annotations

import re
import struct
from random import Random

import msgpack
from xxhash import xxh3_64_intdigest

from fuzz.inputs import Finding
from fuzz.mutations import mutated
from psrv.errors import WireError
from psrv.messages import describe
from psrv.wire import Direction, decode, encode
from wire.examples import EXAMPLES, frames_of

LARGEST = 1 << 20
VALID = [frames_of(message) for message in EXAMPLES]


def spoilt(random: Random) -> list[bytes]:
    """The frames of some message, one of them spoilt; the checksum is mostly made right again."""
    original = random.choice(VALID)
    index = random.randrange(len(original))
    others = [frames[min(index, len(frames) - 1)] for frames in VALID]
    changed = mutated(random, original[index], others, 2 * len(original[index]) + 8, False)
    frames = [*original[:index], changed, *original[index + 1 :]]
    if random.random() < 0.02:
        frames = random.choice((frames[:-1], [*frames, changed], frames[::-1]))
    return repaired(frames) if random.random() < 0.9 else frames


def repaired(frames: list[bytes]) -> list[bytes]:
    """With the checksum of the payload in the header, where there is a place for it."""
    if len(frames) != 2:
        return frames
    try:
        row = msgpack.unpackb(frames[0], strict_map_key=False)
    except Exception:  # whatever msgpack makes of bytes that are none of its own
        return frames
    if not isinstance(row, list) or len(row) < 8:
        return frames
    try:
        before = msgpack.packb(row[7])
    except (OverflowError, TypeError, ValueError):
        return frames
    after = msgpack.packb(xxh3_64_intdigest(frames[1]))
    return [frames[0].replace(before, after, 1) if len(before) == 9 else frames[0], frames[1]]


def receive(frames: list[bytes]) -> str:
    """What becomes of the frames: "message", or the error without its numbers.

    Raises:
        Finding: anything else than a message or a ``WireError``.
    """
    try:
        message = decode(frames, max_payload=LARGEST, direction=Direction.EITHER)
    except WireError as error:
        text = str(error)
        if not text.isprintable() or len(text) > 1000:
            raise Finding(f"refused with no line of text: {text[:200]!r}") from None
        return re.sub(r"[0-9a-f]{16}|0x[0-9a-f]+|'.*?'|[\d.]+(e[+-]\d+)?", "#", text)
    except Exception as error:
        raise Finding(f"decode raised {type(error).__name__}: {error}") from error
    shown = describe(message)
    if not (shown.isascii() and shown.isprintable()) or len(shown) > 5000:
        raise Finding(f"a message is described as {shown[:200]!r}")
    again = [bytes(frame) for frame in encode(message)]
    if decode(again, max_payload=LARGEST, direction=Direction.EITHER) != message:
        raise Finding(f"sent again, {shown} is another message")
    return "message"


def joined(frames: list[bytes]) -> bytes:
    """Frames as one run of bytes: each with its size before it."""
    return b"".join(struct.pack("<I", len(frame)) + frame for frame in frames)
