"""The process that computes cells: one request a line on stdin, JSON lines back.

Started by ``cells.py`` with the number of a pipe to answer on; what a cell prints goes to
stderr. It ends when its stdin closes, in the middle of a cell too: nothing is left behind
when the command that started it is gone.

    in    {"path": [sys.path], "module", "file", "function", "settings"}
    out   {"progress": 0..1} any number of times, then
          {"result": ...} or {"error", "kind", "code", "trace"}
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import IO, Any

_EVERY = 0.25  # seconds between two lines of progress

_answers: IO[str] | None = None
_told = 0.0


def progress(done: float, total: float = 1.0) -> None:
    """Say from inside a cell how far it is; does nothing elsewhere, and costs nothing."""
    global _told
    if _answers is None or total <= 0 or time.monotonic() - _told < _EVERY:
        return
    _told = time.monotonic()
    _answer({"progress": min(max(done / total, 0.0), 1.0)})


def main(pipe: int) -> None:
    """Compute cells until stdin closes."""
    global _answers, _told
    _answers = os.fdopen(pipe, "w", encoding="utf-8")
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    while True:
        request = json.loads(requests.get())
        _told = time.monotonic()
        _answer(_compute(request))


def _listen(requests: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


def _answer(content: dict[str, Any]) -> None:
    assert _answers is not None
    _answers.write(json.dumps(content, allow_nan=False) + "\n")
    _answers.flush()


def _compute(request: dict[str, Any]) -> dict[str, Any]:
    from psrv.errors import PsrvError
    from psrv.repro.store import plain, restored

    try:
        function = _function(request)
        return {"result": plain(function(**restored(request["settings"])))}
    except Exception as error:
        return {
            "error": str(error),
            "kind": type(error).__name__,
            "code": error.exit_code if isinstance(error, PsrvError) else 1,
            "trace": traceback.format_exc(),
        }
    finally:
        sys.stdout.flush()


def _function(request: dict[str, Any]) -> Callable[..., Any]:
    """The function by its module's name, or from its file where that name is not found."""
    sys.path[:] = request["path"]
    name, file = request["module"], request["file"]
    module = sys.modules.get(name)
    if module is None:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            spec = importlib.util.spec_from_file_location(name, file) if file else None
            if spec is None or spec.loader is None:
                raise
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
    found: Any = module
    for part in request["function"].split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


if __name__ == "__main__":
    # Run as __main__, this module would be a second copy of the one that cells import.
    from psrv.repro.cell_process import main as run

    run(int(sys.argv[1]))
