"""Commands of ``export/commands`` as typer commands, for the application's help; their own parser is not used."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from ...export import commands as lean
from ...export.commands.arguments import Parameter
from ..store.artifact_folder import find_artifact
from .options import StorageOption

app = typer.Typer()


def _annotation(parameter: Parameter) -> Any:
    if parameter.name == "storage":
        return StorageOption  # also reads the environment
    if parameter.option is None:
        kind: Any = list[str] | None if parameter.is_many else str
        return Annotated[kind, typer.Argument(metavar=parameter.metavar, help=parameter.help)]
    if parameter.kind is bool:
        return Annotated[bool, typer.Option(parameter.option, help=parameter.help)]
    kind = parameter.kind if parameter.default is not None else parameter.kind | None
    info = typer.Option(
        parameter.option,
        metavar=parameter.metavar,
        min=parameter.least if parameter.kind is int else None,
        max=parameter.most if parameter.kind is int else None,
        help=parameter.help,
    )
    return Annotated[kind, info]


def _register(command: lean.Command) -> None:
    def run(**values: Any) -> int:
        return command.run(values, find_artifact)

    keyword = inspect.Parameter.KEYWORD_ONLY
    run.__signature__ = inspect.Signature(  # pyright: ignore[reportFunctionMemberAccess]
        [
            inspect.Parameter(
                each.name,
                keyword,
                annotation=_annotation(each),
                default=inspect.Parameter.empty if each.is_required else each.default,
            )
            for each in command.parameters
        ]
    )
    app.command(command.name, help=command.help)(run)


for _command in lean.COMMANDS.values():
    _register(_command)
