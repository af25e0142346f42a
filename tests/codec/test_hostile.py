"""No payload can hurt a receiver: it is a value, or it is refused before anything is written.

What is tried, and what is checked, is in ``tests/fuzz``; ``make fuzz`` tries far more. Cases
run in a process of its own between forbidden pages, so that a touch outside a buffer is a
failed test that names the case, and not the end of the test run.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from codec_pair import FORMS, Pair, real_draw
from codec_reference import Draw
from fuzz import __main__ as command
from fuzz.beds import SWEEP
from fuzz.driver import Child, Report
from fuzz.inputs import MORE, Form, forms
from fuzz.mutations import SAME_SIZE, mutated
from fuzz.record import Record, last
from fuzz.sabotage import SABOTAGED
from fuzz.vast import LARGEST
from psrv import codec
from psrv.codec import Blocks
from psrv.errors import CodecError, ConfigError

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="no mprotect"),
    pytest.mark.timeout(300),  # the first test may have every kernel to compile
]

SEED = 20


@pytest.fixture(scope="session")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with Child(tmp_path_factory.mktemp("hostile")) as child:
        yield child


def tried(child: Child, form: Form, beds: range, cases: int) -> Report:
    name = [form.spec, form.contracted]
    job = {"kind": "codec", "form": name, "seed": SEED, "beds": list(beds), "cases": cases}
    return child.run(job, limit=250)


# Payloads and messages


@pytest.mark.parametrize("form", [Form(*form) for form in FORMS], ids=str)
def test_spoilt_payloads_are_values_or_refused_and_nothing_outside_is_touched(
    child: Child, form: Form
) -> None:
    """Every size to 70 and those about the kernels' chunks, with 1, 3 and 9 senders."""
    report = tried(child, form, range(SWEEP), 10)
    assert not report.finding, report
    assert report.counts["accepted"] + report.counts["refused"] > SWEEP * 8
    # Both outcomes are common, or the cases would not be worth much.
    assert report.counts["accepted"] > 2 * SWEEP
    assert report.counts["refused"] > SWEEP // 8


@pytest.mark.parametrize("form", [form for form in forms() if form.spec in MORE], ids=str)
def test_so_are_those_of_specs_beyond_the_examples(child: Child, form: Form) -> None:
    """Every width of a code, and K at its limits; at fewer sizes."""
    report = tried(child, form, range(0, SWEEP, 11), 8)
    assert not report.finding, report


def test_spoilt_messages_are_messages_or_refused(child: Child) -> None:
    report = child.run({"kind": "wire", "seed": SEED, "beds": list(range(5)), "cases": 1000})
    assert not report.finding, report
    assert min(report.counts["accepted"], report.counts["refused"]) > 500


def test_a_job_that_cannot_be_served_is_turned_away(child: Child) -> None:
    """Its compressor decides about sizes before the server has any reason to trust it."""
    report = child.run({"kind": "join", "seed": SEED, "beds": list(range(5)), "cases": 60})
    assert not report.finding, report
    assert report.counts["refused"] > 100
    assert report.counts["accepted"] > 10


# Sizes that no test can hold in memory


@pytest.mark.skipif(sys.platform != "linux", reason="maps memory that is not there")
@pytest.mark.parametrize(
    "spec", ["top-k:20", "top-k:3000", "rand-k:20", "rand-k:5000", "perm-k", "perm-k:run=1"]
)
def test_a_sparse_payload_reaches_every_coordinate_of_the_largest_bucket(
    child: Child, spec: str
) -> None:
    report = child.run({"kind": "vast", "form": [spec, False], "seed": SEED, "cases": 5})
    if report.counts.get("no room"):
        pytest.skip("this machine has no 8 GiB of addresses to give")
    assert not report.finding, report
    assert report.counts["coordinates"] >= 5 * 20


def test_no_sparse_compressor_takes_a_bucket_beyond_its_indices() -> None:
    for spec in codec.EXAMPLES:
        compressor = codec.parse(spec)
        if compressor.sparse:
            compressor.payload_bound(Blocks.of([LARGEST]), 3)
            for sizes in ([LARGEST + 1], [LARGEST, 1], [1 << 32], [1 << 40]):
                with pytest.raises((CodecError, ConfigError), match=r"2,?147,?483,?647"):
                    compressor.payload_bound(Blocks.of(sizes), 3)


def test_sizes_of_vast_buckets_are_exact(pair: Pair) -> None:
    """They decide whether a payload is read at all: no product in them may wrap around."""
    size = 1 << 15
    for sizes in ([LARGEST], [size] * ((1 << 31) // size - 1) + [size - 1]):
        blocks = Blocks.of(sizes)
        draws = [Draw(rank=rank, workers=3) for rank in range(3)]
        exact = [pair.real.payload_bytes(blocks, real_draw(draw)) for draw in draws]
        if not pair.real.shared:
            assert exact == [pair.reference.size(sizes, draw) for draw in draws]
        elif pair.spec == "perm-k":  # its transcription makes a list of all coordinates
            assert sum(exact) == 4 * LARGEST
        bound = pair.real.payload_bound(blocks, 3)
        assert max(size or 0 for size in exact) <= bound <= 5 * LARGEST


# What would be found


FAULTS = {
    "reads-behind-payload": "was killed by SIG",
    "writes-before-out": "was killed by SIG",
    "hangs": "had not finished after 1 seconds",
    "changes-payload": "the payload was changed",
    "gives-nan": "what is not finite",
    "gives-another-value": "gave .*, expected",
    "eager": r"refused \(.*\), but wrote to its output",
    "careless": "raised ValueError",
}


def test_every_kind_of_fault_is_tried() -> None:
    assert FAULTS.keys() == SABOTAGED.keys()


@pytest.mark.parametrize("spec", FAULTS)
def test_a_fault_is_found_and_its_case_is_named(child: Child, spec: str) -> None:
    assert not tried(child, Form("sign"), range(1), 1).finding  # the process has started
    name = [spec, False]
    job = {"kind": "codec", "form": name, "seed": SEED, "beds": [6, 7], "cases": 60}
    report = child.run(job, limit=1 if spec == "hangs" else 100)
    assert re.search(FAULTS[spec], report.finding), report
    assert report.case is not None
    named = json.loads(report.case.where)
    assert named["form"] == name
    if "was killed" not in report.finding and spec != "hangs":
        again = child.run(named)
        assert (again.finding, again.case) == (report.finding, report.case)


def test_a_search_saves_what_it_finds_and_says_how_to_repeat_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "forms", lambda: (Form("gives-nan"), Form("sign")))
    monkeypatch.setattr(command, "PROCESSES", 1)
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    assert command.main(["--part", "spoilt", "--cases", "1000", "--seconds", "60"]) == 1
    found = sorted(path.name for path in tmp_path.glob("*.txt"))
    assert found == ["spoilt-finding-0.txt"]
    text = (tmp_path / found[0]).read_text("utf-8")
    assert "gives-nan" in text
    assert "1 findings" in capsys.readouterr().out
    job = text.partition("--repeat ")[2].strip().strip("'")
    assert command.main(["--repeat", job]) == 1
    assert text.splitlines()[0] == capsys.readouterr().out.splitlines()[0]


def test_a_search_goes_through_every_size_of_every_form() -> None:
    turns = -(-SWEEP // command.BEDS)
    found = list(islice(command.jobs(seed=1), (turns + 1) * (len(forms()) + 2)))
    assert {job["kind"] for job in found} == {"codec", "wire", "join"}
    for form in forms():
        own = [job for job in found if job.get("form") == [form.spec, form.contracted]]
        beds = [bed for job in own for bed in job["beds"]]
        assert sorted(beds) == list(range(SWEEP + command.BEDS))
        assert max(own[1]["beds"]) < SWEEP  # a short search has some of all lengths
        assert {bed // 20 for bed in own[1]["beds"]} == {0, 1, 2, 3}


def test_a_record_holds_the_last_case(tmp_path: Path) -> None:
    with Record(tmp_path / "record") as record:
        record.note("first", b"longer than the second")
        record.note("second", b"\x00\xff")
    case = last(tmp_path / "record")
    assert (case.where, case.data) == ("second", b"\x00\xff")


def test_most_mutations_change_the_payload_and_all_are_the_same_again() -> None:
    payload = bytes(range(100))
    others = [payload, payload[::-1]]

    def made() -> list[bytes]:
        return [mutated(Random(i), payload, others, 120, True) for i in range(300)]

    assert made() == made()
    assert sum(data != payload for data in made()) > 280
    assert sum(len(data) == 100 for data in made()) > 240


@pytest.mark.parametrize("mutation", set(SAME_SIZE), ids=lambda mutation: mutation.__name__)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 100])
def test_mutations_of_one_size_keep_it(mutation: object, size: int) -> None:
    assert callable(mutation)
    for i in range(50):
        data = bytearray(range(size))
        mutation(Random(i), data, [bytes(size)])
        assert len(data) == size
