"""`holdfast health`."""

from __future__ import annotations

import click

from holdfast.cli.session import Command, Session, pass_session
from holdfast.enums import HealthStatus

__all__ = ["health"]


@click.command(cls=Command)
@pass_session
def health(session: Session) -> int:
    """Ask the server whether it serves; needs no token.

    Exit code 0 if it does, 1 if not. A service of the API that this version of the server does not have is
    SERVICE_UNKNOWN.
    """
    found = session.client.health()
    session.emit("health", {"address": session.client.address, "status": found.status, "services": found.services})
    rows = [("server", str(found.status)), *((name, str(status)) for name, status in found.services.items())]
    session.table(["SERVICE", "STATUS"], rows)
    return 0 if found.status is HealthStatus.SERVING else 1
