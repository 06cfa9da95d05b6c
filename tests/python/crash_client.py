"""A crash loses nothing: kill -9 while messages are being sent, then see what is there."""

import http.client
import os
import random
import threading
import time
from pathlib import Path

import grpc
from google.protobuf import json_format
from rialto.messaging.v1 import messaging_pb2, messaging_pb2_grpc

from client import PATIENCE, Checks, Rest, expect_equal, new_id, wait_until
from grpc_client import bearer, channel
from rialto_process import Rialto

checks = Checks("crash")
CRASHES = 2
# Acknowledged messages of all senders before each crash, and after the last one.
BETWEEN = 60


class Sender(threading.Thread):
    """Sends numbered messages, one after another. What is not acknowledged it sends again, under the same id."""

    def __init__(self, name: str, sends):
        super().__init__(daemon=True)
        self.name = name
        self.send = sends
        # What was acknowledged, in the order in which it was sent.
        self.acknowledged: list[dict] = []
        self.retried = 0
        self.ended = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.ended.is_set():
            try:
                message = self.send(f"{self.name}-{number}", f"{self.name} says {number}")
            except (OSError, http.client.HTTPException, AssertionError, grpc.RpcError):
                # The server is away.
                self.retried += 1
                time.sleep(0.02)
                continue
            self.acknowledged.append(message)
            number += 1


class Scene:
    """A server that crashes, a conversation, senders on both transports, and a watcher that saw only the beginning."""

    def __init__(self, server: Rialto):
        self.server = server
        self.first_banner = self.server.banner
        alice, bob = [account for account in self.server.banner["accounts"] if account["role"] == "user"][:2]
        self.alice, self.bob = self._log_in(alice), self._log_in(bob)
        body = {"memberIds": [self._rest(self.bob).get("/v1/auth/me").ok()["id"]]}
        self.conversation = self._rest(self.alice).post("/v1/conversations", body).ok()["id"]
        self.path = f"/v1/conversations/{self.conversation}"
        self.senders = [Sender("rest", self._send_over_rest), Sender("grpc", self._send_over_grpc)]

    def play(self) -> None:
        watcher = self._rest(self.bob).watch(f"{self.path}/events", after_seq=0)
        for sender in self.senders:
            sender.start()
        for crash in range(CRASHES):
            self._wait_for_acknowledged(BETWEEN)
            # Anywhere between two commits, or in the middle of one.
            time.sleep(random.uniform(0, 0.02))
            self.server.kill()
            if crash == 0:
                # What was on its way when the server died counts as seen.
                self.seen = [(event.id, event.json()["message"]) for event in watcher.rest()]
                self.last_id = watcher.last_id
            self.server.start()
        self._wait_for_acknowledged(BETWEEN)
        for sender in self.senders:
            sender.ended.set()
        for sender in self.senders:
            sender.join(PATIENCE)
        self.messages = self._list()

    def _wait_for_acknowledged(self, more: int) -> None:
        def count() -> int:
            return min(len(sender.acknowledged) for sender in self.senders)

        # Of each sender, so that both transports are in it.
        wanted = count() + more // len(self.senders)
        wait_until(lambda: count() >= wanted, f"{more} more acknowledged messages", 2 * PATIENCE)

    def _log_in(self, account: dict) -> str:
        login = {"email": account["email"], "password": account["password"]}
        return Rest(self.server.banner["listen"]).post("/v1/auth/login", login).ok()["accessToken"]

    def _rest(self, token: str) -> Rest:
        return Rest(self.server.banner["listen"], token)

    def _send_over_rest(self, name: str, text: str) -> dict:
        return self._rest(self.alice).post(f"{self.path}/messages", {"clientMessageId": name, "text": text}).ok()

    def _send_over_grpc(self, name: str, text: str) -> dict:
        request = messaging_pb2.SendMessageRequest(conversation_id=self.conversation, client_message_id=name, text=text)
        with channel(self.server.banner["listen"]) as connection:
            stub = messaging_pb2_grpc.MessagingServiceStub(connection)
            answer = stub.SendMessage(request, metadata=bearer(self.bob), timeout=PATIENCE)
        return json_format.MessageToDict(answer.message, always_print_fields_with_no_presence=True)

    def _list(self) -> list[dict]:
        """Everything, by pages."""
        messages, token = [], ""
        while True:
            page = self._rest(self.alice).get(f"{self.path}/messages", after_seq=0, page_size=40, page_token=token).ok()
            messages += page["messages"]
            token = page["nextPageToken"]
            if not token:
                return messages


@checks
def a_server_that_was_killed_while_messages_were_sent_starts_again_on_its_data():
    scene.play()
    expect_equal(scene.server.banner["accounts"], scene.first_banner["accounts"])
    print(
        f"       {CRASHES} crashes, {len(scene.messages)} messages, {len(scene.seen)} seen before the first crash, "
        f"{sum(sender.retried for sender in scene.senders)} attempts failed"
    )


@checks
def the_numbers_have_no_hole():
    expect_equal([int(message["seq"]) for message in scene.messages], list(range(1, len(scene.messages) + 1)))


@checks
def every_acknowledged_message_is_there_as_it_was_acknowledged():
    there = {message["id"]: message for message in scene.messages}
    for sender in scene.senders:
        for message in sender.acknowledged:
            expect_equal(there.get(message["id"]), message)


@checks
def each_is_there_once_and_in_the_order_in_which_it_was_sent():
    for sender in scene.senders:
        found = [message for message in scene.messages if message["clientMessageId"].startswith(f"{sender.name}-")]
        wanted = [(f"{sender.name}-{number}", f"{sender.name} says {number}") for number in range(len(found))]
        expect_equal([(message["clientMessageId"], message["text"]) for message in found], wanted)
        # Nothing is there that nobody sent: at most the one that was under way at the end.
        expect_equal(len(found) - len(sender.acknowledged) in (0, 1), True)


@checks
def what_a_watcher_saw_before_the_crash_is_there():
    # Nobody is shown what is not committed.
    expect_equal([message for _, message in scene.seen], scene.messages[: len(scene.seen)])


@checks
def a_watcher_that_comes_back_gets_exactly_what_it_missed():
    watcher = scene._rest(scene.bob).watch(f"{scene.path}/events", last_event_id=scene.last_id or "0")
    missed = scene.messages[int(scene.last_id or 0) :]
    events = watcher.take(len(missed))
    expect_equal([(event.id, event.json()["message"]) for event in events], [(one["seq"], one) for one in missed])
    # Then what happens; and nothing in between.
    live = scene._send_over_rest(new_id(), "live again")
    expect_equal([event.json()["message"] for event in watcher.take(1)], [live])
    watcher.close()


@checks
def it_has_not_panicked_and_stops_when_it_is_asked_to():
    expect_equal([line for line in scene.server.log().splitlines() if "panicked at" in line], [])
    expect_equal(scene.server.stop(), 0)


if __name__ == "__main__":
    with Rialto(Path(os.environ["RIALTO_TEMPORARY"]) / "crash") as server:
        scene = Scene(server)
        checks.run()
