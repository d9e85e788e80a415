"""What processes of the server do as such."""

from __future__ import annotations

import gc
import weakref

from holdfast_server.process import collect_no_garbage_yet, keep_what_is_loaded


class _Ring:
    def __init__(self) -> None:
        self.itself = self


def test_garbage_is_collected_once_everything_is_loaded() -> None:
    before = gc.get_freeze_count()
    try:
        collect_no_garbage_yet()
        assert not gc.isenabled()
        keep_what_is_loaded()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
        ring = weakref.ref(_Ring())
        gc.collect()
        assert ring() is None
    finally:
        gc.enable()
        gc.unfreeze()
