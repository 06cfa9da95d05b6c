"""Groups, single messages and receipts over grpcio, watched over gRPC and on the account stream."""

import json
import os
import threading

import grpc
from rialto.account.v1 import account_pb2, account_pb2_grpc
from rialto.messaging.v1 import (
    groups_pb2,
    groups_pb2_grpc,
    messages_pb2,
    messages_pb2_grpc,
    messaging_pb2,
    messaging_pb2_grpc,
    receipts_pb2,
    receipts_pb2_grpc,
)

from client import PATIENCE, Checks, Rest, expect_equal, wait_until
from grpc_client import bearer, channel, refused

checks = Checks("conversations")


class Person:
    """An account, with the services of messaging."""

    def __init__(self, banner: dict, name: str):
        account = next(one for one in banner["accounts"] if one["email"].startswith(name))
        login = {"email": account["email"], "password": account["password"]}
        token = Rest(banner["listen"]).post("/v1/auth/login", login).ok()["accessToken"]
        self.rest = Rest(banner["listen"], token)
        self.id = self.rest.get("/v1/auth/me").ok()["id"]
        self.metadata = bearer(token)
        self.connection = channel(banner["listen"])
        self.call = {"metadata": self.metadata, "timeout": PATIENCE}
        self.conversations = messaging_pb2_grpc.MessagingServiceStub(self.connection)
        self.groups = groups_pb2_grpc.GroupServiceStub(self.connection)
        self.messages = messages_pb2_grpc.MessageServiceStub(self.connection)
        self.receipts = receipts_pb2_grpc.ReceiptServiceStub(self.connection)

    def hear(self, stream, heard: list) -> None:
        def listen() -> None:
            try:
                for one in stream:
                    heard.append(one)
            except grpc.RpcError:
                # It has ended; the call knows why.
                pass

        threading.Thread(target=listen, daemon=True).start()

    def send(self, conversation: str, text: str) -> messaging_pb2.Message:
        request = messaging_pb2.SendMessageRequest(conversation_id=conversation, client_message_id=text, text=text)
        return self.conversations.SendMessage(request, **self.call).message


class Scene:
    def __init__(self, banner: dict):
        self.alice, self.bob = Person(banner, "alice"), Person(banner, "bob")
        request = messaging_pb2.CreateConversationRequest(title="Python", member_ids=[self.bob.id])
        self.id = self.alice.conversations.CreateConversation(request, **self.alice.call).conversation.id
        self.events: list[messaging_pb2.SubscribeResponse] = []
        request = messaging_pb2.SubscribeRequest(conversation_id=self.id, after_seq=0)
        self.watching = self.bob.conversations.Subscribe(request, metadata=self.bob.metadata)
        self.bob.hear(self.watching, self.events)
        self.told: list[account_pb2.SubscribeResponse] = []
        account = account_pb2_grpc.AccountServiceStub(self.bob.connection)
        self.account = account.Subscribe(account_pb2.SubscribeRequest(), metadata=self.bob.metadata)
        self.bob.hear(self.account, self.told)
        wait_until(lambda: self.told, "the account stream to open")

    def kinds(self) -> list[str]:
        return [event.WhichOneof("event") for event in self.events]


@checks
def what_happens_is_told_in_order_under_one_number_each():
    alice, bob, id = scene.alice, scene.bob, scene.id
    expect_equal(alice.send(id, "first").seq, 1)
    edit = messages_pb2.EditMessageRequest(conversation_id=id, seq=1, text="First")
    expect_equal(alice.messages.EditMessage(edit, **alice.call).message.text, "First")
    react = messages_pb2.AddReactionRequest(conversation_id=id, seq=1, emoji="👍")
    bob.messages.AddReaction(react, **bob.call)
    promote = groups_pb2.UpdateMemberRequest(conversation_id=id, account_id=bob.id, role=messaging_pb2.MEMBER_ROLE_ADMIN)
    alice.groups.UpdateMember(promote, **alice.call)
    delete = messages_pb2.DeleteMessageRequest(conversation_id=id, seq=1, for_all=True)
    bob.messages.DeleteMessage(delete, **bob.call)
    wait_until(lambda: len(scene.events) >= 5, "five events")
    expect_equal(scene.kinds(), ["message", "edited", "reaction", "members", "deleted"])
    expect_equal([event.seq for event in scene.events], [1, 2, 3, 4, 5])


@checks
def the_account_stream_tells_how_far_a_conversation_has_got():
    scene.alice.send(scene.id, "second")

    def heads() -> list[int]:
        heads = [told.conversation_head for told in scene.told if told.WhichOneof("event") == "conversation_head"]
        return [head.last_seq for head in heads if head.conversation_id == scene.id]

    wait_until(lambda: heads() and heads()[-1] == 6, "the head of the conversation")
    expect_equal(heads(), sorted(set(heads())))


@checks
def receipts_and_typing_are_told_without_a_number_of_their_own():
    alice, bob, id = scene.alice, scene.bob, scene.id
    typing = receipts_pb2.SetTypingRequest(conversation_id=id, typing=True)
    alice.receipts.SetTyping(typing, **alice.call)
    # The event before it may still be under way.
    wait_until(lambda: scene.kinds()[-1] == "typing", "typing")
    expect_equal((scene.events[-1].typing.account_id, scene.events[-1].seq), (alice.id, 6))
    read = receipts_pb2.UpdateReceiptRequest(conversation_id=id, read_seq=6)
    expect_equal(bob.receipts.UpdateReceipt(read, **bob.call).unread_count, 0)
    wait_until(lambda: scene.kinds()[-1] == "receipt", "the receipt")
    expect_equal(scene.events[-1].receipt.read_seq, 6)


@checks
def refusals_name_their_reason():
    alice, bob, id = scene.alice, scene.bob, scene.id
    with refused(grpc.StatusCode.NOT_FOUND, "RESOURCE_DELETED"):
        alice.messages.EditMessage(messages_pb2.EditMessageRequest(conversation_id=id, seq=1, text="x"), **alice.call)
    with refused(grpc.StatusCode.PERMISSION_DENIED, "INSUFFICIENT_PERMISSIONS"):
        remove = groups_pb2.RemoveMemberRequest(conversation_id=id, account_id=alice.id)
        bob.groups.RemoveMember(remove, **bob.call)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_ERROR"):
        react = messages_pb2.AddReactionRequest(conversation_id=id, seq=1, emoji="no")
        bob.messages.AddReaction(react, **bob.call)


@checks
def who_is_removed_hears_it_and_then_the_stream_ends():
    remove = groups_pb2.RemoveMemberRequest(conversation_id=scene.id, account_id=scene.bob.id)
    scene.alice.groups.RemoveMember(remove, **scene.alice.call)
    wait_until(scene.watching.done, "the end of the stream")
    expect_equal((scene.kinds()[-1], scene.watching.code()), ("members", grpc.StatusCode.NOT_FOUND))
    left = "conversation_left"
    wait_until(lambda: any(told.WhichOneof("event") == left for told in scene.told), "the account to be told")
    scene.account.cancel()


if __name__ == "__main__":
    scene = Scene(json.loads(os.environ["RIALTO_BANNER"]))
    checks.run()
