"""What this version's payloads are, as a table: for the handshake, and to test the machine.

Each entry is a sha256 over what every operation of a compressor makes of one fixed vector:
payloads, what was left over, decoded, added, reduced and relayed. Two processes whose tables
differ refuse each other. And before a compressor is used, its kernels are run on that vector:
a stale or foreign cache of compiled kernels, or a processor that rounds in another way, is
found before it can train on nonsense.

``show()`` prints the table of the kernels as they are now; a change in it is a change of the
protocol.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np

from psrv.codec import rng
from psrv.codec.base import Blocks, Draw, aligned
from psrv.codec.registry import COMPRESSORS, EXAMPLES, OF_SEVERAL, parse
from psrv.errors import CodecError

FINGERPRINTS = {
    "bf16": "04e1d97ba18a74a8914ab5590cac46ee8f01e952f819af133b076ad7d0085c97",
    "dense": "42cb1f6baa60c6be9af82dbe9a854ffa26a02cc1a22f35cc45c3241b58fc92e2",
    "fp16": "40fed4c4a4e6f0c1dd9ae515cef993382d1964079dc50359a51e44e8055670e3",
    "natural": "945a643bb58966246b5c3b4bb48dd536309ebbfe8285fc791f0627ea749e3d08",
    "perm-k": "b78d5920119b212f7ffb207be1b8e02f36831c59ea8de27312d0459e2336067a",
    "perm-k/natural": "68be0a1d667a33c0dd2f3dae84f04f045a45fe565e288d187e48b0e532856e17",
    "perm-k:blocks=2": "12e8cb77f372b75bf16eabb6511b508a8d5a87424e512df064909dd3f570979f",
    "perm-k:groups=2": "4c00ac302a57efa0e33ed20b7d07ec82197a0942c26c643add49ecd7f8e48ff2",
    "perm-k:run=16": "8eeca44f456e268018e45970a92d4a04f8d7667ba04283fc830a7ed3d3976c30",
    "qsgd:100": "fe89590891d272250d84ba12c794050f95bac250bfdcf931f8a8b3f6e6db88d4",
    "qsgd:4": "6758541d4b9a9bd87914e41fd7670315e8691b99fa7837ac5453dfacafdcaf6f",
    "rand-k:0.25": "b42cf0e044f3991389ffd23f87242fd8bd12501f73d3d6225899857435c51475",
    "rand-k:0.25/natural": "6eab17d2eb6b9816493de1510466e14c1c47a97e0343fdeb5f60ce2d2fe2310f",
    "rand-k:1": "6d1fc88120187b3ddb56abc48b56bfb52d75d9851ec31736b20120949e1cb81c",
    "sign": "26990cc61f4faffc6dfd7eb581378738d2ce5534636bd81f2487e2b6afb45bd8",
    "sign-unscaled": "7f3fe9431d1adaa74bf96a8450cf62b74a9f5cab1b551bac8950651dca0cded5",
    "top-k:0.25": "724e410ee4edb2573cfb75085ad03d4c3dc2ed5c8578f130403fb1760be3793c",
    "top-k:0.25/bf16": "d97987500cd214f98719075661af3e155ad4c7c1ad26f75b14d0ba306e13f122",
    "top-k:0.25/natural": "afe35b151c0f040b7f0b775871fc270339acdb4205d08bfb699b2140bf82d593",
    "top-k:1": "26e1809be51c9ae2c9aa09b8fe5956120ab8a5c1eed8266b0641e2d697e496d8",
}


@cache
def digest() -> bytes:
    """32 bytes that two processes share if they produce and read the same payloads.

    sha256 over the generator's first words and the table above. Exchanged when a worker
    connects, so that a change of format, of generator or of summation order is refused
    instead of training on nonsense.
    """
    hasher = hashlib.sha256()
    key = rng.key(1, rng.Purpose.TIE, 2, 3, 4)
    for i in range(4):
        hasher.update(rng.word(key, i).to_bytes(8, "little"))
    for spec in sorted(FINGERPRINTS):
        hasher.update(spec.encode() + bytes.fromhex(FINGERPRINTS[spec]))
    return hasher.digest()


def fingerprint(spec: str) -> str:
    """The entry of a compressor, computed by the kernels of this process, in hex."""
    compressor, draw = parse(spec), Draw(1, 2, 3, 4, 5)
    blocks = Blocks.of([4100, 77])
    ramp = np.arange(blocks.dimension, dtype=np.float32)
    z = (ramp % 11 - 5) / (ramp + 1)
    x, out = aligned(blocks.dimension), aligned(blocks.dimension)
    room = np.empty(compressor.payload_bound(blocks, draw.workers), np.uint8)
    hasher = hashlib.sha256()
    for residual, rho in ((z, -0.5), (None, 1.0)):
        x[:] = z
        payload = room[: compressor.encode(x, blocks, draw, room, residual, rho)].copy()
        hasher.update(payload)
        hasher.update(x)
    three, draws = [payload] * 3, [draw] * 3
    compressor.decode(payload, blocks, draw, out)
    hasher.update(out)
    compressor.decode_onto(payload, blocks, draw, z, out)
    hasher.update(out)
    compressor.reduce(three, blocks, draws, out, z, 0.5, np.array([0.5, 0.25, 2], np.float32))
    hasher.update(out)
    size = compressor.relay(three, blocks, draws, out, z, 0.5, compressor, draw, room)
    hasher.update(room[:size])
    hasher.update(out)
    return hasher.hexdigest()


@cache
def verify(name: str) -> None:
    """Check the kernels of one compressor against the table.

    Raises:
        CodecError: they compute something else.
    """
    kind = COMPRESSORS[name]
    for spec in kind.examples + kind.examples_of_several:
        if fingerprint(spec) != FINGERPRINTS[spec]:
            raise CodecError(
                f"the kernels of '{spec}' do not compute on this machine what the specification "
                "says; delete Numba's cache (the *.nbi and *.nbc files of psrv/codec/__pycache__, "
                "or NUMBA_CACHE_DIR) and start again; if that does not help, this processor "
                "is not supported"
            )


def show() -> None:
    """Print the table of the kernels of this process, for this file."""
    for each in sorted(EXAMPLES + OF_SEVERAL):
        print(f'    "{each}": "{fingerprint(each)}",')
