"""WalletService: what wallets hold; wallets unlocked for a while and locked; coins taken into them."""

from __future__ import annotations

import grpc

from holdfast.v1 import task_pb2, wallet_pb2, wallet_service_pb2_grpc
from holdfast.v1 import wallet_service_pb2 as pb
from holdfast_server.core.wallet_contents import CoinWish
from holdfast_server.errors import invalid_field
from holdfast_server.rpc.convert import task_message, timestamp
from holdfast_server.rpc.interceptors import current_principal
from holdfast_server.rpc.pages import cut_page, page_limit, page_start_bytes
from holdfast_server.rpc.parse import (
    parse_credentials,
    parse_password,
    parse_path,
    parse_relative,
    parse_seconds,
    request_key,
)
from holdfast_server.rpc.services import Services
from holdfast_server.rpc.wallet_messages import balance_message, coin_message
from holdfast_server.tasks.import_coins import IMPORT_TARGET, ImportOrder
from holdfast_server.wallets.amounts import parse_amount

__all__ = ["WalletServicer"]

_UNLOCK_SECONDS = 15 * 60
_LONGEST_UNLOCK = 3600


class WalletServicer(wallet_service_pb2_grpc.WalletServiceServicer):
    """Parses, calls, converts. Calls not overridden here are refused by name."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def GetBalance(self, request: pb.GetBalanceRequest, context: grpc.ServicerContext) -> wallet_pb2.Balance:
        state = self._services.wallets.state(request.source_id, context.is_active)
        return balance_message(request.source_id, state)

    def ListCoins(self, request: pb.ListCoinsRequest, context: grpc.ServicerContext) -> pb.ListCoinsResponse:
        wish = CoinWish(
            folders=frozenset(_folder(name, f"folders[{index}]") for index, name in enumerate(request.folders)),
            value=parse_amount(request.denomination, "denomination") if request.HasField("denomination") else None,
        )
        limit = page_limit(request.page_size)
        rows = self._services.wallets.coins(
            request.source_id, wish, page_start_bytes(request), limit + 1, context.is_active
        )
        coins, more = cut_page(request, rows, list(map(coin_message, rows)), lambda row: [row.position.hex()])
        return pb.ListCoinsResponse(coins=coins, next_page_token=more)

    def UnlockWallet(self, request: pb.UnlockWalletRequest, context: grpc.ServicerContext) -> pb.UnlockWalletResponse:
        seconds: float = _UNLOCK_SECONDS
        if request.HasField("ttl"):
            seconds = parse_seconds(request.ttl, "ttl", 1, _LONGEST_UNLOCK)
        password = parse_password(request.password, "password")
        opened = self._services.keys.unlock(request.source_id, password, seconds, context.is_active)
        return pb.UnlockWalletResponse(
            expire_time=timestamp(opened.expire_time), key_id=opened.key_id, password_set=opened.password_set
        )

    def LockWallet(self, request: pb.LockWalletRequest, context: grpc.ServicerContext) -> pb.LockWalletResponse:
        del context
        return pb.LockWalletResponse(was_unlocked=self._services.keys.lock(request.source_id))

    def ImportCoins(self, request: pb.ImportCoinsRequest, context: grpc.ServicerContext) -> task_pb2.Task:
        del context
        folder = request.folder or IMPORT_TARGET
        order = ImportOrder(
            source_id=request.source_id,
            paths=tuple(parse_path(path, f"paths[{index}]") for index, path in enumerate(request.paths)),
            folder=parse_relative(folder, "folder"),
            dry_run=request.dry_run,
        )
        principal = current_principal().name
        key = request_key(request, "ImportCoins", principal, {"folder": folder})
        credentials = parse_credentials(request, accepted=("wallet_password",))
        return task_message(self._services.imports.create(order, principal, key, credentials))


def _folder(text: str, field: str) -> bytes:
    name = parse_relative(text, field)
    if b"/" in name:
        raise invalid_field(field, "must be the name of a folder directly in the wallet, without a slash")
    return name
