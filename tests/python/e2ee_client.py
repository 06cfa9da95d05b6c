"""End-to-end encryption with libsodium itself (PyNaCl): two people with two devices each write to each other through the server,
and what they write is found nowhere in what the server stores, logs or tells Redis."""

import base64
import contextlib
import glob
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import nacl.utils
from google.rpc import error_details_pb2
from nacl.public import Box, PrivateKey, PublicKey, SealedBox
from nacl.secret import SecretBox
from nacl.signing import SigningKey, VerifyKey
from rialto.account.v1 import account_pb2, account_pb2_grpc
from rialto.auth.v1 import auth_pb2, auth_pb2_grpc
from rialto.keys.v1 import keys_pb2, keys_pb2_grpc
from rialto.messaging.v1 import encryption_pb2 as encryption
from rialto.messaging.v1 import messaging_pb2 as pb
from rialto.messaging.v1 import messaging_pb2_grpc

from client import PATIENCE, Checks, expect_equal, new_id, wait_until
from grpc_client import bearer, channel, detail, refused
from rialto_process import Rialto

checks = Checks("e2ee")
PASSWORD = "correct horse battery"
# What nobody but the devices may ever see, and what the server does see: the search must find the one and not the other.
CANARY = f"canary-{uuid.uuid4().hex}"
PLAIN = f"plain-{uuid.uuid4().hex}"


@dataclass
class Device:
    """A device with its private keys, and what it has read."""

    person: "Person"
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    registration_id: int = field(default_factory=lambda: 1 + int.from_bytes(os.urandom(3), "big"))
    identity: PrivateKey = field(default_factory=PrivateKey.generate)
    signing: SigningKey = field(default_factory=SigningKey.generate)

    def register(self) -> None:
        identity, signing = bytes(self.identity.public_key), bytes(self.signing.verify_key)
        ids = uuid.UUID(self.person.id).bytes + uuid.UUID(self.id).bytes
        signed = b"Rialto-Device-v1\0" + ids + struct.pack(">I", self.registration_id) + identity + signing
        request = keys_pb2.RegisterDeviceRequest(
            device_id=self.id,
            registration_id=self.registration_id,
            identity_key=identity,
            signing_key=signing,
            signature=self.person.key.sign(signed).signature,
            name="Python",
            account_key=bytes(self.person.key.verify_key),
        )
        keys.RegisterDevice(request, **self.person.call)

    def listen(self, conversation: str):
        """What is for this device, from the beginning."""
        request = pb.SubscribeRequest(conversation_id=conversation, after_seq=0, device_id=self.id)
        return messaging.Subscribe(request, **self.person.call)

    def read(self, event: pb.SubscribeResponse) -> str:
        """Decrypts a message that has one envelope: for this device."""
        message = event.message
        content = message.encrypted
        (envelope,) = content.envelopes
        expect_equal((envelope.account_id, envelope.device_id), (self.person.id, self.id))
        expect_equal(envelope.registration_id, self.registration_id)
        if envelope.type == encryption.ENVELOPE_TYPE_SEALED_BOX:
            opened = SealedBox(self.identity).decrypt(envelope.ciphertext)
        else:
            expect_equal(envelope.type, encryption.ENVELOPE_TYPE_BOX)
            sender = self.person.directory()[message.sender_id, content.sender_device_id]
            opened = Box(self.identity, PublicKey(sender.identity_key)).decrypt(envelope.ciphertext)
        if content.shared_ciphertext:
            opened = SecretBox(opened).decrypt(content.shared_ciphertext)
        return opened.decode()


class Person:
    """Somebody with an account key."""

    def __init__(self):
        login = {"email": f"e2ee-{new_id()}@example.org", "password": PASSWORD}
        self.id = auth.Register(auth_pb2.RegisterRequest(**login, display_name="E2EE"), timeout=PATIENCE).account.id
        token = auth.Login(auth_pb2.LoginRequest(**login), timeout=PATIENCE).access_token
        self.call = {"metadata": bearer(token), "timeout": PATIENCE}
        self.key = SigningKey.generate()
        self.devices = [Device(self), Device(self)]
        for device in self.devices:
            device.register()
        self.people = [self]

    def directory(self) -> dict[tuple[str, str], keys_pb2.Device]:
        """The devices of everybody whom this one talks to, each verified by the key of its account, which is compared with the
        one that it has. (People compare fingerprints.)"""
        found = {}
        for person in self.people:
            answer = keys.ListDevices(keys_pb2.ListDevicesRequest(account_id=person.id), **self.call)
            expect_equal(answer.account_key, bytes(person.key.verify_key))
            for device in answer.devices:
                ids = uuid.UUID(person.id).bytes + uuid.UUID(device.device_id).bytes
                signed = ids + struct.pack(">I", device.registration_id) + device.identity_key + device.signing_key
                VerifyKey(answer.account_key).verify(b"Rialto-Device-v1\0" + signed, device.signature)
                found[person.id, device.device_id] = device
        return found


def sealed(_: Device, to: keys_pb2.Device, message: bytes) -> tuple[int, bytes]:
    return encryption.ENVELOPE_TYPE_SEALED_BOX, SealedBox(PublicKey(to.identity_key)).encrypt(message)


def boxed(sender: Device, to: keys_pb2.Device, message: bytes) -> tuple[int, bytes]:
    return encryption.ENVELOPE_TYPE_BOX, bytes(Box(sender.identity, PublicKey(to.identity_key)).encrypt(message))


def encrypt(sender: Device, text: str, directory, way=boxed, shared=False) -> encryption.EncryptedContent:
    """For every device but the sending one."""
    message, shared_ciphertext = text.encode(), b""
    if shared:
        # The message once, and its key for each device.
        key = nacl.utils.random(SecretBox.KEY_SIZE)
        message, shared_ciphertext = key, bytes(SecretBox(key).encrypt(message))
    envelopes = []
    for (account_id, device_id), device in directory.items():
        if device_id != sender.id:
            kind, ciphertext = way(sender, device, message)
            address = {"account_id": account_id, "device_id": device_id, "registration_id": device.registration_id}
            envelopes.append(encryption.Envelope(**address, type=kind, ciphertext=ciphertext))
    return encryption.EncryptedContent(
        sender_device_id=sender.id, envelopes=envelopes, shared_ciphertext=shared_ciphertext
    )


def send(sender: Device, content: encryption.EncryptedContent) -> pb.Message:
    request = pb.SendMessageRequest(conversation_id=conversation, client_message_id=new_id(), encrypted=content)
    return messaging.SendMessage(request, **sender.person.call).message


class Redis:
    """Enough of its protocol to see what it holds and hears."""

    def __init__(self, path: Path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(path))
        self.stream = self.socket.makefile("rb")

    def call(self, *words: bytes):
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
        return self._answer()

    def _answer(self):
        line = self.stream.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"*":
            return [self._answer() for _ in range(int(rest))]
        if kind == b"$":
            return self.stream.read(int(rest) + 2)[:-2] if rest != b"-1" else None
        if kind == b"-":
            raise RuntimeError(rest.decode())
        return rest

    def dump(self) -> bytes:
        """All keys with what they hold."""
        names, cursor, content = [], b"0", b""
        while True:
            cursor, found = self.call(b"SCAN", cursor, b"COUNT", b"1000")
            names += found
            if cursor == b"0":
                break
        for name in names:
            content += name + b"\n" + (self.call(b"DUMP", name) or b"") + b"\n"
        return content

    def monitor(self) -> list[bytes]:
        """What it is told from now on."""
        expect_equal(self.call(b"MONITOR"), b"OK")
        self.socket.settimeout(None)
        heard = []
        threading.Thread(target=lambda: heard.extend(iter(self.stream.readline, b"")), daemon=True).start()
        return heard


def forms(text: str) -> list[bytes]:
    """How a text may look where it is stored: itself, in hexadecimal (as Postgres dumps bytes), and in base64, at any place."""
    plain = text.encode()
    encoded = [base64.b64encode(b"\0" * skip + plain)[4:-4] for skip in range(3)]
    return [plain, plain.hex().encode(), *encoded]


def database_dump() -> bytes:
    (place,) = server.data_dir.rglob(".s.PGSQL.5432")
    found = shutil.which("pg_dump") or max(glob.glob("/usr/lib/postgresql/*/bin/pg_dump"))
    where = ["-h", str(place.parent), "-U", "rialto"]
    names = "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate"
    psql = [found.replace("pg_dump", "psql"), *where, "-d", "postgres", "-Atc", names]
    names = subprocess.run(psql, check=True, capture_output=True, timeout=PATIENCE).stdout.split()
    dumps = [subprocess.run([found, *where, name.decode()], check=True, capture_output=True) for name in names]
    return b"".join(dump.stdout for dump in dumps)


@checks
def devices_read_sealed_boxes_crypto_boxes_and_a_shared_ciphertext():
    listeners = {device.id: device.listen(conversation) for person in (ann, bob) for device in person.devices}
    sent = [(ann.devices[0], sealed, False), (bob.devices[1], boxed, False), (ann.devices[1], sealed, True)]
    sent.append((bob.devices[0], boxed, True))
    for number, (sender, way, shared) in enumerate(sent):
        text = f"{CANARY} {number}"
        message = send(sender, encrypt(sender, text, sender.person.directory(), way, shared))
        expect_equal(message.WhichOneof("content"), None)
        for person in (ann, bob):
            for device in person.devices:
                event = next(listeners[device.id])
                expect_equal(event.seq, number + 1)
                if device is sender:
                    # It knows what it has said.
                    expect_equal((len(event.message.encrypted.envelopes), event.message.sender_id), (0, sender.person.id))
                else:
                    expect_equal(device.read(event), text)
    for listener in listeners.values():
        listener.cancel()


@checks
def what_was_missed_is_read_later():
    listener = bob.devices[1].listen(conversation)
    expect_equal(bob.devices[1].read(next(listener)), f"{CANARY} 0")
    listener.cancel()


@checks
def a_device_that_comes_is_missing_until_it_is_written_to():
    before = ann.directory()
    stream = account.Subscribe(account_pb2.SubscribeRequest(), **bob.call)
    expect_equal(next(stream).WhichOneof("event"), "opened")
    new = Device(bob)
    new.register()
    event = next(stream)
    expect_equal((event.device_added.device_id, event.device_added.registration_id), (new.id, new.registration_id))
    stream.cancel()

    sender, text = ann.devices[0], f"{CANARY} for three"
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "DEVICES_CHANGED") as caught:
        send(sender, encrypt(sender, text, before))
    metadata = detail(caught[0], error_details_pb2.ErrorInfo).metadata
    missing = [{"accountId": bob.id, "deviceId": new.id, "registrationId": new.registration_id}]
    expect_equal(json.loads(metadata["missing"]), missing)
    expect_equal((json.loads(metadata["extra"]), json.loads(metadata["stale"])), ([], []))

    message = send(sender, encrypt(sender, text, ann.directory()))
    listener = new.listen(conversation)
    # What was said before it came has no envelope for it.
    event = next(event for event in listener if event.seq == message.seq)
    expect_equal(new.read(event), text)
    listener.cancel()

    with refused(grpc.StatusCode.FAILED_PRECONDITION, "ENCRYPTION_REQUIRED"):
        request = pb.SendMessageRequest(conversation_id=conversation, client_message_id=new_id(), text="no secret")
        messaging.SendMessage(request, **ann.call)


@checks
def the_server_keeps_and_tells_nothing_of_it():
    expect_equal(PLAIN.encode() in database_dump(), False)
    plain = pb.CreateConversationRequest(member_ids=[bob.id], kind=pb.CONVERSATION_KIND_DIRECT)
    room = messaging.CreateConversation(plain, **ann.call).conversation.id
    request = pb.SendMessageRequest(conversation_id=room, client_message_id=new_id(), text=PLAIN)
    messaging.SendMessage(request, **ann.call)

    # By itself Redis holds only what goes away within moments.
    redis.call(b"SET", b"e2ee_client", PLAIN.encode())
    dump, content = database_dump(), redis.dump()
    # What the server may read is found, so that what is not found is not there.
    expect_equal((PLAIN.encode() in dump, PLAIN.encode() in content), (True, True))
    wait_until(lambda: any(PLAIN.encode() in line for line in list(monitored)), "Redis to hear of the message")
    places = {"database": dump, "redis": content, "redis commands": b"".join(monitored), "log": server.log().encode()}
    # And every byte of every file, with Postgres' journal: it keeps what rows no longer have.
    for path in server.data_dir.rglob("*"):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            if path.is_file():
                places[f"file {path.relative_to(server.data_dir)}"] = path.read_bytes()
    expect_equal(any(PLAIN.encode() in place for name, place in places.items() if name.startswith("file ")), True)
    for name, place in places.items():
        expect_equal([form for form in forms(CANARY) if form in place], [])


# Connected by sockets in its folder: nobody else may look into its database.
with Rialto(Path(os.environ["RIALTO_TEMPORARY"]) / "e2ee") as server:
    connection = channel(server.banner["listen"])
    auth = auth_pb2_grpc.AuthServiceStub(connection)
    keys = keys_pb2_grpc.KeyServiceStub(connection)
    messaging = messaging_pb2_grpc.MessagingServiceStub(connection)
    account = account_pb2_grpc.AccountServiceStub(connection)
    (redis_socket,) = server.data_dir.rglob("redis.sock")
    redis, monitored = Redis(redis_socket), Redis(redis_socket).monitor()
    ann, bob = Person(), Person()
    ann.people = bob.people = [ann, bob]
    create = pb.CreateConversationRequest(member_ids=[bob.id], kind=pb.CONVERSATION_KIND_DIRECT, encrypted=True)
    conversation = messaging.CreateConversation(create, **ann.call).conversation.id
    checks.run()
