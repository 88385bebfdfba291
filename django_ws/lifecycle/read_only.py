"""A property that explains, in its error, why it cannot be set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    read_only = property
else:

    class read_only(property):
        """As ``property``, for what belongs to the library and not to its user's class."""

        def __set_name__(self, owner: type, name: str) -> None:
            self._name = name

        def __set__(self, instance: Any, value: Any) -> None:
            raise AttributeError(
                f"{type(instance).__qualname__}.{self._name} cannot be set or deleted: it belongs "
                "to the connection. Give your attribute another name."
            )

        def __delete__(self, instance: Any) -> None:
            self.__set__(instance, None)


def is_read_only(value: object) -> bool:
    """Whether what stands in a class is such a property."""
    return isinstance(value, read_only)
