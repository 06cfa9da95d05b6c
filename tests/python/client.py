"""What the scripts share: checks, a REST client, a watcher of server-sent events. Nothing but the standard library."""

import base64
import contextlib
import faulthandler
import http.client
import json
import queue
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import urllib.parse
import uuid
from dataclasses import dataclass, field

# Seconds that anything may take. Nothing waits for it to pass unless something is broken.
PATIENCE = 15


class Checks:
    """The checks of a script. A decorated function is one; its name says what is promised."""

    def __init__(self, script: str):
        self.script = script
        self.checks = []

    def __call__(self, check):
        self.checks.append(check)
        return check

    def run(self) -> None:
        """Runs all, prints a line for each, and ends the process."""
        # Who is asked to end says where it was, and tidies up.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        faulthandler.register(signal.SIGTERM, chain=True)
        failed = False
        for check in self.checks:
            name = f"{self.script}: {check.__name__.replace('_', ' ')}"
            try:
                check()
                print(f"ok     {name}")
            except Exception as error:
                failed = True
                print(f"FAILED {name}: {' '.join(str(error).split())[:300] or type(error).__name__}")
                traceback.print_exc()
        sys.exit(1 if failed else 0)


def expect_equal(found, wanted) -> None:
    if found != wanted:
        raise AssertionError(f"found {found!r}, wanted {wanted!r}")


def wait_until(condition, what: str, patience: float = PATIENCE):
    """Waits for something that nobody announces; returns what the condition returned."""
    deadline = time.monotonic() + patience
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {patience} s for: {what}")
        time.sleep(0.02)
    return result


def new_id() -> str:
    return str(uuid.uuid4())


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self):
        return json.loads(self.body)

    def ok(self):
        """The JSON of a call that succeeded."""
        if self.status != 200:
            raise AssertionError(f"HTTP {self.status}: {self.body[:500]!r}")
        return self.json()


class Rest:
    """Calls over HTTP/1.1, each on a connection of its own."""

    def __init__(self, address: str, token: str = ""):
        self.address = address
        self.token = token

    def call(self, method: str, path: str, body=None, headers=None) -> Answer:
        """`body`: something for JSON, or bytes that are sent as they are."""
        headers = {**self._headers(), **(headers or {})}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("content-type", "application/json")
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def get(self, path: str, headers=None, **query) -> Answer:
        if query:
            path += "?" + urllib.parse.urlencode(query)
        return self.call("GET", path, headers=headers)

    def post(self, path: str, body=None, headers=None) -> Answer:
        return self.call("POST", path, {} if body is None else body, headers)

    def watch(self, path: str, last_event_id: str | None = None, **query) -> "Watcher":
        headers = {**self._headers(), "accept": "text/event-stream"}
        if last_event_id is not None:
            headers["last-event-id"] = last_event_id
        return Watcher(self.address, f"{path}?{urllib.parse.urlencode(query)}", headers)

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"} if self.token else {}


@dataclass
class Event:
    """A server-sent event."""

    id: str = ""
    name: str = "message"
    lines: list[str] = field(default_factory=list)

    def json(self):
        return json.loads("\n".join(self.lines))


class Watcher:
    """Reads server-sent events (WHATWG HTML, section 9.2) in a thread, until it is closed or the server goes away."""

    def __init__(self, address: str, path: str, headers: dict[str, str]):
        connection = http.client.HTTPConnection(address, timeout=PATIENCE)
        connection.connect()
        self.socket = connection.sock
        connection.request("GET", path, headers=headers)
        self.response = connection.getresponse()
        if self.response.status != 200:
            raise AssertionError(f"HTTP {self.response.status}: {self.response.read()[:500]!r}")
        expect_equal(self.response.headers.get_content_type(), "text/event-stream")
        # A stream may be silent for long.
        self.socket.settimeout(None)
        self.events: queue.Queue[Event] = queue.Queue()
        self.last_id: str | None = None
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def take(self, count: int) -> list[Event]:
        """The next events, so many."""
        deadline = time.monotonic() + PATIENCE
        events = []
        while len(events) < count:
            try:
                events.append(self.events.get(timeout=max(0, deadline - time.monotonic())))
            except queue.Empty:
                raise TimeoutError(f"{len(events)} of {count} events came in {PATIENCE} s") from None
            if events[-1].id:
                self.last_id = events[-1].id
        return events

    def rest(self) -> list[Event]:
        """What else came before the stream ended. The server must have ended it, or `close` was called."""
        self.thread.join(PATIENCE)
        if self.thread.is_alive():
            raise TimeoutError("the stream of events goes on")
        return self.take(self.events.qsize())

    def close(self) -> None:
        # Unlike `close`, this wakes the thread.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(PATIENCE)
        self.response.close()

    def _read(self) -> None:
        event = Event()
        with contextlib.suppress(OSError, http.client.HTTPException):
            # An event counts when the empty line after it has come; a half one is dropped.
            for raw in iter(self.response.readline, b""):
                line = raw.decode().rstrip("\r\n")
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if not line:
                    if event.lines:
                        self.events.put(event)
                    event = Event()
                elif name == "id":
                    event.id = value
                elif name == "event":
                    event.name = value
                elif name == "data":
                    event.lines.append(value)


def register(rest: Rest, name: str) -> tuple[dict, str]:
    """A new account and its access token."""
    login = {"email": f"{name}-{uuid.uuid4().hex[:12]}@example.org", "password": "correct horse battery"}
    account = rest.post("/v1/auth/register", {**login, "displayName": name}).ok()
    return account, rest.post("/v1/auth/login", login).ok()["accessToken"]


def grpc_web(address: str, path: str, message: bytes, token: str = "") -> tuple[list[bytes], dict[str, str]]:
    """A unary call over gRPC-Web: the messages and the trailers of the answer."""
    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    answer = Rest(address, token).call("POST", path, b"\0" + struct.pack(">I", len(message)) + message, headers)
    expect_equal(answer.status, 200)
    messages, trailers, rest = [], {}, answer.body
    while rest:
        flags, length = struct.unpack(">BI", rest[:5])
        frame, rest = rest[5 : 5 + length], rest[5 + length :]
        if flags & 0x80:
            lines = [line.partition(":") for line in frame.decode().splitlines() if line]
            trailers = {name.lower(): value.strip() for name, _, value in lines}
        else:
            messages.append(frame)
    # A call that failed may have its status in the head.
    head = {name.lower(): value for name, value in answer.headers.items() if name.lower().startswith("grpc-")}
    return messages, {**head, **trailers}


def details_bin(text: str) -> bytes:
    """`grpc-status-details-bin`: base64, perhaps without padding."""
    return base64.b64decode(text + "=" * (-len(text) % 4))
