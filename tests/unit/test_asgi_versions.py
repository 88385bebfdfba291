"""What the version of ASGI says that a server speaks."""

import pytest

from tests.support.asgi_peer import Peer
from tests.support.handlers import Quiet


@pytest.mark.parametrize(
    ("version", "code"),
    [
        *[("2.4", 1006), ("2.5", 1006), ("2.10", 1006), ("3.0", 1006), ("10.0", 1006)],
        *[("2.3", 1005), ("2.0", 1005), ("1.10", 1005), ("", 1005), ("new", 1005), (None, 1005)],
    ],
)
async def test_a_close_without_a_reason_is_a_loss_where_the_server_would_give_one(
    version: str | None, code: int
) -> None:
    """Since 2.4, where versions count as numbers and not as text."""
    async with Peer(Quiet) as peer:
        peer.scope["asgi"] = {"spec_version": version} if version is not None else {}
        handler = peer.handler
        peer.leave(code=1005)
        await peer.ended()
        assert handler.close_code == code
