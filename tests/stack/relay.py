"""A relay before a server, which can refuse connections for a while: the server keeps what it holds in memory."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator

HOST = "127.0.0.1"


class Relay:
    """Forwards connections to HOST:`port`. Used as a context; `address` is where clients connect."""

    def __init__(self, port: int):
        self._target = port
        self._listening: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self._port = 0
        self.served = 0

    def __enter__(self) -> Relay:
        self.accept_again()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self._port}"

    def refuse(self) -> None:
        """Close every connection, and take no new one."""
        if self._listening is not None:
            with contextlib.suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self._listening = None
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def accept_again(self) -> None:
        """Serve, on the same port as before."""
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, self._port))
        listening.listen(64)
        self._port, self._listening = listening.getsockname()[1], listening
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                self.served += 1
                threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with client, socket.create_connection((HOST, self._target)) as server, self._known(client, server):
            other = {client: server, server: client}
            with contextlib.suppress(OSError):
                while True:
                    for ready in select.select(list(other), [], [])[0]:
                        data = ready.recv(65536)
                        if not data:
                            return
                        other[ready].sendall(data)

    @contextlib.contextmanager
    def _known(self, *connections: socket.socket) -> Iterator[None]:
        self._connections.update(connections)
        try:
            yield
        finally:
            self._connections.difference_update(connections)
