"""What the scripts that speak gRPC share."""

import contextlib
import queue

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from client import PATIENCE, expect_equal

# The proxy of the machine is not for the loopback interface.
OPTIONS = [("grpc.enable_http_proxy", 0)]


def channel(address: str, **options) -> grpc.Channel:
    return grpc.insecure_channel(address, options=OPTIONS, **options)


def bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


def detail(error: grpc.RpcError, kind):
    """The detail of this type (such as google.rpc.ErrorInfo) from `grpc-status-details-bin`."""
    status = rpc_status.from_call(error)
    if status is None:
        raise AssertionError(f"there are no details: {error}")
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            found = kind()
            packed.Unpack(found)
            return found
    raise AssertionError(f"there is no {kind.DESCRIPTOR.full_name} in {status}")


@contextlib.contextmanager
def refused(code: grpc.StatusCode, reason: str | None = None):
    """Expects that a call is refused with this code, and this reason in its google.rpc.ErrorInfo. Gives the error."""
    caught = []
    try:
        yield caught
    except grpc.RpcError as error:
        caught.append(error)
        expect_equal(error.code(), code)
        if reason:
            info = detail(error, error_details_pb2.ErrorInfo)
            expect_equal((info.reason, info.domain), (reason, "rialto"))
    else:
        raise AssertionError(f"this was not refused; wanted {code}")


class Commands:
    """The client's side of a two-way stream: what is put in is sent."""

    def __init__(self):
        self.queue = queue.Queue()

    def send(self, command) -> None:
        self.queue.put(command)

    def end(self) -> None:
        self.queue.put(None)

    def __iter__(self):
        return iter(lambda: self.queue.get(timeout=4 * PATIENCE), None)
