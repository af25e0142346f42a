"""What an experiment says about itself, and whether the data files it needs are there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from psrv.errors import DataError

if TYPE_CHECKING:
    from psrv.repro.study import Study

_ENDINGS = ("", ".gz", ".npz", ".tar.gz")


@dataclass(frozen=True)
class Experiment:
    """One experiment of a paper.

    Attributes:
        name: as on the command line.
        paper: authors, year and, in brackets, the method: "Wang, Lin and Chen 2022 (CD-Adam)".
        place: sections, figures and tables.
        question: one sentence: what it is about.
        quick, full: the two settings, a sentence each; ``full`` says how it differs from
            the paper.
        needs: data files by stem, such as "phishing"; ``.gz``, ``.npz`` or ``.tar.gz`` may
            follow. "one|other" is there if one of them is.
        run: does it all, through the study it is given.
        quick_seeds, full_seeds: how many seeds, where ``--seeds`` does not say.
    """

    name: str
    paper: str
    place: str
    question: str
    quick: str
    full: str
    needs: tuple[str, ...]
    run: Callable[[Study], None]
    quick_seeds: int = 1
    full_seeds: int = 1

    def missing(self, data: Path | None) -> list[str]:
        """The files of ``needs`` that are not in the data folder."""
        return [stem for stem in self.needs if found(data, stem) is None]

    def check_data(self, data: Path | None) -> None:
        """Complain of the first data file that is not there.

        Raises:
            DataError: names the file, where it was looked for, and where to get it.
        """
        lacking = self.missing(data)
        if not lacking:
            return
        first, *others = lacking[0].split("|")
        more = f" (also missing: {', '.join(lacking[1:])})" if lacking[1:] else ""
        where = (
            "no data folder was given"
            if data is None
            else f"{data} holds neither {first} nor {first}.gz"
            if data.is_dir()
            else f"{data} is no folder"
        )
        raise DataError(
            f"experiment {self.name} needs the file {' or '.join([first, *others])}{more}, but "
            f"{where}; get it from {source(first)} and give its folder with --data DIR or PSRV_DATA"
        )


def found(data: Path | None, stem: str) -> Path | None:
    """The file, or folder, of that stem in the data folder, or None."""
    if data is None:
        return None
    paths = (data / f"{name}{ending}" for name in stem.split("|") for ending in _ENDINGS)
    return next((path for path in paths if path.exists()), None)


def source(stem: str) -> str:
    """Where to get a data file."""
    if stem.endswith("-ubyte"):
        from psrv.tasks.mnist import SOURCE
    elif stem.startswith("cifar"):
        from psrv.tasks.cifar_file import SOURCE  # type: ignore[no-redef]
    else:
        from psrv.tasks.libsvm_file import SOURCE
    return str(SOURCE)
