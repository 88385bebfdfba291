"""The routes, the middleware and the handler of the site."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django_tenants.utils import get_tenant_domain_model, tenant_context

from django_ws import Reject, WebSocketHandler
from tests.support.routes import path


class UsersHandler(WebSocketHandler):
    """Tells who the visitor is, and names the users of the customer, in three ways."""

    tenant: Any = None

    def unit_of_work(self) -> AbstractContextManager[Any] | None:
        return tenant_context(self.tenant) if self.tenant is not None else None

    def on_open(self) -> None:
        self.send(self.request.user.get_username())

    async def on_message(self, message: Any) -> None:
        await self.send(
            [
                [user.username async for user in User.objects.all()],
                await sync_to_async(self.names)(),
            ]
        )

    def names(self) -> list[str]:
        return [*User.objects.values_list("username", flat=True)]


def tenant_middleware(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        host = ws.request.get_host().partition(":")[0]
        domain = (
            await get_tenant_domain_model()
            .objects.select_related("tenant")
            .filter(domain=host)
            .afirst()
        )
        if domain is None:
            raise Reject(404)
        ws.tenant = domain.tenant  # type: ignore[attr-defined]
        await func(ws)

    return middleware


urlpatterns = [path("users/", UsersHandler)]
