"""The account stream over grpcio and server-sent events, through a kill -9 of the server."""

import http.client
import os
import threading
from pathlib import Path

import grpc
from rialto.account.v1 import account_pb2 as pb
from rialto.account.v1 import account_pb2_grpc

from client import PATIENCE, Checks, Rest, expect_equal, wait_until
from grpc_client import bearer, channel, refused
from rialto_process import Rialto

checks = Checks("account")
# Sessions that end before the server is killed, and while nobody listens.
ENDED = 40


class Client:
    """Somebody who listens over gRPC, in a thread, and remembers the last number."""

    def __init__(self, server: Rialto, token: str):
        self.server, self.token = server, token
        self.seqs: list[int] = []
        self.events: list[pb.SubscribeResponse] = []
        self.connection_ids: list[str] = []
        self.errors: list[grpc.RpcError] = []

    def listen(self) -> None:
        """Comes back with the last number, and hears until the stream ends."""
        self.connection = channel(self.server.banner["listen"])
        stub = account_pb2_grpc.AccountServiceStub(self.connection)
        after = {"after_seq": self.seqs[-1]} if self.seqs else {}
        self.call = stub.Subscribe(pb.SubscribeRequest(**after), metadata=bearer(self.token))
        opened = next(self.call)
        expect_equal(opened.WhichOneof("event"), "opened")
        expect_equal(opened.seq, self.seqs[-1] if self.seqs else 0)
        self.connection_ids.append(opened.opened.connection_id)
        self.thread = threading.Thread(target=self._hear, daemon=True)
        self.thread.start()

    def _hear(self) -> None:
        try:
            for message in self.call:
                self.seqs.append(message.seq)
                self.events.append(message)
        except grpc.RpcError as error:
            self.errors.append(error)

    def stub(self) -> account_pb2_grpc.AccountServiceStub:
        return account_pb2_grpc.AccountServiceStub(self.connection)


class Scene:
    def __init__(self, server: Rialto):
        self.server = server
        self.alice = next(account for account in server.banner["accounts"] if account["role"] == "user")
        self.token = self.log_in()
        self.ended: list[str] = []
        self.client = Client(server, self.token)

    def rest(self, token: str) -> Rest:
        return Rest(self.server.banner["listen"], token)

    def log_in(self, account: dict | None = None) -> str:
        account = account or self.alice
        login = {"email": account["email"], "password": account["password"]}
        return Rest(self.server.banner["listen"]).post("/v1/auth/login", login).ok()["accessToken"]

    def end_session(self) -> None:
        """Logs in and out again, of which the account is told. What was not acknowledged may be done all the same."""
        token = self.log_in()
        sessions = self.rest(token).get("/v1/auth/sessions").ok()["sessions"]
        own = next(session["id"] for session in sessions if session.get("current"))
        self.rest(token).post("/v1/auth/logout").ok()
        self.ended.append(own)

    def play(self) -> None:
        self.client.listen()
        working = threading.Thread(target=self._end_sessions, daemon=True)
        working.start()
        wait_until(lambda: len(self.ended) >= ENDED // 2, "sessions that end")
        self.server.kill()
        working.join(PATIENCE)
        self.client.thread.join(PATIENCE)
        self.server.start()
        # Nobody listens now.
        for _ in range(ENDED // 2):
            self.end_session()
        self.client.listen()
        self.end_session()
        wait_until(lambda: set(self.ended) <= set(self.told()), "the account to be told of every session")

    def _end_sessions(self) -> None:
        try:
            while True:
                self.end_session()
        except (OSError, http.client.HTTPException, AssertionError):
            # The server is away.
            pass

    def told(self) -> list[str]:
        return [event.session_ended.session_id for event in self.client.events]


@checks
def what_was_acknowledged_before_and_after_the_kill_is_told_once_and_without_a_hole():
    expect_equal(scene.client.seqs, list(range(1, len(scene.client.seqs) + 1)))
    expect_equal(len(set(scene.told())), len(scene.told()))
    told = [session for session in scene.told() if session in set(scene.ended)]
    expect_equal(told, scene.ended)
    reasons = {event.session_ended.reason for event in scene.client.events}
    expect_equal(reasons, {pb.SESSION_END_REASON_LOGGED_OUT})


@checks
def server_sent_events_tell_the_same_and_come_back_by_their_id():
    watcher = scene.rest(scene.token).watch("/v1/account/events", last_event_id="0")
    opened, *events = watcher.take(1 + len(scene.client.seqs))
    expect_equal((opened.name, opened.id), ("opened", "0"))
    expect_equal([int(event.id) for event in events], scene.client.seqs)
    expect_equal([event.json()["sessionEnded"]["sessionId"] for event in events], scene.told())
    watcher.close()


@checks
def a_connection_is_listed_and_ends_when_it_is_revoked():
    client = scene.client
    call = {"metadata": bearer(client.token), "timeout": PATIENCE}
    own = client.connection_ids[-1]

    def listed() -> dict[str, pb.Connection]:
        return {one.id: one for one in client.stub().ListConnections(pb.ListConnectionsRequest(), **call).connections}

    expect_equal(listed()[own].transport, pb.TRANSPORT_GRPC)
    expect_equal(listed()[own].device, "grpc-python")
    client.stub().RevokeConnection(pb.RevokeConnectionRequest(connection_id=own), **call)
    client.thread.join(PATIENCE)
    with refused(grpc.StatusCode.ABORTED, "CONNECTION_REVOKED"):
        raise client.errors[-1]
    expect_equal(own in listed(), False)
    with refused(grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND"):
        client.stub().RevokeConnection(pb.RevokeConnectionRequest(connection_id=own), **call)


@checks
def a_stream_is_told_when_another_account_comes_and_goes():
    # Not Alice: her streams from before the kill count for a minute.
    bob = next(account for account in scene.server.banner["accounts"] if account["email"] != scene.alice["email"])
    client = Client(scene.server, scene.log_in(bob))
    bob_id = scene.rest(client.token).get("/v1/auth/me").ok()["id"]
    watcher = scene.rest(scene.token).watch("/v1/account/events", presence_of=bob_id)

    def told() -> tuple[bool, bool]:
        [event] = watcher.take(1)
        presence = event.json()["presence"]
        expect_equal((event.name, presence["accountId"]), ("presence", bob_id))
        return presence["online"], bool(presence.get("seenAt"))

    def asked() -> tuple[bool, bool]:
        request = pb.GetPresencesRequest(account_ids=[bob_id])
        [presence] = client.stub().GetPresences(request, metadata=bearer(scene.token), timeout=PATIENCE).presences
        return presence.online, presence.HasField("seen_at")

    expect_equal(watcher.take(1)[0].name, "opened")
    expect_equal(told(), (False, False))
    client.listen()
    expect_equal(told(), (True, True))
    expect_equal(asked(), (True, True))
    client.call.cancel()
    expect_equal(told(), (False, True))
    expect_equal(asked(), (False, True))
    watcher.close()


@checks
def it_has_not_panicked_and_stops_when_it_is_asked_to():
    expect_equal([line for line in scene.server.log().splitlines() if "panicked at" in line], [])
    expect_equal(scene.server.stop(), 0)


if __name__ == "__main__":
    with Rialto(Path(os.environ["RIALTO_TEMPORARY"]) / "account") as server:
        scene = Scene(server)
        scene.play()
        checks.run()
