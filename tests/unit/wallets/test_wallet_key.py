"""Making keys of passwords, on many threads."""

from __future__ import annotations

import threading

from holdfast_server.wallets.wallet_key import KeyParameters, WalletKey

#: Bounds a hang; no test passes because of it.
PATIENCE = 60.0


def test_keys_are_derived_on_many_threads_at_a_time() -> None:
    parameters = KeyParameters(bytes(16), memory_kib=16 << 10, passes=1, lanes=4)
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(WalletKey.derive("x", parameters).key_id), daemon=True)
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(found) == 4, "derivations wait for each other"
    assert len(set(found)) == 1
