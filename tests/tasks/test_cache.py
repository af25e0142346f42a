from __future__ import annotations

import fcntl
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from psrv.tasks import cache
from psrv.tasks.cache import cache_folder, cached

VALUES = np.arange(24, dtype=np.uint8).reshape(4, 6)


def forbidden():
    raise AssertionError("made again although a whole file is there")


def test_made_once_then_mapped_and_private(tmp_path):
    first, place = cached(tmp_path / "deep" / "er", "a-1", VALUES.copy)
    assert place == str(tmp_path / "deep" / "er" / "a-1.npy")
    assert np.array_equal(first, VALUES)
    first[0] = 99  # writes to this mapping alone
    second, _ = cached(tmp_path / "deep" / "er", "a-1", forbidden)
    assert isinstance(second, np.memmap)
    assert np.array_equal(second, VALUES)
    assert np.array_equal(np.load(place), VALUES)
    assert (tmp_path / "deep" / "er").stat().st_mode & 0o077 == 0
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:200] + bytes([content[-20] ^ 1]) + content[201:],
        lambda content: content[:8],
        lambda content: b"",
        lambda content: content + b"x",
    ],
)
def test_damaged_file_is_made_again(tmp_path, damage):
    _, place = cached(tmp_path, "a", VALUES.copy)
    path = Path(place)
    whole = path.read_bytes()
    changed = damage(whole)
    assert changed != whole
    path.write_bytes(changed)
    again, _ = cached(tmp_path, "a", VALUES.copy)
    assert np.array_equal(again, VALUES)
    assert path.read_bytes() == whole


def test_without_a_place_to_write_the_array_stays_in_memory(tmp_path, monkeypatch):
    found, place = cached(None, "a", VALUES.copy)
    assert np.array_equal(found, VALUES)
    assert place == "memory: no cache folder"
    (tmp_path / "file").write_text("")
    found, place = cached(tmp_path / "file" / "below", "a", VALUES.copy)
    assert np.array_equal(found, VALUES)
    assert place.startswith(f"memory: {tmp_path / 'file' / 'below'} cannot be used")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    found, place = cached(tmp_path, "b", VALUES.copy)
    assert np.array_equal(found, VALUES)
    assert place.endswith("cannot be written: No space left on device")
    assert not list(tmp_path.glob("*.part"))


def test_error_of_the_maker_is_passed_on_and_leaves_nothing(tmp_path):
    def fail():
        raise KeyError("source")

    with pytest.raises(KeyError, match="source"):
        cached(tmp_path, "a", fail)
    assert not list(tmp_path.glob("*.npy"))


def test_os_error_of_the_maker_does_not_run_it_twice(tmp_path):
    calls = []

    def fail():
        calls.append(1)
        raise OSError(5, "disk")

    with pytest.raises(OSError, match="disk"):
        cached(tmp_path, "a", fail)
    assert calls == [1]


def one_of_many(folder, start, counted):
    start.wait(60)

    def make():
        with counted.get_lock():
            counted.value += 1
        return VALUES.copy()

    found, _ = cached(folder, "a", make)
    os._exit(0 if np.array_equal(found, VALUES) else 1)


def test_of_several_processes_one_makes_the_array(tmp_path):
    several = multiprocessing.get_context("spawn")
    start, counted = several.Event(), several.Value("i", 0)
    processes = [
        several.Process(target=one_of_many, args=(tmp_path, start, counted)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert counted.value == 1


def test_a_process_that_hangs_with_the_lock_is_not_waited_for_beyond_the_limit(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(cache, "_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(cache, "_LOOK_EVERY_SECONDS", 0.0)
    with (tmp_path / "a.lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found, _ = cached(tmp_path, "a", VALUES.copy)
    assert np.array_equal(found, VALUES)


def test_folder_follows_the_desktops_convention(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "psrv"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for ignored in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache_folder() == tmp_path / "home" / ".cache" / "psrv"
