"""Connections of httpcore with a deadline on every wait."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit
from weakref import WeakSet

import httpcore
from typing_extensions import override

from eval_recipes.chat.errors import (
    CalledOff,
    DeadlinePassed,
    ReplyTooLong,
    Unreachable,
)

Returned = TypeVar("Returned")


def open_pool(
    url: SplitResult, deadline: Deadline, max_bytes: int
) -> httpcore.ConnectionPool:
    """
    Return connections to a server, through the proxy that the environment names for it.

    ``deadline`` bounds all waits together; ``max_bytes`` are the most that a connection
    receives, the head of the answer included.

    Raises:
        Unreachable: if the environment names a proxy that is no HTTP proxy.
    """
    backend = _Backend(deadline, max_bytes)
    proxy = find_proxy(url)
    if proxy is None:
        return httpcore.ConnectionPool(ssl_context=tls(), network_backend=backend)
    named = (unquote(proxy.username or ""), unquote(proxy.password or ""))
    host = proxy.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return httpcore.HTTPProxy(
        f"http://{host}:{proxy.port or 80}",
        proxy_auth=named if proxy.username else None,
        ssl_context=tls(),
        network_backend=backend,
    )


def find_proxy(url: SplitResult) -> SplitResult | None:
    """
    Return the proxy that the environment names for an address.

    Raises:
        Unreachable: if it is no HTTP proxy.
    """
    proxies = urllib.request.getproxies()
    named = proxies.get(url.scheme) or proxies.get("all")
    # exceptions may name a port
    names = (url.hostname or "", url.netloc)
    if not named or any(urllib.request.proxy_bypass(name) for name in names):
        return None
    try:
        proxy = urlsplit(named if "://" in named else f"http://{named}")
        known = proxy.scheme == "http" and proxy.hostname and proxy.port != 0
    except ValueError:
        proxy, known = url, False
    if not known:
        raise Unreachable(
            f"the environment names a proxy for {url.scheme} that is none of the form "
            "http://host:port"
        )
    return proxy


@cache
def tls() -> ssl.SSLContext:
    """Return httpcore's settings of TLS: certificates of certifi and of ``SSL_CERT_FILE``."""
    context = httpcore.default_ssl_context()
    context.set_default_verify_paths()
    return context


class _Backend(httpcore.NetworkBackend):
    """Connects sockets whose waits are bounded."""

    def __init__(self, deadline: Deadline, max_bytes: int) -> None:
        self._deadline = deadline
        self._max_bytes = max_bytes

    @override
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        with _raising(httpcore.ConnectError):
            sock = _connect(host, port, self._deadline)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _Stream(sock, self._deadline, self._max_bytes)


class _Stream(httpcore.NetworkStream):
    """A connected socket; timeouts given by httpcore are replaced by the deadline."""

    def __init__(self, sock: socket.socket, deadline: Deadline, left: int) -> None:
        self._sock = sock
        self._deadline = deadline
        self._left = self._max_bytes = left

    @override
    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _raising(httpcore.ReadError):
            content = self._patiently(lambda: self._sock.recv(max_bytes))
        self._left -= len(content)
        if self._left < 0:
            raise ReplyTooLong(f"the answer has more than {self._max_bytes:,} bytes")
        return content

    @override
    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)
        # httpcore then reads the answer of a server that has heard enough
        with _raising(httpcore.WriteError):
            while view:
                sent = self._patiently(lambda part=view: self._sock.send(part))
                view = view[sent:]

    @override
    def close(self) -> None:
        self._sock.close()

    @override
    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        try:
            with _raising(httpcore.ConnectError):
                # the new socket takes over the old one's descriptor
                self._sock = secured = ssl_context.wrap_socket(
                    self._sock,
                    server_hostname=server_hostname,
                    do_handshake_on_connect=False,
                )
                self._patiently(secured.do_handshake)
        except BaseException:
            self.close()
            raise
        return self

    @override
    def get_extra_info(self, info: str) -> Any:
        # a pool serves one request, so nothing asks whether an idle connection is readable
        return self._sock if info == "socket" else None

    def _patiently(self, call: Callable[[], Returned]) -> Returned:
        """Call an operation of the socket until it is done or the deadline ends it."""
        while True:
            self._sock.settimeout(self._deadline.slice())
            try:
                return call()
            except TimeoutError:
                continue


@contextmanager
def _raising(kind: type[Exception]) -> Iterator[None]:
    """Raise errors of a socket, or of a host's name, as the kind that httpcore expects."""
    try:
        yield
    except (OSError, UnicodeError) as error:
        raise kind(str(error)) from error


def _connect(host: str, port: int, deadline: Deadline) -> socket.socket:
    """Connect in a thread: looking a host up cannot be ended."""
    opened: list[socket.socket] = []
    failed: list[OSError | UnicodeError] = []
    done, given_up = threading.Event(), threading.Event()

    def connect() -> None:
        try:
            opened.append(socket.create_connection((host, port), deadline.seconds))
        except (OSError, UnicodeError) as error:
            failed.append(error)
        done.set()
        if given_up.is_set():
            for sock in opened:
                sock.close()

    threading.Thread(target=connect, daemon=True).start()
    try:
        while not done.wait(deadline.slice()):
            pass
    except BaseException:
        given_up.set()
        raise
    if failed:
        raise failed[0]
    return opened[0]


_SLICE = 0.25
"""Longest single wait, in seconds: the first Ctrl-C must end every wait within two."""


class Deadline:
    """Bounds all waits of one attempt together: to ``seconds``, or until ``signal`` is set."""

    def __init__(self, seconds: float, signal: threading.Event) -> None:
        self.seconds = seconds
        self._signal = signal
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left; negative once it has passed."""
        return self._end - time.monotonic()

    def slice(self) -> float:
        """
        Return how long the next wait may block, in seconds.

        Raises:
            CalledOff: if the signal is set.
            DeadlinePassed: if no time is left.
        """
        if self._signal.is_set():
            raise CalledOff("called off")
        left = self.left
        if left <= 0:
            raise DeadlinePassed(f"no complete reply within {self.seconds:g} s")
        return min(left, _SLICE)


class Signals:
    """
    Events that end requests once they are set; safe to use from several threads.

    Attributes:
        stopped: set by ``stop``.
    """

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._given: WeakSet[threading.Event] = WeakSet()
        self._lock = threading.Lock()

    def new(self) -> threading.Event:
        """Return an event for some requests; ``stop`` also sets it."""
        signal = threading.Event()
        with self._lock:
            self._given.add(signal)
            if self.stopped.is_set():
                signal.set()
        return signal

    def stop(self) -> None:
        """Set all events."""
        with self._lock:
            self.stopped.set()
            for signal in self._given:
                signal.set()
