"""``psrv bench codec`` measures what it says, and fails where a target is missed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import psrv.bench
from psrv import codec
from psrv.bench import codec as bench
from psrv.bench import timing
from psrv.bench.rows import FIGURES, LARGE, TARGETS, Row
from psrv.bench.table import tables
from psrv.bench.workload import SENDERS, Part, Payloads, Server, cut
from psrv.cli import main
from psrv.codec import Draw, rng
from psrv.errors import ConfigError

SIZES = (300, 70)
BUCKET = 128
LABELS = [subject.label for subject in bench.subjects()]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(bench.measure(SIZES, seconds=1e-6, bucket=BUCKET))


@pytest.fixture(scope="module")
def large(rows: list[Row]) -> list[Row]:
    """The same, as if the larger size were one that targets apply to."""
    return [replace(row, dimension=LARGE) for row in rows if row.dimension == max(SIZES)]


def shown(rows: list[Row]) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(tables(rows), highlight=False)
    return capture.get()


# What is measured


def test_every_operation_of_every_compressor_is_measured_at_every_size(rows: list[Row]) -> None:
    found = {(row.dimension, row.compressor, row.operation) for row in rows}
    assert len(found) == len(rows)
    usual = ["encode", "decode", "decode_onto"]
    usual += [f"{word} n={n}" for word in ("reduce", "relay") for n in (4, 8, 16)]
    for size in SIZES:
        for label in LABELS:
            fed = label != "sign-unscaled"  # the one that no error feedback can use
            expected = {*usual, "encode+ef"} if fed else {*usual}
            if label == "sign" and size > BUCKET:
                expected |= {"relay n=4 2thr"}
            assert {o for d, name, o in found if (d, name) == (size, label)} == expected


def test_no_compressor_is_forgotten() -> None:
    assert {codec.parse(spec).name for spec in bench.SPECS} == {*codec.COMPRESSORS}
    assert [codec.parse(spec).spec for spec in bench.SPECS] == [*bench.SPECS]


def test_every_target_has_a_row_and_a_figure(large: list[Row]) -> None:
    reached = {target for row in large for target, _ in row.verdicts()}
    known = {target for target in TARGETS if target.compressor in LABELS}
    without_torch = {target for target in known if target.figure != "times_torch"}
    assert reached >= without_torch
    assert {target.figure for target in TARGETS} == FIGURES.keys()


def test_a_row_holds_together(rows: list[Row]) -> None:
    for row in rows:
        assert min(row.seconds, row.memcpy_seconds, row.of_memcpy) > 0
        assert row.rounds >= timing.LEAST
        assert row.ns_per_coordinate == pytest.approx(row.seconds * 1e9 / row.dimension)
        assert row.gigabytes_per_second == pytest.approx(4 / row.ns_per_coordinate)
        alone = row.operation.endswith(("n=8", "n=16", "2thr"))
        assert (row.times_numpy is None) == (row.numpy_seconds is None) == alone
        assert (row.times_torch is None) == (row.torch_seconds is None)
        assert (row.of_one_memcpy is not None) == (row.threads == 2) == ("2thr" in row.operation)


def test_a_row_says_what_its_payload_holds(rows: list[Row]) -> None:
    for row in rows:
        d = row.dimension
        compressor = codec.parse(row.compressor.partition(",")[0])
        blocks = codec.Blocks.of([d])
        size = compressor.payload_bytes(blocks, Draw(workers=SENDERS))
        assert row.payload_bytes == size or size is None
        assert row.payload_bits == 8 * row.payload_bytes / d
        kind = compressor.name
        k = {"top-k": compressor, "rand-k": compressor}.get(kind)
        if k is not None:
            assert row.entries == k.count(blocks)  # type: ignore[attr-defined]
        elif kind == "perm-k":
            assert row.entries in (d // SENDERS, d // SENDERS + 1)
        else:
            assert row.entries is row.ns_per_entry is None
        assert (row.index_bytes is not None) == (kind == "top-k")
        if kind == "top-k":
            values = compressor.form.size(row.entries)  # type: ignore[attr-defined]
            assert values + row.index_bytes == row.payload_bytes
            assert row.index_bits == 8 * row.index_bytes / row.entries
            assert row.index_ratio == row.index_bits / row.fewest_index_bits


def test_only_some_are_measured_where_they_are_named() -> None:
    assert [s.label for s in bench.subjects(["sign"])] == ["sign", "sign, one scale"]
    assert [s.label for s in bench.subjects(["dense", "dense"])] == ["dense"]
    several = [spec for spec in bench.SPECS if spec.startswith("top-k")]
    assert [s.label for s in bench.subjects(["top-k"])] == several
    assert bench.subjects([]) == bench.subjects()
    with pytest.raises(ConfigError, match="'nosuch' is unknown"):
        bench.subjects(["sign", "nosuch"])


def test_a_bucket_is_relayed_to_what_a_relay_of_it_gives() -> None:
    sign = codec.parse("sign")
    normal = np.random.default_rng(3).standard_normal(40_000 + 16_000, np.float32)
    residual, out, expected = (np.ones(40_000, np.float32) for _ in range(3))
    part = Part(sign, normal, out, residual)
    part.relay()
    blocks = cut(40_000)
    payloads, draws = Payloads(sign, blocks, normal, [SENDERS])[SENDERS]
    result = np.empty(sign.payload_bound(blocks, 1), np.uint8)
    server = Draw(rank=rng.SERVER)
    sign.relay(payloads, blocks, draws, expected, residual, 1.0, sign, server, result)
    assert out.tobytes() == expected.tobytes()
    assert np.diff(blocks.edges).tolist() == [32768, 40_000 - 32768]


def test_a_server_adds_an_error_only_where_it_keeps_one() -> None:
    assert Server(codec.parse("sign")).remembers
    assert not Server(codec.parse("sign-unscaled")).remembers
    assert not Server(codec.parse("dense")).remembers


def test_other_libraries_do_not_add_up_the_longest_vectors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench, "LONG", 70)
    rows = {row.operation: row for row in bench.measure((70,), seconds=1e-6, only=["dense"])}
    assert rows["decode_onto"].times_numpy is not None
    assert rows["reduce n=4"].times_numpy is rows["relay n=4"].times_numpy is None


# Tables


@pytest.mark.parametrize("seconds", [112.5, 0.0112])
def test_the_tables_fit_a_terminal_of_80_columns(rows: list[Row], seconds: float) -> None:
    text = shown(
        [
            replace(
                row,
                dimension=1_125_557_032,
                seconds=seconds,
                of_memcpy=123.45,
                times_numpy=row.times_numpy and 1e3,
                times_torch=row.times_torch and 0.012,
                payload_bytes=123_456_789,
                entries=row.entries and 102_555_703,
                index_bytes=row.index_bytes and 107_555_703,
            )
            for row in rows
        ]
    )
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_tables_say_every_figure(rows: list[Row], large: list[Row]) -> None:
    text = shown(rows)
    assert text.count("300 coordinates") == text.count("70 coordinates") == 1
    assert "Targets" not in text
    for label in LABELS:
        assert text.count(f"\n{label} ") >= 2
    text = shown(large)
    assert f"relay n=4 2thr at {LARGE:,}: " in text
    for target in (t for t in TARGETS if t.compressor in LABELS and t.figure != "times_torch"):
        sign = "≤" if target.most else "≥"
        assert f"{sign} {target.bound:.3g}" in text


def test_a_missed_target_is_seen(large: list[Row]) -> None:
    row = next(row for row in large if (row.compressor, row.operation) == ("sign", "decode"))
    console = Console(width=80, force_terminal=True, color_system="standard")
    for of_memcpy, red in ((0.01, True), (0.99, False)):
        with console.capture() as capture:
            console.print(tables([replace(row, of_memcpy=of_memcpy)]), highlight=False)
        assert ("\x1b[1;31m" in capture.get()) == red


# torch


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "psrv.bench.plain_torch", raising=False)
    monkeypatch.delattr(psrv.bench, "plain_torch", raising=False)


@pytest.mark.usefixtures("without_torch")
def test_without_torch_there_is_no_column_and_no_error() -> None:
    rows = list(bench.measure((70,), seconds=1e-6, only=["sign"]))
    assert {row.times_torch for row in rows} == {None}
    assert all(row.times_numpy for row in rows if row.operation in ("encode", "relay n=4"))
    assert "torch" not in shown(rows)
    large = [replace(row, dimension=LARGE) for row in rows]
    assert {t.figure for row in large for t, _ in row.verdicts()} == {"of_memcpy", "times_numpy"}


@pytest.mark.torch
def test_torch_runs_on_one_thread_while_it_is_measured_and_on_as_many_as_before_then() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        rows = bench.measure((70,), seconds=1e-6, only=["dense"])
        assert next(rows).times_torch is not None
        assert torch.get_num_threads() == 1
        assert "torch" in shown(list(rows))
        assert torch.get_num_threads() == 2
        stopped = bench.measure((70,), seconds=1e-6, only=["dense"])
        next(stopped)
        assert isinstance(stopped, Iterator)
        del stopped
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# The command


def measured(monkeypatch: pytest.MonkeyPatch, rows: list[Row], of_memcpy: float) -> None:
    changed = [
        replace(
            row,
            of_memcpy=of_memcpy,
            times_numpy=row.times_numpy and 100.0,
            times_torch=row.times_torch and 100.0,
            seconds=1e-9,
            index_bytes=None,
        )
        for row in rows
    ]
    monkeypatch.setattr(bench, "measure", lambda *given: iter(changed))


def test_check_ends_with_one_if_a_target_is_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], large: list[Row]
) -> None:
    measured(monkeypatch, large, 9.99)
    assert main(["bench", "codec", "--check"]) == 0
    measured(monkeypatch, large, 0.01)
    assert main(["bench", "codec"]) == 0
    assert main(["bench", "codec", "--check"]) == 1
    error = capsys.readouterr().err
    assert f"sign decode at {LARGE:,}: 0.01 of memcpy, target 0.7" in error
    wanted = [t for t in TARGETS if t.compressor in LABELS and t.figure == "of_memcpy"]
    assert f"{len(wanted)} targets were missed: " in error


def test_json_holds_every_row_and_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, large: list[Row]
) -> None:
    measured(monkeypatch, large, 0.5)
    path = tmp_path / "new" / "codec.json"
    assert main(["bench", "codec", "--json", str(path)]) == 0
    content = json.loads(path.read_text("utf-8"))
    assert content.keys() == {"machine", "versions", "seconds", "load_before", "rows"}
    assert content["machine"]["cores"] >= 1
    assert content["versions"].keys() >= {"python", "psrv", "numpy", "numba"}
    rows = list(bench.measure(()))
    assert len(content["rows"]) == len(rows)
    for row, written in zip(rows, content["rows"], strict=True):
        assert {name: written[name] for name in asdict(row)} == asdict(row)
        for derived in ("ns_per_coordinate", "gigabytes_per_second", "payload_bits"):
            assert written[derived] == getattr(row, derived)
        assert len(written["targets"]) == len(list(row.verdicts()))
    decode = next(
        r for r in content["rows"] if (r["compressor"], r["operation"]) == ("sign", "decode")
    )
    assert decode["targets"] == [{"figure": "of_memcpy", "bound": 0.7, "most": False, "met": False}]


def test_options_reach_the_measurement(monkeypatch: pytest.MonkeyPatch, rows: list[Row]) -> None:
    given: list[object] = []
    monkeypatch.setattr(bench, "measure", lambda *values: given.append(values) or iter(rows))
    options = ["--sizes", "1_000,20", "--only", "sign, dense", "--seconds", "0.5"]
    assert main(["bench", "codec", *options]) == 0
    assert main(["bench"]) == 0
    assert given == [((1000, 20), 0.5, ["sign", "dense"]), (bench.SIZES, 0.25, [])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "0"], "--sizes is '0'; expected whole numbers above 0"),
        (["--sizes", "ten"], "--sizes is 'ten'"),
        (["--sizes", ""], "--sizes is ''"),
        (["--sizes", "100", "--check"], "--check needs a size from 4,194,304 to below"),
        (["--only", "nosuch"], "compressor 'nosuch' is unknown"),
        (["--only", ""], "compressor '' is unknown"),
        (["--only", "dense", "--check"], "no target is set for dense"),
        (["--seconds", "0"], "--seconds is 0.0; expected a number above 0"),
        (["--seconds", "nan"], "--seconds is nan"),
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
    rows: list[Row],
) -> None:
    measured(monkeypatch, rows, 0.5)
    (tmp_path / "file").touch()
    assert main(["bench", "codec", "--json", str(tmp_path / "file" / "x.json")]) == 2
    assert "cannot write" in capsys.readouterr().err
