"""Raises the limit of open files: each connection is one."""

from __future__ import annotations

import logging
import resource

logger = logging.getLogger("uvicorn.error")

MOST = 1024 * 1024  # where the hard limit is higher, or there is none: some systems refuse more


def raise_limit() -> None:
    """As high as this process may; those that it starts inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        logger.debug("Open files: at most %d for each process", soft)
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        logger.warning("Open files: at most %d for each process, not %d: %s", soft, wanted, error)
    else:
        logger.info("Open files: at most %d for each process (it was %d)", wanted, soft)
