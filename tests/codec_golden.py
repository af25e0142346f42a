"""Write the golden file of a new compressor: ``python tests/codec_golden.py NAME``.

From the transcription in ``tests/codec_reference.py``, not from the kernels that it will be held
against. A file that is there is never replaced: payloads in it may be on some disk or wire, and
every later version must still read them.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from codec_reference import REFERENCES, Floats, key_of, word_of

FOLDER = Path(__file__).parent / "codec" / "golden"
KEY = key_of(1, 1, 2, 3, 4)
EXAMPLE = [1, -2, 3, -0.0, 0.5, -0.5, 0, 0.25, -1, 2, -0.125, 0.125]


def spread(count: int) -> Floats:
    """The numbers of the norm's test vector in ``docs/payloads.md``, over 32 powers of two."""
    words = [word_of(7, i) for i in range(count)]
    return np.array([((w >> 40) - (1 << 23)) * 2.0 ** -(w & 31) for w in words], "<f4")


CASES = {
    "example": (np.array(EXAMPLE, "<f4"), [3, 9]),
    "tails": (spread(90), [16, 33, 1, 40]),
    "chunks": (spread(4200), [100, 4100]),
}


def sha256(x: Floats) -> str:
    """Of a vector as little-endian float32."""
    return hashlib.sha256(x.astype("<f4").tobytes()).hexdigest()


def main(spec: str) -> None:
    """Write ``golden/<spec>.json``."""
    reference, cases = REFERENCES[spec], {}
    for name, (x, sizes) in CASES.items():
        payload = reference.encode(x, sizes, KEY)
        decoded = reference.decode(payload, sizes)
        cases[name] = {
            "blocks": sizes,
            "key": f"{KEY:016x}",
            "input_sha256": sha256(x),
            "payload": payload.hex(),
            "decoded_sha256": sha256(decoded),
            "residual_sha256": sha256(x - decoded),
        }
    content = {"compressor": spec, "byte_order": "little", "cases": cases}
    with open(FOLDER / f"{spec}.json", "x", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
