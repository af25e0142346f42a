"""``psrv bench codec`` measures what it says, and fails where a target is missed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from codec_pair import Pair
from codec_reference import wide
from psrv import codec
from psrv.bench import codec as bench
from psrv.bench.plain import PLAIN, mean
from psrv.cli import main
from psrv.codec import Blocks
from psrv.codec.base import Floats


@pytest.fixture(scope="module")
def rows() -> list[bench.Row]:
    return list(bench.measure((300, 70), seconds=0.001))


def test_every_operation_of_every_compressor_is_measured_at_every_size(
    rows: list[bench.Row],
) -> None:
    found = {(row.dimension, row.compressor, row.operation) for row in rows}
    assert len(found) == len(rows)
    for size in (300, 70):
        for spec in codec.COMPRESSORS:
            for operation in ("encode", "decode", "decode_onto", "reduce n=4", "reduce n=8"):
                assert (size, spec, operation) in found
    for compressor, operation in bench.TARGETS:
        assert (300, compressor, operation) in found


def test_a_row_holds_together(rows: list[bench.Row]) -> None:
    for row in rows:
        values = row.as_json()
        assert min(row.seconds, row.memcpy_seconds, row.of_memcpy) > 0
        assert values["ns_per_coordinate"] == pytest.approx(row.seconds * 1e9 / row.dimension)
        assert values["gigabytes_per_second"] == pytest.approx(
            4 / values["ns_per_coordinate"], rel=1e-9
        )
        assert (values["times_numpy"] is None) == row.operation.startswith("server")
        if row.compressor in codec.COMPRESSORS:
            size = codec.parse(row.compressor).payload_bytes(Blocks.of([row.dimension]))
            assert row.payload_bits == 8 * size / row.dimension


def test_the_table_fits_a_terminal_of_80_columns(rows: list[bench.Row]) -> None:
    large = [replace(row, dimension=11_173_962, seconds=1.2345, numpy_seconds=1e3) for row in rows]
    console = Console(width=80)
    with console.capture() as capture:
        console.print(bench.table(large))
    assert "…" not in capture.get()
    assert "sign, one scale decode_onto" not in capture.get()  # said once, at its first operation


def test_targets_apply_to_vectors_that_no_cache_holds(rows: list[bench.Row]) -> None:
    encode = next(row for row in rows if (row.compressor, row.operation) == ("sign", "encode"))
    slow = replace(encode, of_memcpy=0.59)
    assert bench.misses([slow]) == []
    slow = replace(slow, dimension=bench.LARGE)
    assert bench.misses([slow, replace(slow, of_memcpy=0.61)]) == [
        "sign encode at 4,194,304: 0.59 of memcpy, target 0.60"
    ]


def test_the_numpy_side_computes_the_same(pair: Pair) -> None:
    sizes = [70, 33]
    blocks, plain = Blocks.of(sizes), PLAIN[pair.spec]
    payloads = [np.frombuffer(pair.encode(wide(103, i), sizes)[0], np.uint8) for i in range(3)]
    for payload in payloads:
        assert plain.decode(payload, blocks).tobytes() == pair.decode(payload, sizes).tobytes()
    assert mean(plain, payloads, blocks).tobytes() == pair.reduce(payloads, sizes).tobytes()
    x: Floats = wide(103)
    _, residual = pair.encode(x, sizes)
    payload = plain.encode(x, blocks)
    np.testing.assert_allclose(x, residual, rtol=1e-4, atol=1e-4)
    assert payload.size == payloads[0].size


def measured(monkeypatch: pytest.MonkeyPatch, rows: list[bench.Row], of_memcpy: float) -> None:
    changed = [replace(row, dimension=bench.LARGE, of_memcpy=of_memcpy) for row in rows]
    monkeypatch.setattr(bench, "measure", lambda sizes: iter(changed))


def test_check_ends_with_one_if_a_target_is_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rows: list[bench.Row]
) -> None:
    measured(monkeypatch, rows, 0.99)
    assert main(["bench", "codec", "--check"]) == 0
    measured(monkeypatch, rows, 0.01)
    assert main(["bench", "codec"]) == 0
    assert main(["bench", "codec", "--check"]) == 1
    assert "sign decode at 4,194,304: 0.01 of memcpy, target 0.70" in capsys.readouterr().err


def test_json_holds_every_row_and_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rows: list[bench.Row]
) -> None:
    measured(monkeypatch, rows, 0.5)
    target = tmp_path / "new" / "codec.json"
    assert main(["bench", "codec", "--json", str(target)]) == 0
    content = json.loads(target.read_text("utf-8"))
    assert content.keys() == {"machine", "versions", "rows"}
    assert len(content["rows"]) == len(rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "0"], "--sizes is '0'; expected whole numbers above 0"),
        (["--sizes", "ten"], "--sizes is 'ten'"),
        (["--sizes", ""], "--sizes is ''"),
        (["--sizes", "100", "--check"], "--check needs a size of 4,194,304 or more"),
    ],
)
def test_bad_options_end_with_two(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "codec", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_said(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[bench.Row],
) -> None:
    measured(monkeypatch, rows, 0.5)
    (tmp_path / "file").touch()
    assert main(["bench", "codec", "--json", str(tmp_path / "file" / "x.json")]) == 2
    assert "cannot write" in capsys.readouterr().err
