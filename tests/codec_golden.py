"""Write the golden file of a new compressor: ``python tests/codec_golden.py SPEC``.

From its transcription in the table of ``tests/codec_references.py``, not from the kernels that it
will be held against. A file that is there is never replaced: payloads in it may be on some disk or
wire, and every later version must still read them.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np

from codec_reference import Draw, Floats, word_of
from codec_references import reference_of

FOLDER = Path(__file__).parent / "codec" / "golden"
DRAW = Draw(seed=1, round=2, bucket=3, rank=4, workers=5)
KEY = DRAW.own(1)
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


def path_of(spec: str) -> Path:
    """The golden file of a spec; what a file's name cannot hold is a dash."""
    return FOLDER / f"{re.sub(r'[^a-z0-9.]', '-', spec)}.json"


def main(spec: str) -> None:
    """Write the golden file of a spec."""
    reference, cases = reference_of(spec), {}
    for name, (x, sizes) in CASES.items():
        payload = reference.encode(x, sizes, DRAW)
        decoded = reference.decode(payload, sizes, DRAW)
        cases[name] = {
            "blocks": sizes,
            "draw": list(DRAW),
            "input_sha256": sha256(x),
            "payload": payload.hex(),
            "decoded_sha256": sha256(decoded),
            "residual_sha256": sha256(x - decoded),
        }
    content = {"compressor": spec, "byte_order": "little", "cases": cases}
    with open(path_of(spec), "x", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
