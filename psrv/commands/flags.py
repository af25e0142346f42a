"""Command-line flags, made from the options of ``psrv/options.py``.

A flag's text is passed on as it was typed: the configuration checks it, so that an error
reads the same wherever a value came from.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any, TypeVar, get_args

import typer

from psrv.config import flag_of
from psrv.options import Settings

F = TypeVar("F", bound=Callable[..., None])


def with_flags(*models: type[Settings], skip: Collection[str] = ()) -> Callable[[F], F]:
    """Give a command a flag for every option of ``models``, but for those in ``skip``.

    The command takes them as ``**flags``: by option name, text or None (not given), and
    True, False or None for options that are true or false.
    """

    def decorate(function: F) -> F:
        own = inspect.signature(function, eval_str=True).parameters.values()
        parameters = [p for p in own if p.kind is not p.VAR_KEYWORD]
        taken = {p.name for p in parameters} | set(skip)
        for model in models:
            for name in model.model_fields:
                if name not in taken:
                    taken.add(name)
                    parameters.append(_parameter(model, name))
        # typer reads a command's signature to find its flags.
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return function

    return decorate


def _parameter(model: type[Settings], name: str) -> inspect.Parameter:
    option, field = model.option(name), model.model_fields[name]
    flag = flag_of(name)
    switch = field.annotation is bool
    names = [f"{flag}/--no-{flag[2:]}" if switch else flag, *filter(None, [option.short])]
    default: Any = typer.Option(
        None,
        *names,
        help=option.help,
        hidden=option.hidden,
        rich_help_panel=option.panel,
        metavar=None if switch else _metavar(field.annotation),
        show_default=False if field.default is None or switch else str(field.default),
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=bool | None if switch else str | None,
    )


def _metavar(annotation: Any) -> str:
    kinds = {getattr(kind, "__name__", "") for kind in (get_args(annotation) or (annotation,))}
    for kind, shown in (("Path", "PATH"), ("int", "N"), ("float", "X")):
        if kind in kinds:
            return shown
    return "NAME"
