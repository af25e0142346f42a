"""Read CIFAR-10 from the files that people have, as records of the official binary form.

A *record* is uint8 (3073,): the class, 0 to 9, then red, green and blue, each 32x32 by rows.
Looked for in the data folder, in this order:

``cifar-10-batches-bin/`` or its files in the folder itself
    data_batch_1.bin to data_batch_5.bin and test_batch.bin: records, nothing else.
``cifar-10-binary.tar.gz``
    The same, packed, as the data set's authors give it out.
``cifar10-jpeg.npz``
    For ``train`` and ``test``: NAME_jpeg (uint8, all JPEG files end to end), NAME_offsets
    (int64, n + 1; file i is the bytes offsets[i]:offsets[i+1]), NAME_labels (uint8). Lossy.

The form that needs Python's pickle is not read: such a file can run any code.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from psrv.errors import DataError
from psrv.tasks.base import require

SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html (the binary version)"
SIDE = 32
CLASSES = 10
RECORD = 1 + 3 * SIDE * SIDE
FOLDER = "cifar-10-batches-bin"
ARCHIVE = "cifar-10-binary.tar.gz"
JPEG = "cifar10-jpeg.npz"
SPLITS = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}

Records = NDArray[np.uint8]
_DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    tarfile.TarError,
)


class Source(ABC):
    """One of the three forms, at a path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def records(self, split: str, limit: int | None = None) -> Records:
        """The records of ``train`` or ``test``: uint8 (n, 3073), n >= 1.

        Args:
            limit: no more than the first so many; None for all.

        Raises:
            DataError: missing, unreadable or damaged, in one line.
        """

    def files(self, split: str) -> tuple[Path, ...]:
        """What the records are read from."""
        return (self.path,)

    def key(self, split: str) -> str:
        """Hexadecimal; differs when the records could."""
        digest = xxhash.xxh3_128(split.encode())
        for path in self.files(split):
            try:
                with path.open("rb") as file:
                    while piece := file.read(1 << 20):
                        digest.update(piece)
            except OSError as error:
                raise _unreadable(path, error) from error
        return digest.hexdigest()


class Folder(Source):
    """The unpacked binary version."""

    def files(self, split: str) -> tuple[Path, ...]:
        return tuple(self.path / name for name in SPLITS[split])

    def records(self, split: str, limit: int | None = None) -> Records:
        parts = []
        for path in self.files(split):
            try:
                parts.append(_records(path.read_bytes(), str(path)))
            except OSError as error:
                raise _unreadable(path, error) from error
        return np.concatenate(parts)[:limit]


class Archive(Source):
    """The packed binary version."""

    def records(self, split: str, limit: int | None = None) -> Records:
        parts: dict[str, Records] = {}
        try:
            # Not tarfile's own "r|gz", which does not compare gzip's checksum.
            with gzip.open(self.path) as packed:
                with tarfile.open(fileobj=packed, mode="r|") as archive:
                    for member in archive:
                        name = Path(member.name).name
                        if name in SPLITS[split] and (file := archive.extractfile(member)):
                            parts[name] = _records(file.read(), f"{name} in {self.path}")
                while packed.read(1 << 20):  # the checksum comes last
                    pass
        except _DAMAGED as error:
            raise DataError(
                f"{self.path} is not a whole .tar.gz file: {_line(error)}; fetch it again "
                f"from {SOURCE}"
            ) from error
        missing = [name for name in SPLITS[split] if name not in parts]
        if missing:
            raise DataError(
                f"{self.path} holds no {missing[0]}; expected CIFAR-10's binary version, "
                f"from {SOURCE}"
            )
        return np.concatenate([parts[name] for name in SPLITS[split]])[:limit]


class Jpeg(Source):
    """JPEG files in one npz, decoded by Pillow."""

    def __init__(self, path: Path, task: str) -> None:
        super().__init__(path)
        self._image = require("PIL.Image", "Pillow", "torch", task)
        self._features = require("PIL.features", "Pillow", "torch", task)

    def key(self, split: str) -> str:
        # Decoders may round differently.
        decoder = f"{self._image.__version__} {self._features.version('libjpeg_turbo')}"
        return xxhash.xxh3_128(f"{super().key(split)} {decoder}".encode()).hexdigest()

    def records(self, split: str, limit: int | None = None) -> Records:
        jpeg, offsets, labels = self._arrays(split)
        labels = labels[:limit]
        offsets = offsets[: labels.size + 1]
        found = np.empty((labels.size, RECORD), np.uint8)
        found[:, 0] = labels
        for index, file in enumerate(_cut(jpeg, offsets)):
            found[index, 1:] = self._decoded(file, split, index).transpose(2, 0, 1).reshape(-1)
        _check_labels(found, str(self.path))
        return found

    def _arrays(self, split: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        names = [f"{split}_{part}" for part in ("jpeg", "offsets", "labels")]
        try:
            # Opened here, since numpy leaves a file that it cannot read open.
            with self.path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                jpeg, offsets, labels = (file[name] for name in names)
        except _DAMAGED as error:
            raise DataError(
                f"{self.path} cannot be read as an npz file with {', '.join(names)}: "
                f"{_line(error)}; fetch it again"
            ) from error
        for name, array, kind in zip(names, (jpeg, offsets, labels), "uiu", strict=True):
            if array.ndim != 1 or array.dtype.kind != kind:
                raise DataError(
                    f"{self.path}: {name} is {array.dtype} of shape {array.shape}; expected one "
                    f"axis of {'int64' if kind == 'i' else 'uint8'}"
                )
        if jpeg.dtype != np.uint8 or labels.size < 1 or offsets.size != labels.size + 1:
            raise DataError(
                f"{self.path}: {jpeg.dtype} {names[0]} with {offsets.size} offsets and "
                f"{labels.size} labels; expected uint8, and one offset more than labels"
            )
        if offsets[0] != 0 or offsets[-1] != jpeg.size or (np.diff(offsets) < 1).any():
            raise DataError(
                f"{self.path}: {names[1]} go from {offsets[0]} to {offsets[-1]}; expected "
                f"ascending from 0 to {jpeg.size}, the length of {names[0]}"
            )
        return jpeg, offsets, labels

    def _decoded(self, file: bytes, split: str, index: int) -> NDArray[np.uint8]:
        where = f"{self.path}: {split} image {index}"
        try:
            with self._image.open(io.BytesIO(file), formats=("JPEG",)) as image:
                mode, size = image.mode, image.size
                if (mode, size) == ("RGB", (SIDE, SIDE)):
                    return np.asarray(image)
        # Pillow's readers raise many kinds for damaged bytes, SyntaxError among them.
        except Exception as error:
            raise DataError(
                f"{where} is not a JPEG that Pillow can read: {_line(error)}; fetch the file again"
            ) from error
        raise DataError(f"{where} is {mode} of {size}; expected RGB of ({SIDE}, {SIDE})")


def find_source(folder: Path | None, task: str) -> Source:
    """The first of the three forms that the data folder has.

    Raises:
        DataError: no folder, or none of them in it. ConfigError: JPEG without Pillow.
    """
    wanted = f"CIFAR-10 ({FOLDER}/, {ARCHIVE} or {JPEG})"
    if folder is None:
        raise DataError(
            f"task {task} needs {wanted}; give the folder it is in with --data DIR or "
            f"PSRV_DATA; get it from {SOURCE}"
        )
    first = SPLITS["train"][0]
    for place in (folder / FOLDER, folder):
        if (place / first).is_file():
            return Folder(place)
    if (folder / ARCHIVE).is_file():
        return Archive(folder / ARCHIVE)
    if (folder / JPEG).is_file():
        return Jpeg(folder / JPEG, task)
    raise DataError(
        f"task {task}: {folder} holds no {wanted}; get it from {SOURCE} or point --data "
        "(PSRV_DATA) elsewhere"
    )


def _records(content: bytes, where: str) -> Records:
    if not content or len(content) % RECORD:
        raise DataError(
            f"{where} has {len(content)} bytes; expected records of {RECORD} "
            f"(a whole file of CIFAR-10's binary version has 30730000); fetch it again"
        )
    found = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    _check_labels(found, where)
    return found


def _check_labels(records: Records, where: str) -> None:
    largest = int(records[:, 0].max())
    if largest >= CLASSES:
        raise DataError(f"{where} holds label {largest}; expected 0 to {CLASSES - 1}")


def _cut(joined: NDArray[np.uint8], offsets: NDArray[np.integer]) -> Iterator[bytes]:
    content, ends = joined.tobytes(), offsets.tolist()
    return (content[a:b] for a, b in pairwise(ends))


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path} cannot be read: {error.strerror or error}; expected a file of CIFAR-10's binary "
        f"version, from {SOURCE}"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
