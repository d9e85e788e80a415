"""The process of one download: makes the archive of a snapshot and sends it to the edge (`tasks.snapshot_downloads`).

Frames to the edge begin with a letter: N and the file's name once all is opened, D and bytes of the archive, then E and
the archive's SHA-256; or F and what went wrong, pickled. From the edge comes one frame, the pickled order, secrets
included; then its end of the socket says by closing that nobody wants the archive any more.
"""

from __future__ import annotations

import os
import pickle
import threading
import traceback
from multiprocessing.connection import Connection

from holdfast_server.archive.pool import CompressorPool
from holdfast_server.clock import SystemClock
from holdfast_server.core.control import Control
from holdfast_server.core.snapshot_place import StreamOrder
from holdfast_server.core.snapshot_stream import stream_snapshot
from holdfast_server.errors import HoldfastError, Stopped
from holdfast_server.process import module_options

__all__: list[str] = []

#: Threads that compress, and the bytes that wait for them: several downloads may run beside tasks.
_THREADS = 2
_MEMORY = 32 << 20


def _serve(connection: Connection) -> None:
    order: StreamOrder = pickle.loads(connection.recv_bytes())  # noqa: S301  from the edge
    control, pool = Control(), CompressorPool(min(_THREADS, os.cpu_count() or 1), _MEMORY)

    def attend() -> None:
        try:
            connection.recv_bytes()
        except (EOFError, OSError):
            pass
        control.cancel()  # and the run in the repository ends in good order

    def begin(file_name: str) -> None:
        connection.send_bytes(b"N" + file_name.encode())

    def send(part: memoryview) -> None:
        connection.send_bytes(b"".join((b"D", part)))

    threading.Thread(target=attend, name="edge", daemon=True).start()
    try:
        digest = stream_snapshot(order, begin, send, pool, control, SystemClock())
        connection.send_bytes(b"E" + digest.encode())
    except (Stopped, ConnectionError):
        return
    except HoldfastError as error:
        connection.send_bytes(b"F" + pickle.dumps(error))
    except BaseException as error:  # noqa: BLE001  nobody else would see it; its text may show a secret
        text = "".join(traceback.format_tb(error.__traceback__)) + type(error).__qualname__
        connection.send_bytes(b"F" + pickle.dumps(text))


def _main() -> None:
    options = module_options("fd")
    try:
        _serve(Connection(options.fd))
    except (EOFError, ConnectionError):
        pass
    os._exit(0)


if __name__ == "__main__":
    _main()
