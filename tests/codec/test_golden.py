"""Payloads, random words and the digest are those of the committed files and of the document."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from codec_golden import CASES, DRAW, KEY, main, path_of, sha256, spread
from codec_pair import Pair
from codec_reference import Draw, Floats, bit_of, key_of, norm1, word_of
from psrv import codec
from psrv.codec import bijection, rng
from psrv.codec.fingerprint import FINGERPRINTS, verify
from psrv.codec.kernels import CHUNK
from psrv.errors import CodecError
from reference_permk import images_of
from reference_values import norm2

DOCUMENT = (Path(__file__).parents[2] / "docs" / "payloads.md").read_text("utf-8")
EXAMPLES = [
    dict(line.split(maxsplit=1) for line in block.splitlines())
    for block in re.findall(r"^```text\n(compressor .*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
]


@pytest.mark.parametrize("case", CASES)
def test_golden_payloads_are_written_and_read(parsed: Pair, case: str) -> None:
    path = path_of(parsed.spec)
    assert path.exists(), f"run: python tests/codec_golden.py {parsed.spec}"
    golden = json.loads(path.read_text("utf-8"))
    assert (golden["compressor"], golden["byte_order"]) == (parsed.spec, "little")
    assert golden["cases"].keys() == CASES.keys()
    (x, sizes), stored = CASES[case], golden["cases"][case]
    assert (stored["input_sha256"], stored["blocks"]) == (sha256(x), sizes)
    # The first files name the key that the draw gives; later ones the draw itself.
    assert stored.get("key", f"{KEY:016x}") == f"{KEY:016x}"
    draw = Draw(*stored.get("draw", DRAW))
    payload, residual = parsed.encode(x, sizes, draw)
    assert payload.hex() == stored["payload"]
    assert sha256(residual) == stored["residual_sha256"]
    decoded = parsed.decode(bytes.fromhex(stored["payload"]), sizes, draw)
    assert sha256(decoded) == stored["decoded_sha256"]


def test_a_golden_file_is_never_replaced(parsed: Pair) -> None:
    before = path_of(parsed.spec).read_bytes()
    with pytest.raises(FileExistsError):
        main(parsed.spec)
    assert path_of(parsed.spec).read_bytes() == before


# The document


def numbers(text: str) -> np.ndarray:
    return np.array([float(word) for word in text.split()], np.float32)


def test_every_compressor_has_a_section_and_an_example_in_the_document() -> None:
    shown = {codec.parse(example["compressor"]).name for example in EXAMPLES}
    assert shown == codec.COMPRESSORS.keys()
    headings = re.findall(r"^## \d+\. (.*`)$", DOCUMENT, re.MULTILINE)
    assert set(re.findall(r"`(\S+)`", " ".join(headings))) == codec.COMPRESSORS.keys()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["compressor"])
def test_the_worked_example_is_right_and_the_golden_one(example: dict[str, str]) -> None:
    pair = Pair.of(example["compressor"])
    sizes = [int(word) for word in example["blocks"].split()]
    x = numbers(example["input"])
    payload, residual = pair.encode(x, sizes, DRAW)
    assert payload.hex() == example["payload"].replace(" ", "")
    assert residual.tobytes() == numbers(example["residual"]).tobytes()
    assert pair.decode(payload, sizes, DRAW).tobytes() == numbers(example["decoded"]).tobytes()
    golden = json.loads(path_of(pair.spec).read_text("utf-8"))["cases"]["example"]
    if golden["input_sha256"] == sha256(x):
        assert (golden["payload"], golden["blocks"]) == (payload.hex(), sizes)
    else:
        assert pair.spec in ("bf16", "fp16")  # which lose nothing of the other input


def test_the_sizes_in_the_document_are_those_of_the_compressors() -> None:
    blocks = codec.Blocks.of([1 << 15] * 341 + [11_173_962 - (341 << 15)])
    rows = re.findall(r"^\| `(\S+)` \|.*\| ([\d,]+) \|$", DOCUMENT, re.MULTILINE)
    assert {codec.parse(spec).name for spec, _ in rows} == codec.COMPRESSORS.keys()
    for spec, size in rows:
        found = codec.parse(spec).payload_bytes(blocks, codec.Draw(workers=4))
        bound = codec.parse(spec).payload_bound(blocks, 4)
        assert int(size.replace(",", "")) == (bound if found is None else found), spec


def test_the_norm_of_the_document() -> None:
    total, scale = re.findall(r"^[Ns] = (0x1\.[0-9a-f]+p\+\d+)", DOCUMENT, re.MULTILINE)
    data, data2 = re.findall(r"as bytes ((?:[0-9a-f]{2} ?){4})", DOCUMENT)
    y = spread(4200)[100:]
    assert norm1(y) == float.fromhex(total)
    assert np.float32(norm1(y) / y.size) == float.fromhex(scale)
    payload, _ = Pair.of("sign").encode(y, [y.size])
    assert payload[:4] == bytes.fromhex(data)
    plain = np.float32(np.abs(y.astype(np.float64)).mean())
    assert plain.tobytes() != payload[:4]  # the vector tells orders apart
    total2, norm = re.findall(r"^(?:sum|n) = (0x1\.[0-9a-f]+p\+\d+)", DOCUMENT, re.MULTILINE)
    assert np.float32(np.sqrt(float.fromhex(total2))) == norm2(y) == float.fromhex(norm)
    assert Pair.of("qsgd:4").encode(y, [y.size])[0][:4] == bytes.fromhex(data2)
    assert f"{CHUNK:,} coordinates" in DOCUMENT


def test_the_random_words_of_the_document() -> None:
    keys = re.findall(r"^key\(([\d, ]+)\) = 0x([0-9a-f]{16})$", DOCUMENT, re.MULTILINE)
    words = re.findall(r"^word\((\w+), (\d+)\) = 0x([0-9a-f]{16})$", DOCUMENT, re.MULTILINE)
    ((key, bits),) = re.findall(r"^bits 0 to 15 of (0x\w+) = ([01]{16})$", DOCUMENT, re.MULTILINE)
    assert len(keys) == 6
    assert len(words) == 8
    for fields, value in keys:
        parts = [int(part) for part in fields.split(",")]
        assert key_of(*parts) == int(value, 16)
        seed, purpose, *rest = parts
        assert rng.key(seed, rng.Purpose(purpose), *rest) == int(value, 16)
    for stream, index, value in words:
        for function in (word_of, rng.word, rng.word64):
            typed = np.uint64(int(stream, 0)) if function is rng.word64 else int(stream, 0)
            assert int(function(typed, int(index))) == int(value, 16)
    assert "".join(map(str, rng.bits(int(key, 16), 16))) == bits
    for purpose in rng.Purpose:
        assert f"\n| {purpose.value} | " in DOCUMENT


def test_the_bijection_of_the_document() -> None:
    key = int(re.findall(r"π\(0\) to π\(4\), key (0x[0-9a-f]{16})", DOCUMENT)[0], 16)
    rows = re.findall(
        r"^\| ([\d,]+) \| \d+ \| \d+ \| ([\d ]+) \| (\d*) ?\|$", DOCUMENT, re.MULTILINE
    )
    assert len(rows) == 7
    for size, images, zero in rows:
        m, expected = int(size.replace(",", "")), [int(word) for word in images.split()]
        assert [bijection.image(key, m, i) for i in range(len(expected))] == expected
        assert images_of(key, m, range(len(expected))).tolist() == expected
        if zero:
            assert bijection.preimage(key, m, 0) == int(zero)


def transcribed(pair: Pair, z: Floats, sizes: list[int]) -> Iterator[bytes]:
    """What the entry of a spec is made of, by its transcription alone."""
    reference, draw = pair.reference, Draw(1, 2, 3, 4, 5)
    for x in (z + np.float32(-0.5) * z, z):
        payload = reference.encode(x, sizes, draw)
        decoded = reference.decode(payload, sizes, draw)
        yield payload + (x - decoded).tobytes()
    yield decoded.tobytes() + (z + decoded).tobytes()
    three, draws = [payload] * 3, [draw] * 3
    weights = np.array([0.5, 0.25, 2], np.float32)
    yield pair.expected(three, sizes, z, 0.5, weights, draws).tobytes()
    mean = pair.expected(three, sizes, z, 0.5, None, draws)
    payload = reference.encode(mean, sizes, draw)
    yield payload + (mean - reference.decode(payload, sizes, draw)).tobytes()


def test_the_digest_of_the_document() -> None:
    """It changes with every new compressor or format: then the protocol's peers must be new too."""
    (documented,) = re.findall(r"^digest = ([0-9a-f]{64})$", DOCUMENT, re.MULTILINE)
    hasher = hashlib.sha256(b"".join(word_of(KEY, i).to_bytes(8, "little") for i in range(4)))
    i = np.arange(4177, dtype=np.float32)
    z = (i % 11 - 5) / (i + 1)
    for spec in sorted(codec.EXAMPLES + codec.OF_SEVERAL):
        entry = hashlib.sha256(b"".join(transcribed(Pair.of(spec), z, [4100, 77])))
        assert FINGERPRINTS[spec] == entry.hexdigest(), spec
        hasher.update(spec.encode() + entry.digest())
    assert FINGERPRINTS.keys() == {*codec.EXAMPLES, *codec.OF_SEVERAL}
    assert codec.digest().hex() == hasher.hexdigest() == documented


def test_kernels_that_compute_something_else_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    codec.warmup(["sign", "top-k:0.01/bf16"])
    verify.cache_clear()
    monkeypatch.setitem(FINGERPRINTS, "sign", "0" * 64)
    with pytest.raises(CodecError, match=r"kernels of 'sign' do not compute .* Numba's cache"):
        codec.warmup(["sign"])
    verify.cache_clear()


# The generator


def test_the_kernels_words_are_those_of_the_specification() -> None:
    for key in (0, 1, KEY, (1 << 64) - 1):
        for index in (0, 1, 63, 64, 2**25, 2**31, 2**40):
            word = word_of(key, index)
            assert rng.word(key, index) == int(rng.word64(np.uint64(key), index)) == word


def test_bits_are_those_of_the_specification() -> None:
    for count in (0, 1, 63, 64, 65, 200):
        assert rng.bits(KEY, count).tolist() == [bit_of(KEY, i) for i in range(count)]


def test_every_field_of_a_key_counts_and_none_can_stand_for_another() -> None:
    base = dict.fromkeys(("seed", "round", "bucket", "rank"), 1)
    keys = {rng.key(purpose=rng.Purpose.TIE, **base)}
    for field in base:
        keys |= {rng.key(purpose=rng.Purpose.TIE, **(base | {field: v})) for v in (0, 2, 3)}
    assert len(keys) == 13


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_exact_zeros_take_the_bit_of_their_coordinate(zero: float) -> None:
    pair = Pair.of("sign-unscaled")
    x = np.where(np.arange(1000) % 3 == 0, zero, 1).astype(np.float32)
    for rank in (0, 1, rng.SERVER):
        payload, _ = pair.encode(x, [1000], Draw(5, 9, 2, rank))
        negative = np.unpackbits(np.frombuffer(payload, np.uint8), bitorder="little")
        bits = rng.bits(rng.key(5, rng.Purpose.TIE, 9, 2, rank), 1000)
        assert (negative == np.where(x == 0, bits, 0)).all()


def test_ties_have_no_preferred_side_and_do_not_follow_one_another() -> None:
    count, rounds = 1 << 14, 16
    votes = [
        rng.bits(rng.key(1, rng.Purpose.TIE, round, 0, 0), count).astype(int)
        for round in range(rounds)
    ]
    total = np.sum(votes)
    assert abs(total - count * rounds / 2) < 4 * np.sqrt(count * rounds / 4)
    for one, other in pairwise(votes):
        assert abs(np.sum(one ^ other) - count / 2) < 4 * np.sqrt(count / 4)
