from __future__ import annotations

import sys

import numpy as np
import pytest

from psrv.errors import ConfigError, DataError
from psrv.tasks import cifar_file
from psrv.tasks.cifar_file import ARCHIVE, FOLDER, JPEG, find_source
from tasks.cifar_data import jpeg_arrays, records, write_archive, write_folder

pytest.importorskip("PIL")

TRAIN, TEST = records(23, 0), records(11, 1)


@pytest.fixture
def jpeg(tmp_path):
    return tmp_path / JPEG


def test_folder_is_read_in_the_order_of_its_files(tmp_path):
    write_folder(tmp_path / FOLDER, TRAIN, TEST)
    for place in (tmp_path, tmp_path / FOLDER):
        source = find_source(place, "cifar10")
        assert np.array_equal(source.records("train"), TRAIN)
        assert np.array_equal(source.records("test"), TEST)
        assert np.array_equal(source.records("train", 7), TRAIN[:7])


def test_archive_holds_the_same(tmp_path):
    write_archive(tmp_path / ARCHIVE, write_folder(tmp_path / "elsewhere", TRAIN, TEST))
    source = find_source(tmp_path, "cifar10")
    assert isinstance(source, cifar_file.Archive)
    assert np.array_equal(source.records("train"), TRAIN)
    assert np.array_equal(source.records("test"), TEST)


def test_jpeg_files_decode_to_nearly_the_same(jpeg):
    np.savez(jpeg, **jpeg_arrays(TRAIN, TEST))
    source = find_source(jpeg.parent, "cifar10")
    for split, rows in (("train", TRAIN), ("test", TEST)):
        found = source.records(split)
        assert found.shape == rows.shape
        assert np.array_equal(found[:, 0], rows[:, 0])
        assert np.abs(found.astype(int) - rows).mean() < 3
        assert np.array_equal(source.records(split, 5), found[:5])
        assert np.array_equal(source.records(split, 99), found)


def test_the_lossless_forms_come_first(tmp_path, jpeg):
    np.savez(jpeg, **jpeg_arrays(TRAIN, TEST))
    write_archive(tmp_path / ARCHIVE, write_folder(tmp_path / "elsewhere", TRAIN, TEST))
    assert isinstance(find_source(tmp_path, "cifar10"), cifar_file.Archive)
    write_folder(tmp_path / FOLDER, TRAIN, TEST)
    assert isinstance(find_source(tmp_path, "cifar10"), cifar_file.Folder)


def test_key_changes_with_content_split_and_decoder(tmp_path, jpeg, monkeypatch):
    folder = write_folder(tmp_path / FOLDER, TRAIN, TEST)
    source = find_source(tmp_path, "cifar10")
    before = source.key("train")
    assert before == source.key("train") != source.key("test")
    changed = bytearray((folder / "data_batch_3.bin").read_bytes())
    changed[77] ^= 1
    (folder / "data_batch_3.bin").write_bytes(changed)
    assert source.key("train") != before
    np.savez(jpeg, **jpeg_arrays(TRAIN, TEST))
    packed = cifar_file.Jpeg(jpeg, "cifar10")
    before = packed.key("test")
    monkeypatch.setattr("PIL.Image.__version__", "0.1")
    assert packed.key("test") != before


def test_missing_data_says_what_is_needed_and_where_it_is(tmp_path):
    for folder in (None, tmp_path):
        with pytest.raises(DataError) as caught:
            find_source(folder, "cifar10")
        for part in (FOLDER, ARCHIVE, JPEG, "https://", "--data", "PSRV_DATA"):
            assert part in str(caught.value)


def test_jpeg_without_pillow_says_what_to_install(jpeg, monkeypatch):
    jpeg.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ConfigError, match=r"needs Pillow .* pip install 'psrv\[torch\]'"):
        find_source(jpeg.parent, "cifar10")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "has 0 bytes; expected records of 3073"),
        (TEST.tobytes()[:-1], f"has {11 * 3073 - 1} bytes"),
        (b"\x0a" + TEST.tobytes()[1:], "holds label 10; expected 0 to 9"),
        (None, "cannot be read: No such file"),
    ],
)
def test_damaged_binary_file_is_a_data_error_that_names_it(tmp_path, content, says):
    folder = write_folder(tmp_path / FOLDER, TRAIN, TEST)
    path = folder / "test_batch.bin"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        find_source(tmp_path, "cifar10").records("test")
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [0, 40, 2000, -9])
def test_cut_archive_is_a_data_error(tmp_path, cut):
    path = write_archive(tmp_path / ARCHIVE, write_folder(tmp_path / "else", TRAIN, TEST))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError) as caught:
        find_source(tmp_path, "cifar10").records("train")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_archive_with_a_wrong_checksum_is_a_data_error(tmp_path):
    path = write_archive(tmp_path / ARCHIVE, write_folder(tmp_path / "else", TRAIN, TEST))
    content = path.read_bytes()
    path.write_bytes(content[:-8] + bytes(4) + content[-4:])
    with pytest.raises(DataError, match=r"not a whole \.tar\.gz file"):
        find_source(tmp_path, "cifar10").records("train")


def test_archive_without_a_batch_is_a_data_error(tmp_path):
    folder = write_folder(tmp_path / "elsewhere", TRAIN, TEST)
    (folder / "data_batch_4.bin").unlink()
    write_archive(tmp_path / ARCHIVE, folder)
    with pytest.raises(DataError, match=r"holds no data_batch_4\.bin"):
        find_source(tmp_path, "cifar10").records("train")


def _cut_last(arrays):
    jpeg = arrays["test_jpeg"][:-300]
    offsets = arrays["test_offsets"].copy()
    offsets[-1] = jpeg.size
    return {"test_jpeg": jpeg, "test_offsets": offsets}


def _other_size(arrays):
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (32, 31)).save(stream, "JPEG")
    file = np.frombuffer(stream.getvalue(), np.uint8)
    return {
        "test_jpeg": file,
        "test_offsets": np.array([0, file.size]),
        "test_labels": np.zeros(1, np.uint8),
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: {"test_jpeg": a["test_jpeg"][:-1]}, "expected ascending from 0 to"),
        (lambda a: {"test_offsets": a["test_offsets"][::-1]}, "expected ascending from 0"),
        (lambda a: {"test_offsets": a["test_offsets"][:-1]}, "11 offsets and 11 labels"),
        (lambda a: {"test_offsets": a["test_offsets"].astype(float)}, "expected one axis of int64"),
        (lambda a: {"test_jpeg": a["test_jpeg"][None]}, "expected one axis of uint8"),
        (lambda a: {"test_jpeg": a["test_jpeg"].astype(np.uint16)}, "uint16 test_jpeg"),
        (lambda a: {"test_labels": a["test_labels"][:0]}, "12 offsets and 0 labels"),
        (lambda a: {"test_labels": a["test_labels"] + np.uint8(1)}, "holds label 10"),
        (lambda a: {"test_labels": np.array(["a"] * 11, object)}, "cannot be read as an npz"),
        (lambda a: {"test_jpeg": a["test_jpeg"] * np.uint8(0)}, "test image 0 is not a JPEG"),
        (_cut_last, "test image 10 is not a JPEG that Pillow can read"),
        (_other_size, "test image 0 is RGB of (32, 31); expected RGB of (32, 32)"),
    ],
)
def test_damaged_jpeg_data_is_a_data_error(jpeg, change, says):
    arrays = jpeg_arrays(TRAIN, TEST)
    np.savez(jpeg, **{**arrays, **change(arrays)})
    with pytest.raises(DataError) as caught:
        find_source(jpeg.parent, "cifar10").records("test")
    assert says in str(caught.value)
    assert str(jpeg) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_cut_of_the_npz_is_a_data_error(jpeg):
    np.savez_compressed(jpeg, **jpeg_arrays(records(3, 0), records(2, 1)))
    whole = jpeg.read_bytes()
    for cut in [0, 1, 4, 30, *range(50, len(whole), len(whole) // 40), len(whole) - 1]:
        jpeg.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="cannot be read as an npz file with train_jpeg"):
            find_source(jpeg.parent, "cifar10").records("train")


def test_npz_without_an_array_is_a_data_error(jpeg):
    arrays = jpeg_arrays(TRAIN, TEST)
    del arrays["train_offsets"]
    np.savez(jpeg, **arrays)
    with pytest.raises(DataError, match="train_offsets"):
        find_source(jpeg.parent, "cifar10").records("train")
