"""A network between two programs on the loopback that can be cut: nothing passes, and nobody is told."""

import contextlib
import socket
import threading


class LooseCable:
    """Passes connections at ``port`` on to another port of this machine while it is not ``cut``."""

    def __init__(self, to: int) -> None:
        self.cut = threading.Event()
        self._to = to
        self._left: int | None = None
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, upwards: int) -> None:
        """Cut it once so many more bytes have been sent to the other port."""
        self._left = upwards

    def close(self) -> None:
        """Take the cable away."""
        for one in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._ends += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        upwards = sink.getpeername()[1] == self._to
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if upwards and self._left is not None:
                    self._left -= len(data)
                    if self._left < 0:
                        self._left = None
                        self.cut.set()
                while self.cut.is_set():  # what is under way waits, as packets that are sent again
                    threading.Event().wait(0.1)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
