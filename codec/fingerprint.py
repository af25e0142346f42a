"""What this version's payloads are, as a table: for the handshake, and to test the machine.

Each entry is the sha256 of a compressor's payload of one fixed vector, of what it decodes to
and of what was left over. Two processes whose tables differ refuse each other. And before a
compressor is used, its kernels are run on that vector: a stale or foreign cache of compiled
kernels, or a processor that rounds in another way, is found before it can train on nonsense.

``python -m psrv.codec.fingerprint`` prints the table of the kernels as they are now; a change
in it is a change of the protocol.
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
    "bf16": "26ed7dbab4e54bdc9428b769847cdf7f8cdf1d4cb664099de0b74ff3e5faa08d",
    "dense": "fd99cd86606c13c54ff21754d7bb76bd0ddb44ca9f46ce24fc057439853c1b38",
    "fp16": "59445c42d2d8c6bce8545d9565e5fea5dfad185759e7fb0fb438d1bf88f5cb66",
    "natural": "7425baac103f89e74b9a07420079ada0677c5b3073adad5dc8305b7ad2d5a154",
    "perm-k": "887636845d2babfc0f498cf11639ad41a9009f96ec9ac6a70afa075b6a87ec1a",
    "perm-k/natural": "41e704168cade96d0d61363ab067156e884a11c1cb2f92264bcc2b30a52f12ff",
    "perm-k:blocks=2": "dede6c37b1dc417f753e6888e1dea4ab19b8eb47afed2656257a5a8602386441",
    "perm-k:groups=2": "27795a3715f7b39b458eadc52c33c91adabead8407a52a3736313f80e7f2f0e8",
    "perm-k:run=16": "c6264dd5e4ec7ea51f7134b46853337bca4e2a6a3052f2a50a2d8b5ed16c65df",
    "qsgd:100": "4a24970a97c373decbb7fdf9d918bf4a3e84eecb4f16a87e9bf2fddf0b02b78f",
    "qsgd:4": "03384345d0cde049b0bbedeafac60cf33016b02c5d57a6afd7d6e801a017464b",
    "rand-k:0.25": "238b66f9f221ed4bb003671046a176f28d141a8f06990cc09b293238e4ea5a34",
    "rand-k:0.25/natural": "695a2c5e1034577d55eb25c923106dae1a4b2d2f971027c0379e9c79411f4ad8",
    "rand-k:1": "91b9836897f338d4e9d36e62c8ec6529bcfee9366ebd66e424857114b84f9411",
    "sign": "e59df88ed7cf407b9e335f34294c0888735e5b4ba39480d58f5169339d62731a",
    "sign-unscaled": "57a2f278d4b0f3e2b3ed461e0f35d5a215ae03e32fed0a1591378682e2855b3d",
    "top-k:0.25": "8210a47ad93127aad78eaaf9a8409c04655f540fa61ec58d11f7688e3075448b",
    "top-k:0.25/bf16": "042ca4bb7c4242ee90759b2b1198ecdc29445085d1f0a5ce727b021cd5b6675e",
    "top-k:0.25/natural": "7a6a9458c1016a62f0098bae987d577d78397b08d4c6b187d20ff21a815960ac",
    "top-k:1": "9bddd56328aac50bdfd3a55c1bead28733d568e627d12662fa4255ddceded02c",
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
    vector, decoded = aligned(blocks.dimension), aligned(blocks.dimension)
    vector[:] = (ramp % 11 - 5) / (ramp + 1)
    payload = np.empty(compressor.payload_bound(blocks, draw.workers), np.uint8)
    payload = payload[: compressor.encode(vector, blocks, draw, payload)]
    compressor.decode(payload, blocks, draw, decoded)
    hasher = hashlib.sha256(payload)
    hasher.update(vector)
    hasher.update(decoded)
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


if __name__ == "__main__":
    for each in sorted(EXAMPLES + OF_SEVERAL):
        print(f'    "{each}": "{fingerprint(each)}",')
