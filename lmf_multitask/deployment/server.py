"""Runs the service until it is stopped; limits what connections that send no request may hold."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from lmf_multitask.errors import ConfigError

logger = logging.getLogger(__name__)

GRACE_SECONDS = 30
"""How long a stop waits for accepted requests."""

HEADER_SECONDS = 10.0
"""How long a client may take to send the header of a request."""

MOST_CONNECTIONS = 512
"""When there are more, the oldest one without a request in work is closed."""


class GuardedProtocol(H11Protocol):
    """HTTP of uvicorn, with a time limit for headers and a limit of connections."""

    _opened = 0.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a connection; closes another one where there are too many."""
        super().connection_made(transport)
        self._opened = time.monotonic()
        self._watch()
        open_ones = [
            one for one in self.connections if isinstance(one, GuardedProtocol) and not one.transport.is_closing()
        ]
        if len(open_ones) > MOST_CONNECTIONS:
            idle = [one for one in open_ones if not one.busy()]
            min(idle or open_ones, key=lambda one: one._opened).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Takes a piece of a request."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def busy(self) -> bool:
        """Whether a request is in work."""
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self) -> None:
        """Starts the clock when the first bytes of a header are due, and stops it when the header is complete."""
        if self.busy() and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif not self.busy() and self._timer is None:
            self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.abort)


def serve(app: Any, host: str, port: int) -> None:
    """Listens, logs the address, and serves; returns after Ctrl-C or SIGTERM, when every accepted request has its answer.

    Args:
        app: the ASGI application.
        host: the address to listen on.
        port: 0 takes a free one.

    Raises:
        ConfigError: the address is not available.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else "there is no such host"
        raise ConfigError(
            f"--host and --port must be free, but {host}:{port} is not ({reason}). Choose another --host or --port."
        ) from None
    # accepted connections inherit it; asyncio sets it only where the listener names its protocol, which create_server does not
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    sys.setswitchinterval(0.0005)  # seconds until a thread that reads a body gives way to the event loop
    with listener:
        service = server(app)

        def stop(number: int, frame: Any) -> None:
            """Before uvicorn listens for signals; it raises them again at the end, which would end the process with an error."""
            service.should_exit = True

        before = signal.signal(signal.SIGTERM, stop)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                logger.info(
                    "serving on http://%s:%d (a page to try it: /); Ctrl-C stops", shown, listener.getsockname()[1]
                )
                service.run(sockets=[listener])
        finally:
            signal.signal(signal.SIGTERM, before)


def server(app: Any) -> uvicorn.Server:
    """Uvicorn with our limits; what clients do wrong is not logged."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=GuardedProtocol,
            ws="none",
            log_level="error",
            access_log=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            server_header=False,
        )
    )
