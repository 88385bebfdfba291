"""Explains frequent mistakes: adds a note with the cure to the exception."""

from __future__ import annotations

from django_ws.threads.any_thread import SHOWN, Action, DoneFuture

NEEDS_NO_TASK = (
    "send(), close(), broadcast() and the other methods of a handler start at the call. They give "
    "an awaitable, not a coroutine, and need no task: write `await self.send(...)`, or "
    "`self.send(...)` alone. For a task of your own write "
    "`self.start_task(name, coroutine_function)`."
)


def explain(error: BaseException) -> None:
    """Add a note to an exception that comes from such a mistake. Once."""
    if isinstance(error, BaseExceptionGroup):  # of a task group, for example
        for each in error.exceptions:
            explain(each)
    elif _is_task_for_an_action(error) and NEEDS_NO_TASK not in getattr(error, "__notes__", ()):
        error.add_note(NEEDS_NO_TASK)


def _is_task_for_an_action(error: BaseException) -> bool:
    match error:
        case TypeError() | ValueError():  # create_task(), asyncio.run(), start_task()
            return SHOWN in str(error) or "<StartedTask " in str(error) or _has_coro(error)
        case AttributeError():  # asyncio.wait()
            return isinstance(error.obj, Action)
    return False


def _has_coro(error: BaseException) -> bool:
    """Whether the function of asyncio that raised it was given an action as its ``coro``."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and isinstance(
        traceback.tb_frame.f_locals.get("coro"), Action | DoneFuture
    )
