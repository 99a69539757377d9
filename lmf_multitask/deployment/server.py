"""Runs the service until it is told to stop."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from typing import Any

import uvicorn

from lmf_multitask.errors import ConfigError

logger = logging.getLogger(__name__)

GRACE_SECONDS = 30
"""How long a stop waits for the requests that were accepted."""


def serve(app: Any, host: str, port: int) -> None:
    """Listens, says where, and serves; returns after Ctrl-C or SIGTERM, when every accepted request has its answer.

    Args:
        app: the ASGI application.
        host: the address to listen on.
        port: 0 takes a free one.

    Raises:
        ConfigError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise ConfigError(
            f"--host and --port must be free, but {host}:{port} is not ({os.strerror(error.errno or 0)}). Choose another --port."
        ) from None
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    with listener:
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_SECONDS, server_header=False
        )
        logger.info(
            "serving on http://%s:%d (the page to try it: /, the API: /docs); Ctrl-C stops",
            shown,
            listener.getsockname()[1],
        )
        # uvicorn stops in order and then raises the signal again, for whoever minds: it was obeyed, so nobody does
        before = signal.signal(signal.SIGTERM, lambda number, frame: None)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                uvicorn.Server(config).run(sockets=[listener])
        finally:
            signal.signal(signal.SIGTERM, before)
