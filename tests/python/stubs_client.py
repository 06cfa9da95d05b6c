"""A client of another language with generated stubs: grpcio for gRPC, the standard library for REST and SSE."""

import itertools
import json
import os
import threading

import grpc
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from rialto.auth.v1 import auth_pb2, auth_pb2_grpc
from rialto.error.v1 import reason_pb2
from rialto.messaging.v1 import messaging_pb2 as pb
from rialto.messaging.v1 import messaging_pb2_grpc

from client import PATIENCE, Checks, Rest, details_bin, expect_equal, grpc_web, new_id, register
from grpc_client import Commands, bearer, channel, detail, refused

checks = Checks("stubs")


def as_rest(message) -> dict:
    """A message as REST has it: empty lists are there."""
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
banner = json.loads(os.environ["RIALTO_BANNER"])
address = banner["listen"]
anonymous = Rest(address)
connection = channel(address)
auth = auth_pb2_grpc.AuthServiceStub(connection)
messaging = messaging_pb2_grpc.MessagingServiceStub(connection)


class Person:
    """An account that is logged in on both transports."""

    def __init__(self, name: str):
        account, self.token = register(anonymous, name)
        self.id = account["id"]
        self.rest = Rest(address, self.token)
        self.call = {"metadata": bearer(self.token), "timeout": PATIENCE}

    def conversation_with(self, *others: "Person") -> str:
        request = pb.CreateConversationRequest(member_ids=[other.id for other in others])
        return messaging.CreateConversation(request, **self.call).conversation.id

    def send(self, conversation: str, text: str, client_message_id: str | None = None) -> pb.Message:
        """Over gRPC."""
        request = pb.SendMessageRequest(
            conversation_id=conversation, client_message_id=client_message_id or new_id(), text=text
        )
        return messaging.SendMessage(request, **self.call).message

    def post(self, conversation: str, text: str, client_message_id: str | None = None) -> dict:
        """Over REST."""
        body = {"clientMessageId": client_message_id or new_id(), "text": text}
        return self.rest.post(f"/v1/conversations/{conversation}/messages", body).ok()

    def subscribe(self, conversation: str, after_seq: int | None = None):
        """A gRPC stream that has begun: what happens from now on is in it."""
        request = pb.SubscribeRequest(conversation_id=conversation, after_seq=after_seq)
        stream = messaging.Subscribe(request, metadata=bearer(self.token), timeout=4 * PATIENCE)
        stream.initial_metadata()
        return stream


alice, bob, mallory = Person("alice"), Person("bob"), Person("mallory")


def texts(stream, count: int) -> list[tuple[int, str]]:
    return [(event.seq, event.message.text) for event in itertools.islice(stream, count)]


@checks
def register_log_in_and_get_me_over_grpc():
    login = {"email": f"Eve.{new_id()}@Example.org", "password": "passwörd with ünicode"}
    registered = auth.Register(auth_pb2.RegisterRequest(**login, display_name="Eve ☕"), timeout=PATIENCE).account
    tokens = auth.Login(auth_pb2.LoginRequest(**login), timeout=PATIENCE)
    expect_equal(tokens.token_type, "Bearer")
    me = auth.GetMe(auth_pb2.GetMeRequest(), metadata=bearer(tokens.access_token), timeout=PATIENCE).account
    expect_equal(me, registered)
    expect_equal((me.email, me.display_name), (login["email"].lower(), "Eve ☕"))


@checks
def the_accounts_of_the_banner_can_log_in():
    for account in banner["accounts"]:
        tokens = auth.Login(
            auth_pb2.LoginRequest(email=account["email"], password=account["password"]), timeout=PATIENCE
        )
        me = auth.GetMe(auth_pb2.GetMeRequest(), metadata=bearer(tokens.access_token), timeout=PATIENCE).account
        expect_equal(json_format.MessageToDict(me)["role"], f"ROLE_{account['role'].upper()}")


@checks
def grpc_and_rest_say_the_same():
    me = auth.GetMe(auth_pb2.GetMeRequest(), **alice.call).account
    expect_equal(alice.rest.get("/v1/auth/me").ok(), json_format.MessageToDict(me))
    conversation = alice.conversation_with(bob)
    sent = alice.send(conversation, "over gRPC")
    page = alice.rest.get(f"/v1/conversations/{conversation}/messages").ok()
    expect_equal(page, {"messages": [as_rest(sent)], "nextPageToken": ""})
    posted = bob.post(conversation, "over REST")
    fields = ["id", "conversationId", "seq", "senderId", "clientMessageId", "text", "createdAt", "reactions"]
    expect_equal(sorted(posted), sorted(fields))
    listed = messaging.ListMessages(pb.ListMessagesRequest(conversation_id=conversation), **bob.call).messages
    expect_equal([as_rest(message) for message in listed][0], posted)
    for alias in ("/api/v1/auth/me", "/api/auth/me"):
        expect_equal(alice.rest.get(alias).ok()["id"], alice.id)


@checks
def a_conversation_is_listed_for_its_members_only():
    conversation = alice.conversation_with(bob)
    for person, listed in ((alice, True), (bob, True), (mallory, False)):
        found = messaging.ListConversations(pb.ListConversationsRequest(), **person.call).conversations
        expect_equal(conversation in [one.id for one in found], listed)


@checks
def a_grpc_stream_and_an_sse_watcher_see_each_message_once_and_in_order():
    conversation = alice.conversation_with(bob)
    stream = bob.subscribe(conversation)
    watcher = alice.rest.watch(f"/v1/conversations/{conversation}/events", after_seq=0)
    wanted = []
    for number in range(20):
        text = f"message {number}: äöü 🐳\n\"quoted\"\r\ndata: not a field\n\n"
        sender, send = ((alice, alice.send), (bob, bob.post))[number % 2]
        send(conversation, text)
        wanted.append((number + 1, text))
    expect_equal(texts(stream, len(wanted)), wanted)
    events = watcher.take(len(wanted))
    expect_equal([(int(event.id), event.json()["message"]["text"]) for event in events], wanted)
    expect_equal([event.json()["seq"] for event in events], [str(seq) for seq, _ in wanted])
    # Nothing comes twice: the next event of each is the next message.
    alice.send(conversation, "the last")
    expect_equal(texts(stream, 1), [(21, "the last")])
    expect_equal([event.id for event in watcher.take(1)], ["21"])
    stream.cancel()
    watcher.close()


@checks
def senders_at_the_same_time_get_numbers_without_a_hole():
    conversation = alice.conversation_with(bob)
    stream = alice.subscribe(conversation)
    watcher = bob.rest.watch(f"/v1/conversations/{conversation}/events")
    answers = {}

    def send(name: str, send_one) -> None:
        for number in range(25):
            text = f"{name} {number}"
            answer = send_one(conversation, text)
            answers[text] = int(answer["seq"] if isinstance(answer, dict) else answer.seq)

    senders = [("a", alice.send), ("b", alice.post), ("c", bob.send), ("d", bob.post)]
    threads = [threading.Thread(target=send, args=sender) for sender in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * PATIENCE)
    expect_equal(sorted(answers.values()), list(range(1, 101)))
    wanted = sorted((seq, text) for text, seq in answers.items())
    expect_equal(texts(stream, 100), wanted)
    events = watcher.take(100)
    expect_equal([(int(event.id), event.json()["message"]["text"]) for event in events], wanted)
    stream.cancel()
    watcher.close()


@checks
def a_client_that_comes_back_gets_what_it_missed_and_then_what_happens():
    conversation = alice.conversation_with(bob)
    first = alice.rest.watch(f"/v1/conversations/{conversation}/events")
    bob.send(conversation, "seen")
    first.take(1)
    first.close()
    for number in range(3):
        bob.send(conversation, f"missed {number}")
    again = alice.rest.watch(f"/v1/conversations/{conversation}/events", last_event_id=first.last_id)
    stream = alice.subscribe(conversation, after_seq=int(first.last_id))
    bob.send(conversation, "live")
    wanted = [(2, "missed 0"), (3, "missed 1"), (4, "missed 2"), (5, "live")]
    expect_equal([(int(event.id), event.json()["message"]["text"]) for event in again.take(4)], wanted)
    expect_equal(texts(stream, 4), wanted)
    stream.cancel()
    again.close()


@checks
def a_repeated_client_message_id_returns_the_first_message_on_either_transport():
    conversation = alice.conversation_with(bob)
    name = new_id()
    first = alice.send(conversation, "first", name)
    expect_equal(alice.send(conversation, "second", name), first)
    expect_equal(alice.post(conversation, "third", name), as_rest(first))
    # The name is the sender's own.
    expect_equal(bob.post(conversation, "from bob", name)["seq"], "2")
    page = alice.rest.get(f"/v1/conversations/{conversation}/messages", after_seq=0).ok()
    expect_equal([message["text"] for message in page["messages"]], ["first", "from bob"])


@checks
def a_message_sent_many_times_at_once_is_there_once():
    conversation = alice.conversation_with(bob)
    name = new_id()
    request = pb.SendMessageRequest(conversation_id=conversation, client_message_id=name, text="once")
    calls = [messaging.SendMessage.future(request, **alice.call) for _ in range(20)]
    expect_equal({call.result().message.id for call in calls}, {calls[0].result().message.id})
    expect_equal(alice.send(conversation, "next").seq, 2)


@checks
def lists_are_paged_to_the_end():
    conversation = alice.conversation_with(bob)
    for number in range(7):
        alice.send(conversation, str(number))
    for after_seq, wanted in ((None, range(7, 0, -1)), (0, range(1, 8)), (5, range(6, 8))):
        found, token, pages = [], "", 0
        while token or not pages:
            request = pb.ListMessagesRequest(
                conversation_id=conversation, page_size=3, page_token=token, after_seq=after_seq
            )
            page = messaging.ListMessages(request, **bob.call)
            found += [message.seq for message in page.messages]
            token, pages = page.next_page_token, pages + 1
        expect_equal(found, list(wanted))


@checks
def connect_subscribes_sends_reports_events_and_unsubscribes():
    conversation, other = alice.conversation_with(bob), alice.conversation_with(bob)
    commands = Commands()
    stream = messaging.Connect(iter(commands), metadata=bearer(bob.token), timeout=4 * PATIENCE)

    def command(number: int, **what) -> None:
        commands.send(pb.ConnectRequest(command_id=number, **what))

    for number, watched in ((1, conversation), (2, other)):
        command(number, subscribe=pb.SubscribeRequest(conversation_id=watched))
        answer = next(stream)
        expect_equal((answer.command_id, answer.subscribed.conversation_id), (number, watched))

    # Its own message comes back as the answer and as an event.
    send = pb.SendMessageRequest(conversation_id=conversation, client_message_id=new_id(), text="over the stream")
    command(3, send=send)
    both = sorted(itertools.islice(stream, 2), key=lambda response: response.command_id)
    expect_equal([response.WhichOneof("response") for response in both], ["event", "sent"])
    expect_equal((both[0].event.event.seq, both[0].event.event.message), (1, both[1].sent.message))

    alice.send(other, "from alice")
    event = next(stream)
    expect_equal((event.command_id, event.event.conversation_id), (0, other))
    expect_equal(event.event.event.message.text, "from alice")

    # A command that is refused doesn't end the stream.
    command(4, subscribe=pb.SubscribeRequest(conversation_id=alice.conversation_with(mallory)))
    answer = next(stream)
    expect_equal((answer.command_id, answer.failed.reason), (4, reason_pb2.REASON_RESOURCE_NOT_FOUND))

    command(5, unsubscribe=pb.Unsubscribe(conversation_id=other))
    answer = next(stream)
    expect_equal((answer.command_id, answer.unsubscribed.conversation_id), (5, other))
    alice.send(other, "nobody listens")
    alice.send(conversation, "somebody does")
    expect_equal(next(stream).event.event.message.text, "somebody does")

    # Watching from an earlier place brings what was missed.
    command(6, subscribe=pb.SubscribeRequest(conversation_id=other, after_seq=0))
    expect_equal(next(stream).subscribed.after_seq, 0)
    expect_equal([next(stream).event.event.seq for _ in range(2)], [1, 2])

    # Who has closed its side still gets events.
    commands.end()
    alice.send(conversation, "after the end")
    expect_equal(next(stream).event.event.message.text, "after the end")
    stream.cancel()


@checks
def a_command_that_breaks_a_rule_ends_the_stream():
    commands = Commands()
    stream = messaging.Connect(iter(commands), metadata=bearer(bob.token), timeout=PATIENCE)
    commands.send(pb.ConnectRequest(command_id=1))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_ERROR"):
        next(stream)


@checks
def an_invalid_request_names_each_field_at_fault_on_both_transports():
    request = auth_pb2.RegisterRequest(email="not an address", password="short", display_name="x" * 81)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_ERROR") as caught:
        auth.Register(request, timeout=PATIENCE)
    violations = detail(caught[0], error_details_pb2.BadRequest).field_violations
    expect_equal([violation.field for violation in violations], ["email", "password", "display_name"])
    answer = anonymous.post("/v1/auth/register", json_format.MessageToDict(request))
    expect_equal((answer.status, answer.json()["error"]["reason"]), (422, "VALIDATION_ERROR"))
    details = {detail["@type"].rpartition(".")[2]: detail for detail in answer.json()["error"]["details"]}
    expect_equal(len(details["BadRequest"]["fieldViolations"]), 3)


@checks
def who_is_not_a_member_is_told_that_there_is_no_conversation():
    conversation = alice.conversation_with(bob)
    named = {"conversation_id": conversation}
    calls = [
        (messaging.GetConversation, pb.GetConversationRequest(**named)),
        (messaging.ListMessages, pb.ListMessagesRequest(**named)),
        (messaging.SendMessage, pb.SendMessageRequest(**named, client_message_id="1", text="let me in")),
        (lambda *request, **call: next(messaging.Subscribe(*request, **call)), pb.SubscribeRequest(**named)),
    ]
    for call, request in calls:
        with refused(grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND"):
            call(request, **mallory.call)
    base = f"/v1/conversations/{conversation}"
    body = {"clientMessageId": "1", "text": "let me in"}
    answers = [
        mallory.rest.get(base),
        mallory.rest.get(f"{base}/messages"),
        mallory.rest.post(f"{base}/messages", body),
        mallory.rest.get(f"{base}/events", headers={"accept": "text/event-stream"}),
    ]
    expect_equal([answer.status for answer in answers], [404] * 4)
    # Just as for one that does not exist.
    errors = [answers[0].json()["error"], mallory.rest.get(f"/v1/conversations/{new_id()}").json()["error"]]
    for error in errors:
        del error["requestId"]
    expect_equal(errors[0], errors[1])


@checks
def without_a_good_token_nobody_gets_in():
    with refused(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHORIZED"):
        auth.GetMe(auth_pb2.GetMeRequest(), timeout=PATIENCE)
    head, payload, signature = alice.token.split(".")
    forged = f"{head}.{payload}.{'A' * len(signature)}"
    with refused(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"):
        auth.GetMe(auth_pb2.GetMeRequest(), metadata=bearer(forged), timeout=PATIENCE)
    with refused(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHORIZED"):
        next(messaging.Subscribe(pb.SubscribeRequest(conversation_id=new_id()), timeout=PATIENCE))
    expect_equal(anonymous.get("/v1/auth/me").status, 401)
    expect_equal(Rest(address, forged).get("/v1/auth/me").status, 401)


@checks
def logout_ends_the_session_and_its_streams_at_once():
    person = Person("leaver")
    conversation = person.conversation_with(alice)
    stream = person.subscribe(conversation)
    watcher = person.rest.watch(f"/v1/conversations/{conversation}/events")
    auth.Logout(auth_pb2.LogoutRequest(), **person.call)
    with refused(grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
        next(stream)
    [event] = watcher.rest()
    expect_equal((event.name, event.json()["error"]["reason"]), ("error", "SESSION_REVOKED"))
    with refused(grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
        auth.GetMe(auth_pb2.GetMeRequest(), **person.call)
    expect_equal(person.rest.get("/v1/auth/me").status, 401)


@checks
def a_deadline_is_honoured():
    conversation = alice.conversation_with(bob)
    request = pb.SubscribeRequest(conversation_id=conversation)
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        next(messaging.Subscribe(request, metadata=bearer(alice.token), timeout=0.3))
    # grpcio would give up by itself. Over REST it is the server alone that ends the stream, and says why.
    answer = alice.rest.get(
        f"/v1/conversations/{conversation}/events", headers={"accept": "text/event-stream", "x-request-timeout": "0.3"}
    )
    expect_equal("TIMEOUT" in answer.body.decode(), True)


@checks
def compression_works_both_ways():
    with channel(address, compression=grpc.Compression.Gzip) as compressed:
        stub = messaging_pb2_grpc.MessagingServiceStub(compressed)
        conversation = alice.conversation_with(bob)
        text = "well compressible " * 500
        request = pb.SendMessageRequest(conversation_id=conversation, client_message_id="1", text=text)
        expect_equal(stub.SendMessage(request, **alice.call).message.text, text)
        # One call may be without it.
        request.client_message_id = "2"
        stub.SendMessage(request, compression=grpc.Compression.NoCompression, **alice.call)
        stream = stub.Subscribe(pb.SubscribeRequest(conversation_id=conversation, after_seq=0), **alice.call)
        expect_equal(texts(stream, 2), [(1, text), (2, text)])
        stream.cancel()


@checks
def a_message_that_is_too_large_is_refused():
    conversation = alice.conversation_with(bob)
    large = pb.SendMessageRequest(conversation_id=conversation, client_message_id="1", text="x" * (5 << 20))
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "PAYLOAD_TOO_LARGE"):
            messaging.SendMessage(large, compression=compression, **alice.call)
    # Over REST the length alone is enough to be refused.
    headers = {"content-type": "application/json", "content-length": str(5 << 20)}
    answer = alice.rest.post(f"/v1/conversations/{conversation}/messages", b"", headers)
    expect_equal((answer.status, answer.json()["error"]["reason"]), (413, "PAYLOAD_TOO_LARGE"))
    # The connection is still good, and nothing was written.
    expect_equal(alice.send(conversation, "small").seq, 1)


@checks
def a_list_of_the_longest_messages_can_be_read():
    conversation = alice.conversation_with(bob)
    text = "🐳" * 10_000
    futures = [
        messaging.SendMessage.future(
            pb.SendMessageRequest(conversation_id=conversation, client_message_id=str(number), text=text), **alice.call
        )
        for number in range(120)
    ]
    for future in futures:
        future.result()
    found, token = 0, ""
    while True:
        request = pb.ListMessagesRequest(conversation_id=conversation, page_size=200, page_token=token, after_seq=0)
        page = messaging.ListMessages(request, **bob.call)
        found, token = found + len(page.messages), page.next_page_token
        if not token:
            break
    expect_equal(found, 120)


@checks
def grpc_web_speaks_the_same_contract():
    def call(method: str, request, response, token: str):
        messages, trailers = grpc_web(address, f"/{method}", request.SerializeToString(), token)
        return [response.FromString(message) for message in messages], trailers

    get_me = "rialto.auth.v1.AuthService/GetMe"
    found, trailers = call(get_me, auth_pb2.GetMeRequest(), auth_pb2.GetMeResponse, alice.token)
    expect_equal(([me.account.id for me in found], trailers["grpc-status"]), ([alice.id], "0"))
    found, trailers = call(get_me, auth_pb2.GetMeRequest(), auth_pb2.GetMeResponse, "")
    expect_equal((found, trailers["grpc-status"]), ([], "16"))
    status = status_pb2.Status.FromString(details_bin(trailers["grpc-status-details-bin"]))
    expect_equal([packed.type_url.rpartition("/")[2] for packed in status.details], ["google.rpc.ErrorInfo"])


@checks
def a_request_id_comes_back():
    for headers, given in (({"x-request-id": "my-request.1"}, "my-request.1"), ({}, None)):
        answer = anonymous.get("/v1/auth/me", headers=headers)
        expect_equal(answer.headers["x-request-id"] == given if given else bool(answer.headers["x-request-id"]), True)
        expect_equal(answer.headers["x-request-id"] in answer.body.decode(), True)
    _, call = auth.GetMe.with_call(
        auth_pb2.GetMeRequest(), metadata=[*bearer(alice.token), ("x-request-id", "my-request.2")], timeout=PATIENCE
    )
    expect_equal(dict(call.initial_metadata()).get("x-request-id"), "my-request.2")


@checks
def an_idempotency_key_makes_one_conversation_of_two_calls():
    body, headers = {"title": "once", "memberIds": [bob.id]}, {"idempotency-key": new_id()}
    first, second = (alice.rest.post("/v1/conversations", body, headers) for _ in range(2))
    expect_equal(second.ok(), first.ok())
    expect_equal((first.headers["idempotency-replayed"], second.headers["idempotency-replayed"]), (None, "true"))
    expect_equal(alice.rest.post("/v1/conversations", {**body, "title": "other"}, headers).status, 409)
    request = pb.CreateConversationRequest(title="once", member_ids=[bob.id])
    metadata = [*bearer(alice.token), *headers.items()]
    again = messaging.CreateConversation(request, metadata=metadata, timeout=PATIENCE).conversation
    expect_equal(again.id, first.json()["id"])


if __name__ == "__main__":
    checks.run()
