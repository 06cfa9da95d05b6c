"""A foreign client of the WebSockets: `websockets`, which knows nothing of Rialto."""

import json
import os

from rialto.messaging.v1 import messaging_pb2 as pb
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from client import PATIENCE, Checks, Rest, expect_equal, new_id, register

checks = Checks("websocket")
address = json.loads(os.environ["RIALTO_BANNER"])["listen"]
anonymous = Rest(address)
CONNECT = "/v1/messages/connect"


def open_socket(path: str, token: str = "", protocol: str = "rialto.json.v1", **options):
    """As a program does it: the token in a header. Compression is offered, as the library does it, and not taken."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return connect(
        f"ws://{address}{path}",
        subprotocols=[protocol],
        additional_headers=headers,
        open_timeout=PATIENCE,
        close_timeout=PATIENCE,
        **options,
    )


def hear(socket):
    return json.loads(socket.recv(PATIENCE))


def closed(socket) -> tuple[int, str]:
    """The code and reason with which the server closes, after what else it sends."""
    try:
        while True:
            socket.recv(PATIENCE)
    except ConnectionClosed as end:
        return end.rcvd.code, end.rcvd.reason


def refused(path: str, token: str = "", protocol: str = "rialto.json.v1") -> tuple[int, dict]:
    """The status and the error of a socket that does not open."""
    try:
        open_socket(path, token, protocol).close()
    except InvalidStatus as answer:
        return answer.response.status_code, json.loads(answer.response.body)["error"]
    raise AssertionError("it opened")


class Person:
    def __init__(self, name: str):
        account, self.token = register(anonymous, name)
        self.id = account["id"]
        self.rest = Rest(address, self.token)

    def conversation_with(self, other: "Person") -> str:
        return self.rest.post("/v1/conversations", {"memberIds": [other.id]}).ok()["id"]


alice, bob = Person("alice"), Person("bob")


@checks
def two_people_chat():
    conversation = alice.conversation_with(bob)
    with open_socket(CONNECT, alice.token) as sender, open_socket(CONNECT, bob.token) as reader:
        expect_equal(sender.subprotocol, "rialto.json.v1")
        expect_equal(sender.protocol.extensions, [])
        reader.send(json.dumps({"commandId": 1, "subscribe": {"conversationId": conversation, "afterSeq": 0}}))
        expect_equal(hear(reader)["result"]["subscribed"]["conversationId"], conversation)
        for number in range(1, 51):
            command = {"conversationId": conversation, "clientMessageId": new_id(), "text": f"m{number}"}
            sender.send(json.dumps({"commandId": number, "send": command}))
        for number in range(1, 51):
            message = hear(reader)["result"]["event"]["event"]["message"]
            expect_equal((int(message["seq"]), message["text"]), (number, f"m{number}"))
        answers = sorted(int(hear(sender)["result"]["commandId"]) for _ in range(50))
        expect_equal(answers, list(range(1, 51)))
        sender.send("half-close")
        expect_equal(closed(sender), (1000, "OK"))


@checks
def protobuf_messages_are_binary_frames():
    conversation = alice.conversation_with(bob)
    with open_socket(CONNECT, alice.token, "rialto.proto.v1") as socket:
        message = pb.SendMessageRequest(conversation_id=conversation, client_message_id="1", text="ü" * 5000)
        request = pb.ConnectRequest(command_id=3, send=message).SerializeToString()
        # In fragments, which the library makes of an iterable.
        socket.send(request[at : at + 100] for at in range(0, len(request), 100))
        answer = pb.ConnectResponse.FromString(socket.recv(PATIENCE))
        expect_equal((answer.command_id, answer.sent.message.seq, answer.sent.message.text), (3, 1, "ü" * 5000))
        socket.send("half-close")
        expect_equal(closed(socket), (1000, "OK"))


@checks
def subscribe_takes_path_and_query_and_resumes():
    conversation = alice.conversation_with(bob)
    for number in range(1, 6):
        body = {"clientMessageId": str(number), "text": f"m{number}"}
        alice.rest.post(f"/v1/conversations/{conversation}/messages", body).ok()
    with open_socket(f"/v1/conversations/{conversation}/events?after_seq=3", bob.token) as socket:
        socket.send("{}")
        expect_equal([hear(socket)["result"]["message"]["text"] for _ in range(2)], ["m4", "m5"])


@checks
def who_may_not_gets_an_http_status():
    expect_equal([refused(CONNECT)[0], refused(CONNECT, "nonsense")[0]], [401, 401])
    status, error = refused(CONNECT, alice.token, "soap")
    expect_equal((status, error["details"][0]["fieldViolations"][0]["field"]), (400, "sec-websocket-protocol"))
    expect_equal(refused(f"{CONNECT}?access_token={alice.token}")[0], 400)
    expect_equal(anonymous.get(CONNECT).status, 426)


@checks
def what_is_wrong_is_told_and_closes():
    for frame, code, message in [
        ('{"commandId": true}', 1007, "commandId: expected int64, got true"),
        (b"{}", 1003, "rialto.json.v1 has text frames only"),
    ]:
        with open_socket(CONNECT, alice.token) as socket:
            socket.send(frame)
            expect_equal(hear(socket)["error"]["message"], message)
            expect_equal(closed(socket), (code, message))
    with open_socket(CONNECT, alice.token) as socket:
        socket.send(json.dumps({"commandId": 1}))
        expect_equal(hear(socket)["error"]["reason"], "VALIDATION_ERROR")
        expect_equal(closed(socket)[0], 4003)
    with open_socket(CONNECT, alice.token) as socket:
        socket.send(" " * (5 << 20))
        expect_equal(hear(socket)["error"]["reason"], "PAYLOAD_TOO_LARGE")
        expect_equal(closed(socket)[0], 1009)


@checks
def pings_are_answered():
    with open_socket(CONNECT, alice.token) as socket:
        expect_equal(socket.ping().wait(PATIENCE), True)


@checks
def logging_out_closes_the_socket():
    person = Person("carol")
    with open_socket(CONNECT, person.token) as socket:
        person.rest.post("/v1/auth/logout").ok()
        expect_equal(hear(socket)["error"]["reason"], "SESSION_REVOKED")
        expect_equal(closed(socket)[0], 4016)


if __name__ == "__main__":
    checks.run()
