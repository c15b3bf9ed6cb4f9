"""Connections to a server, direct or through a proxy, whose waits all end."""

from __future__ import annotations

import base64
import errno
import io
import os
import selectors
import socket
import ssl
import threading
import urllib.request
from collections.abc import Callable
from functools import cache
from http.client import HTTPConnection, HTTPResponse
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

import certifi
from typing_extensions import override

from eval_recipes.judge.deadline import Deadline
from eval_recipes.judge.errors import ReplyTooLong, Unreachable

Returned = TypeVar("Returned")

PORTS = {"http": 80, "https": 443}


class BoundedConnection(HTTPConnection):
    """
    A connection for one request, ended by a deadline or after too many bytes.

    Args:
        url: address of the server.
        deadline: bounds all waits.
        max_bytes: most bytes that are received, the head of the answer included.
    """

    def __init__(self, url: SplitResult, deadline: Deadline, max_bytes: int) -> None:
        assert url.hostname is not None
        super().__init__(url.hostname, url.port or PORTS[url.scheme])
        self._url = url
        self._deadline = deadline
        self._max_bytes = max_bytes
        self._proxy = find_proxy(url)
        self._open: socket.socket | None = None

    @property
    def target(self) -> str:
        """What a request line names before the path: a proxy is told the server, too."""
        plain = self._proxy is not None and self._url.scheme == "http"
        return f"http://{self._url.netloc}" if plain else ""

    @property
    def proxy_headers(self) -> dict[str, str]:
        """Headers for a proxy that reads the request itself."""
        return _credentials(self._proxy) if self._proxy and self.target else {}

    @override
    def connect(self) -> None:
        """Connect, through the proxy if there is one."""
        proxy = self._proxy
        if proxy is None:
            place = (self.host, self.port)
        else:
            assert proxy.hostname is not None
            place = (proxy.hostname, proxy.port or PORTS["http"])
        self._open = _open(*place, self._deadline)
        if self._url.scheme == "https":
            if proxy is not None:
                self._ask_for_tunnel(self._open, proxy)
            self._open = self._secured(self._open)
        # http.client asks for no more of a socket than a `BoundedSocket` has
        self.sock: Any = BoundedSocket(self._open, self._deadline, self._max_bytes)

    @override
    def close(self) -> None:
        """
        Leave the socket open: ``http.client`` closes before the answer is read.

        ``hang_up`` closes it.
        """

    def hang_up(self) -> None:
        """Close the socket."""
        if self._open is not None:
            self._open.close()

    def _ask_for_tunnel(self, opened: socket.socket, proxy: SplitResult) -> None:
        lines = [f"CONNECT {self.host}:{self.port} HTTP/1.1"]
        headers = {"Host": f"{self.host}:{self.port}", **_credentials(proxy)}
        lines += [f"{name}: {value}" for name, value in headers.items()]
        sock: Any = BoundedSocket(opened, self._deadline, self._max_bytes)
        sock.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
        response = HTTPResponse(sock, method="CONNECT")
        response.begin()
        if response.status != 200:
            raise Unreachable(
                f"the proxy {proxy.hostname}:{proxy.port} answered {response.status}"
            )

    def _secured(self, opened: socket.socket) -> ssl.SSLSocket:
        secured = tls().wrap_socket(
            opened, server_hostname=self.host, do_handshake_on_connect=False
        )
        # the socket is now its own; what was `opened` is detached
        self._open = secured
        patiently(secured, self._deadline, secured.do_handshake)
        return secured


class BoundedSocket:
    """A connected socket, as ``http.client`` uses one."""

    def __init__(self, sock: socket.socket, deadline: Deadline, max_bytes: int) -> None:
        self._sock = sock
        self._deadline = deadline
        self._max_bytes = max_bytes
        self._left = max_bytes

    def sendall(self, data: bytes) -> None:
        """Send all of ``data``."""
        view = memoryview(data)
        while view:
            sent = patiently(
                self._sock, self._deadline, lambda part=view: self._sock.send(part)
            )
            view = view[sent:]

    def receive_into(self, buffer: memoryview) -> int:
        """
        Receive some bytes; 0 at the end.

        Raises:
            ReplyTooLong: after more than ``max_bytes``.
        """
        n = patiently(self._sock, self._deadline, lambda: self._sock.recv_into(buffer))
        self._left -= n
        if self._left < 0:
            raise ReplyTooLong(f"the answer has more than {self._max_bytes:,} bytes")
        return n

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a reader of what is received."""
        assert mode == "rb"
        return io.BufferedReader(_Received(self))


class _Received(io.RawIOBase):
    def __init__(self, sock: BoundedSocket) -> None:
        super().__init__()
        self._sock = sock

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any, /) -> int:
        return self._sock.receive_into(memoryview(buffer).cast("B"))


def patiently(
    sock: socket.socket, deadline: Deadline, call: Callable[[], Returned]
) -> Returned:
    """Call an operation of a socket until it is done or the deadline ends it."""
    while True:
        sock.settimeout(deadline.slice())
        try:
            return call()
        except TimeoutError:
            continue


def find_proxy(url: SplitResult) -> SplitResult | None:
    """
    Return the proxy that the environment names for an address.

    Raises:
        Unreachable: if it is no HTTP proxy.
    """
    host = url.hostname or ""
    named = urllib.request.getproxies().get(url.scheme)
    if not named or urllib.request.proxy_bypass(host):
        return None
    try:
        proxy = urlsplit(named if "://" in named else f"http://{named}")
        if proxy.scheme == "http" and proxy.hostname and proxy.port != 0:
            return proxy
    except ValueError:
        # no address at all
        pass
    raise Unreachable(
        f"the environment names a proxy for {url.scheme} that is none of the form "
        "http://host:port"
    )


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


@cache
def tls() -> ssl.SSLContext:
    """Return the system's certificates and, as bare systems have none, certifi's."""
    context = ssl.create_default_context()
    if "SSL_CERT_FILE" not in os.environ:
        context.load_verify_locations(certifi.where())
    return context


def _open(host: str, port: int, deadline: Deadline) -> socket.socket:
    """Connect to the first address of a host that answers; each has an equal share of time."""
    addresses = _addresses(host, port, deadline)
    failure: OSError = TimeoutError("timed out")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, protocol)
        try:
            share = deadline.left / (len(addresses) - number)
            _connect(sock, address, deadline, until=deadline.left - share)
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    deadline.slice()
    raise failure


def _connect(
    sock: socket.socket, address: Any, deadline: Deadline, *, until: float
) -> None:
    """Connect while more than ``until`` seconds are left."""
    sock.setblocking(False)
    code = sock.connect_ex(address)
    if code in (errno.EINPROGRESS, errno.EWOULDBLOCK):
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_WRITE)
            while not selector.select(deadline.slice()):
                if deadline.left <= until:
                    raise TimeoutError("timed out")
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _addresses(host: str, port: int, deadline: Deadline) -> list[Any]:
    """Look a host up in a thread, as that cannot be ended."""
    found: list[Any] = []
    failed: list[OSError | UnicodeError] = []
    done = threading.Event()

    def look_up() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failed.append(error)
        finally:
            done.set()

    threading.Thread(target=look_up, daemon=True).start()
    while not done.wait(deadline.slice()):
        pass
    if failed:
        raise OSError(f"host {host!r} is unknown ({failed[0]})")
    return found
