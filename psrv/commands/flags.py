"""Command-line flags, made from the options of ``psrv/options.py``.

A flag's text is passed on as it was typed: the configuration checks it, so that an error
reads the same wherever a value came from.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

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
    default = "" if field.default is None or switch else f" (default {field.default})"
    shown: Any = typer.Option(
        None,
        *names,
        help=option.help.removesuffix(".") + default + ".",
        hidden=option.hidden,
        rich_help_panel=option.panel,
        metavar="" if switch else _metavar(field.annotation),
        show_default=False,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=shown,
        annotation=bool | None if switch else str | None,
    )


def _metavar(annotation: Any) -> str:
    """What stands for an option's value in ``--help``: ``N``, ``X``, ``tensor|global``..."""
    words = []
    for kind in _alternatives(annotation):
        if isinstance(kind, str):
            words.append(kind)
        elif kind is not type(None):
            words.append({int: "N", float: "X", Path: "PATH"}.get(kind, "NAME"))
    return "|".join(words)


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The types and literal values that an annotation allows."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin is Literal:
        yield from get_args(annotation)
    elif origin in (Union, UnionType):
        for part in get_args(annotation):
            yield from _alternatives(part)
    else:
        yield annotation
