"""The ``psrv`` command: its subcommands, and how it ends.

    0    done                              7, 8   turned away; a peer was lost
    2    bad option, configuration, data   130    interrupted
    other codes: psrv/errors.py; a launcher ends with the code of the process that failed first

An error that psrv raises on purpose is one line on stderr. Anything else is a bug and keeps
its traceback. Each command imports what it needs when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from psrv.commands.flags import with_flags
from psrv.config import ConnectConfig, JobConfig, ServerConfig
from psrv.errors import ConfigError, PsrvError, printable

EPILOG = (
    "An option not given is looked up in the environment as PSRV_NAME (PSRV_WEIGHT_DECAY for "
    "--weight-decay), then in the --config file."
)
DEMO = Path("runs/demo")
# Options stop at the first word of the user's own command, with or without "--".
_COMMAND = {"allow_interspersed_args": False}

app = typer.Typer(
    name="psrv",
    help="Train over an ordinary network: a parameter server that compresses both ways.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

File = Annotated[
    Path | None, typer.Option("--config", metavar="PATH", help="Options from a .toml or .json.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace a finished run in the --out folder.")]
Command = Annotated[
    list[str] | None,
    typer.Argument(metavar="-- COMMAND", help="Your own command.", show_default=False),
]


def _version(wanted: bool) -> None:
    if wanted:
        from psrv import __version__

        print(f"psrv {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """The options of ``psrv`` itself."""


@app.command(context_settings=_COMMAND, epilog=EPILOG)
@with_flags(
    JobConfig,
    ServerConfig,
    ConnectConfig,
    skip=("address_file", "bind", "insecure", "server", "rank"),
)
def launch(
    command: Command = None, config: File = None, force: Force = False, **flags: Any
) -> None:
    """Train on this machine: one server, and as many workers as you say.

    psrv launch -n 4 --method cd-adam --task digits

    psrv launch -n 4 -- python train.py
    """
    from psrv.commands import run

    run.launch(flags, config, command or (), force)


@app.command(epilog=EPILOG)
@with_flags(JobConfig, skip=("link",))
def simulate(config: File = None, force: Force = False, **flags: Any) -> None:
    """Train the same job in one process: same parameters, same files, no sockets."""
    from psrv.commands import run

    run.simulate(flags, config, force)


@app.command(epilog=EPILOG)
@with_flags(ServerConfig, skip=("link",))
def server(config: File = None, force: Force = False, **flags: Any) -> None:
    """Run a server, until its run has ended."""
    from psrv.commands import run

    run.server(flags, config, force)


@app.command(context_settings=_COMMAND, epilog=EPILOG)
@with_flags(ConnectConfig, JobConfig, skip=("link",))
def worker(command: Command = None, config: File = None, **flags: Any) -> None:
    """Run one worker: a built-in task, or your own command.

    psrv worker --server tcp://10.0.0.5:5800 --task digits

    psrv worker --server tcp://10.0.0.5:5800 -- python train.py
    """
    from psrv.commands import run

    run.worker(flags, config, command or ())


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Folders of runs, or of several runs.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page to write.", show_default=False)
    ] = None,
) -> None:
    """Compare finished runs: a table here, and a page with plots."""
    from psrv.commands.report import report as run

    run(runs, out)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs and the page.")] = DEMO,
    quick: Annotated[bool, typer.Option("--quick", help="Only a few rounds.")] = False,
) -> None:
    """Train four ways on real data, then show them side by side."""
    from psrv.commands.demo import demo as run

    run(out, quick)


@app.command()
def repro(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="An experiment; see --list.")
    ] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="Show the experiments and the data they need.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="What takes minutes; the default.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="The paper's setting, or the nearest to it.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder (default runs/repro/NAME).", show_default=False),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the data files are.", show_default=False),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(metavar="N", help="Number of seeds.", show_default=False),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(metavar="N", help="Cells at once (default: cores).", show_default=False),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Exit with 1 if what should hold is not held or undecided."),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Throw away what an earlier run left.")
    ] = False,
) -> None:
    """Reproduce an experiment of a paper: its claims beside what is measured.

    psrv repro hessian-variance --data DIR
    """
    from psrv.commands import repro as command

    if listing:
        command.list_experiments(data)
        return
    if name is None:
        raise ConfigError("no experiment was named; 'psrv repro --list' shows them")
    if quick and full:
        raise ConfigError("--quick and --full were both given; expected one of them")
    command.repro(
        name,
        full=full,
        out=out,
        data=data,
        seeds=seeds,
        processes=processes,
        check=check,
        fresh=fresh,
    )


_bench = typer.Typer(context_settings={"help_option_names": ["-h", "--help"]})
app.add_typer(_bench, name="bench")


@_bench.callback(invoke_without_command=True)
def _bench_all(context: typer.Context) -> None:
    """Measure the compressors beside what this machine allows; so far that is 'codec'."""
    if context.invoked_subcommand is None:
        codec()


@_bench.command()
def codec(
    sizes: Annotated[
        str | None,
        typer.Option(
            metavar="N,N",
            help="Coordinates (default 65536,1048576,11173962,25557032).",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Compressors (default all).", show_default=False),
    ] = None,
    seconds: Annotated[float, typer.Option(metavar="S", help="Seconds for each operation.")] = 0.25,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 if a target is missed.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every row there.", show_default=False)
    ] = None,
) -> None:
    """Every compressor beside memcpy, and beside NumPy and torch, in one run."""
    from psrv.commands import bench

    bench.codec(sizes, check, json, only, seconds)


@app.command()
def methods() -> None:
    """List the methods."""
    from psrv.commands import show

    show.methods()


@app.command()
def compressors() -> None:
    """List the compressors, what they send, and what they promise."""
    from psrv.commands import show

    show.compressors()


@app.command()
def tasks() -> None:
    """List the built-in tasks."""
    from psrv.commands import show

    show.tasks()


@app.command()
def warmup() -> None:
    """Compile the kernels now, so that no run has to."""
    from psrv.commands import show

    show.warmup()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: in place of ``sys.argv[1:]``.

    Returns:
        The exit code.
    """
    command = typer.main.get_command(app)
    _hide_types(command)
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        # Not command.main(), which turns some exceptions into an exit code without a word.
        with command.make_context("psrv", given) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as error:
        return error.exit_code
    except PsrvError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # Whoever read the output is gone: end as SIGPIPE would, and do not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        # What typer raises for a command line it cannot read has these, in every version of it.
        if not (hasattr(error, "format_message") and hasattr(error, "exit_code")):
            raise
        text = str(error.format_message())
        path = getattr(getattr(error, "ctx", None), "command_path", "psrv")
        hint = f"{text.rstrip('.')}; see '{path} --help'"
        return _fail(hint, int(error.exit_code)) if text else 2
    return 0


def _hide_types(command: Any, parent: Any = None) -> None:
    """Keep typer's ``<bool>`` and ``<list[str]>`` out of the help: a flag takes no value, and
    an argument's name says enough. ``--help`` itself has no other place to set this."""
    context = typer.Context(command, parent=parent, **command.context_settings)
    for parameter in command.get_params(context):
        if parameter.param_type_name == "argument" or parameter.is_flag:
            parameter.display_type_rich = lambda ctx: None
    for each in getattr(command, "commands", {}).values():
        _hide_types(each, context)


def _fail(message: str, code: int) -> int:
    # The words may be a peer's, or come from a log.
    line = printable(" ".join(message.split()))
    print(f"psrv: error: {line}", file=sys.stderr, flush=True)
    return code
