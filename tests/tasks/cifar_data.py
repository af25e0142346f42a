"""Small made-up data sets in the forms of CIFAR-10's files."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np

RECORD = 3073


def records(count: int, seed: int) -> np.ndarray:
    """uint8 (count, 3073): classes in turn, and smooth random images, which JPEG keeps well."""
    draw = np.random.default_rng(seed)
    found = np.empty((count, RECORD), np.uint8)
    found[:, 0] = np.arange(count) % 10
    coarse = draw.integers(40, 216, (count, 3, 4, 4))
    found[:, 1:] = np.kron(coarse, np.ones((8, 8), int)).reshape(count, -1)
    return found


def write_folder(folder: Path, train: np.ndarray, test: np.ndarray) -> Path:
    """The unpacked binary version, the training records over five files."""
    folder.mkdir(parents=True)
    for number, part in enumerate(np.array_split(train, 5), 1):
        (folder / f"data_batch_{number}.bin").write_bytes(part.tobytes())
    (folder / "test_batch.bin").write_bytes(test.tobytes())
    (folder / "batches.meta.txt").write_text("airplane\n")
    return folder


def write_archive(path: Path, folder: Path) -> Path:
    """The packed binary version."""
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "cifar-10-batches-bin")
    return path


def jpeg_arrays(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of the npz form."""
    from PIL import Image

    arrays = {}
    for split, rows in (("train", train), ("test", test)):
        files = []
        for row in rows:
            stream = io.BytesIO()
            pixels = np.ascontiguousarray(row[1:].reshape(3, 32, 32).transpose(1, 2, 0))
            Image.fromarray(pixels).save(stream, "JPEG", quality=95, subsampling=0)
            files.append(stream.getvalue())
        arrays[f"{split}_jpeg"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"{split}_offsets"] = np.cumsum([0, *map(len, files)]).astype(np.int64)
        arrays[f"{split}_labels"] = rows[:, 0].copy()
    return arrays
