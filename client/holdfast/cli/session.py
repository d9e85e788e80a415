"""What every command shares: the global options, the connection, and how results and errors are written.

Results go to stdout, everything about them to stderr. With `--json` every line of stdout is one JSON object with a
`type`.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdfast.client import Client, connect
from holdfast.errors import HoldfastError, InvalidArgument
from holdfast.plain import to_dict
from holdfast.progress import JsonView, LiveView, PlainView, SilentView, View
from holdfast.settings import is_local
from holdfast.text import safe

__all__ = ["Command", "Session", "exit_code", "pass_session", "write_error"]


@dataclass(slots=True)
class Session:
    """One run of the command."""

    address: str | None = None
    token_file: str | None = None
    data_dir: str | None = None
    json: bool = False
    progress: bool = True
    _client: Client | None = field(default=None, repr=False)

    @property
    def client(self) -> Client:
        """The connection, opened when it is first needed. Raises BadConfiguration."""
        if self._client is None:
            self._client = connect(self.address, token_file=self.token_file, data_dir=self.data_dir)
        return self._client

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._client is not None:
            self._client.close()

    def server_path(self, path: str) -> str:
        """A path as the server shall take it: for a server on this machine relative to where the caller stands."""
        return os.path.abspath(path) if is_local(self.client.address) else path

    def command(self, *words: str) -> str:
        """A command line to paste, with the options that this run was given."""
        line = ["holdfast"]
        for option, value in (
            ("--address", self.address),
            ("--token-file", self.token_file),
            ("--data-dir", self.data_dir),
        ):
            if value:
                line += [option, value]
        return shlex.join([*line, *words])

    def view(self) -> View:
        """How the progress of tasks is shown in this run."""
        if self.json:
            return JsonView()
        if not self.progress:
            return SilentView()
        if sys.stdout.isatty() and os.environ.get("TERM", "") != "dumb":
            return LiveView(Console(highlight=False))
        return PlainView()

    def line(self, text: str = "") -> None:
        """A line of the result; long ones are never wrapped. Not with `--json`."""
        if not self.json:
            click.echo(text)

    def note(self, text: str) -> None:
        """A line about the run, on stderr."""
        click.echo(text, err=True)

    def emit(self, kind: str, value: Any) -> None:
        """One JSON line; only with `--json`."""
        if self.json:
            fields = value if isinstance(value, dict) else to_dict(value)
            click.echo(json.dumps({"type": kind, **fields}, ensure_ascii=False))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> None:
        """A table for people: as wide as its content where nobody looks at a screen; columns of numbers, named in
        `right`, end at their right. Not with `--json`."""
        if self.json:
            return
        screen = sys.stdout.isatty()
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_edge=False, pad_edge=False)
        for name in columns:
            justify: Literal["left", "right"] = "right" if name in right else "left"
            table.add_column(name, overflow="fold", no_wrap=not screen, justify=justify)
        for row in rows:
            table.add_row(*(Text(safe(cell)) for cell in row))
        console = Console(highlight=False, width=None if screen else 1_000_000)
        # Rich fills the last column up with blanks, which a pipe has no use for.
        with console.capture() as captured:
            console.print(table, soft_wrap=not screen)
        click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))

    def record(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Names and values, one a line. Not with `--json`."""
        shown = [(name, value) for name, value in pairs if value]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            self.line(f"{name.ljust(width)}  {safe(value)}")


class Command(click.Command):
    """A command that takes `--json` and `--no-progress` behind its name too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, text in (("json", "Write JSON lines to stdout."), ("no-progress", "Show no progress.")):
            self.params.append(
                click.Option([f"--{name}"], is_flag=True, expose_value=False, callback=_set_flag, help=text)
            )


pass_session = click.make_pass_decorator(Session)


def exit_code(error: HoldfastError) -> int:
    """2 where the request was wrong, 1 for everything else."""
    return 2 if isinstance(error, InvalidArgument) else 1


def write_error(error: HoldfastError, *, as_json: bool) -> None:
    """For people on stderr; with `--json` one object on stdout."""
    if as_json:
        value = {
            "type": "error",
            "code": error.code,
            "reason": error.reason,
            "message": error.message,
            "remedy": error.remedy,
            "metadata": error.metadata,
            "violations": [{"field": one.field, "description": one.description} for one in error.violations],
            "server_request_id": error.server_request_id,
        }
        click.echo(json.dumps(value, ensure_ascii=False))
        return
    label = f" ({error.label})" if error.label else ""
    click.echo(f"error: {safe(error.message)}{label}", err=True)
    for violation in error.violations:
        if error.message == f"{violation.field}: {violation.description}":
            continue  # said already
        click.echo(f"  {safe(violation.field)}: {safe(violation.description)}", err=True)
    if error.remedy:
        click.echo(f"remedy: {safe(error.remedy)}", err=True)


def _set_flag(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    session = context.find_object(Session)
    if session is None or not value:
        return
    if parameter.name == "json":
        session.json = True
    else:
        session.progress = False
