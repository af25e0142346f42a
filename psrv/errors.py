"""Every error psrv raises on purpose, with the exit code a process ends with.

One tree, so that a script can write ``except psrv.PsrvError``. Wire and refusal
errors are split by fault: ``ProtocolError`` is a bug on this side, ``WireError``
and its kin are a peer's doing.

    PsrvError (1)
      ConfigError (2)        the user asked for something that cannot be done
      DataError (2)          a data file is missing or not what it should be
      CodecError (3)         a buffer or payload does not fit its compressor
        NonFiniteError (4)   NaN or infinity in a gradient
      ProtocolError (5)      this side broke the protocol: a bug in psrv
      WireError (6)          bytes from a peer that are not a valid message
      RefusedError (7)       a peer turned this process away, with its reason
      LostError (8)          a peer went away or stayed silent past its limit
      DivergedError (9)      replicas that must be identical are not
"""

from __future__ import annotations

import logging
from collections.abc import Iterable


class PsrvError(Exception):
    """Base class. ``str(error)`` is one line that can be shown to a user."""

    exit_code = 1


class ConfigError(PsrvError):
    """An option, or a combination of options, that cannot work."""

    exit_code = 2


class DataError(PsrvError):
    """A data file that is missing, or holds something else than its format says."""

    exit_code = 2


class CodecError(PsrvError):
    """A buffer or a payload that does not fit the compressor."""

    exit_code = 3


class NonFiniteError(CodecError):
    """NaN or infinity in what was to be sent.

    Attributes:
        coordinate: position in the buffer that was encoded, or None if unknown.
    """

    exit_code = 4

    def __init__(self, message: str, coordinate: int | None = None) -> None:
        super().__init__(message)
        self.coordinate = coordinate


class ProtocolError(PsrvError):
    """This side sent or did something the protocol forbids: a bug in psrv."""

    exit_code = 5


class WireError(PsrvError):
    """Bytes that are not a valid message. The sender is at fault; state is unchanged."""

    exit_code = 6


class RefusedError(PsrvError):
    """The server turned this worker away, or ended the run; the message is the server's."""

    exit_code = 7


class LostError(PsrvError):
    """A peer went away, or was silent for longer than its limit."""

    exit_code = 8


class DivergedError(PsrvError):
    """Replicas that must hold the same parameters do not."""

    exit_code = 9


def printable(text: str) -> str:
    """``text`` as one line that is safe to print: control characters come out escaped.

    Letters of any language stay as they are. For whatever may hold a peer's words.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def note(texts: Iterable[str]) -> None:
    """Tell people what is no error and yet worth knowing: a line each, on stderr by default."""
    for text in texts:
        logging.getLogger("psrv").warning("psrv: note: %s", text)
