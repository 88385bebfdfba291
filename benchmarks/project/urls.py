"""No pages: only sockets are measured."""

urlpatterns: list[object] = []
