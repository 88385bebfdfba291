"""All that a site tells while a test runs: every log record, error mail, and answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core import mail
from django.utils.log import AdminEmailHandler

# Django's own at DEBUG: the parameters of each query, and what the mails' template does not find.
DJANGOS = ("django.db.backends", "django.template")


class Output(logging.Handler):
    """Every record of every logger as text, with the error mail that Django would make of it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []
        self.lines: list[tuple[str, str]] = []  # level and message
        self._mails = AdminEmailHandler(include_html=True)

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(DJANGOS):
            return
        self.lines.append((record.levelname, record.getMessage()))
        self.texts += [record.getMessage(), self.format(record), repr(record.args)]
        self.texts.append(repr({name: repr(value) for name, value in vars(record).items()}))
        if record.exc_info:
            self.tell(record.exc_info[1])
        # More than a site would send. Without a request Django's own filter decides alone.
        if record.levelno >= logging.WARNING and hasattr(record, "request"):
            self._mails.handle(record)

    def tell(self, error: BaseException | None) -> None:
        """What an exception, and each that it comes from, says of itself."""
        if error is not None:
            self.texts += [str(error), repr(error), repr(vars(error))]
            self.tell(error.__cause__)
            self.tell(error.__context__)
            for each in getattr(error, "exceptions", ()):
                self.tell(each)

    @property
    def everything(self) -> str:
        mails = [
            f"{sent.subject}\n{sent.body}\n{getattr(sent, 'alternatives', '')}"
            for sent in mail.outbox
        ]
        return "\n".join([*self.texts, *mails])

    def logged(self, level: str) -> list[str]:
        return [message for at, message in self.lines if at == level]


@contextmanager
def listening() -> Iterator[Output]:
    """All loggers at DEBUG, and all they say in one place."""
    output = Output()
    loggers = [logging.getLogger(name) for name in ("", "django", "django.ws", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    logging.getLogger().addHandler(output)
    try:
        yield output
    finally:
        logging.getLogger().removeHandler(output)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def chain(error: BaseException | None) -> list[Any]:
    """An exception and those it comes from."""
    return [] if error is None else [error, *chain(error.__cause__ or error.__context__)]
