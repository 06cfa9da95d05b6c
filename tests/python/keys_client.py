"""The directory of keys with libsodium itself (PyNaCl): two people register devices, publish and claim prekeys, and agree on
the same secret."""

import base64
import json
import os
import struct
import uuid

import grpc
import nacl.bindings as sodium
from google.rpc import error_details_pb2
from nacl.signing import SigningKey, VerifyKey
from rialto.auth.v1 import auth_pb2, auth_pb2_grpc
from rialto.keys.v1 import keys_pb2 as pb
from rialto.keys.v1 import keys_pb2_grpc

from client import PATIENCE, Checks, Rest, expect_equal, new_id
from grpc_client import bearer, channel, detail, refused

checks = Checks("keys")
address = json.loads(os.environ["RIALTO_BANNER"])["listen"]
connection = channel(address)
auth = auth_pb2_grpc.AuthServiceStub(connection)
keys = keys_pb2_grpc.KeyServiceStub(connection)

PASSWORD = "correct horse battery"


def number(value: int) -> bytes:
    return struct.pack(">I", value)


class Person:
    """Somebody with an account key and one device."""

    def __init__(self):
        login = {"email": f"keys-{new_id()}@example.org", "password": PASSWORD}
        self.id = auth.Register(auth_pb2.RegisterRequest(**login, display_name="Keys"), timeout=PATIENCE).account.id
        self.token = auth.Login(auth_pb2.LoginRequest(**login), timeout=PATIENCE).access_token
        self.call = {"metadata": bearer(self.token), "timeout": PATIENCE}
        self.account_key = SigningKey.generate()
        self.signing_key = SigningKey.generate()
        self.identity = sodium.crypto_box_keypair()
        self.device_id = str(uuid.uuid4())
        self.registration_id = 1 + int.from_bytes(os.urandom(3), "big")
        self.prekeys = {}

    def ids(self) -> bytes:
        return uuid.UUID(self.id).bytes + uuid.UUID(self.device_id).bytes

    def registration(self) -> pb.RegisterDeviceRequest:
        identity_key, signing_key = self.identity[0], bytes(self.signing_key.verify_key)
        message = b"Rialto-Device-v1\0" + self.ids() + number(self.registration_id) + identity_key + signing_key
        return pb.RegisterDeviceRequest(
            device_id=self.device_id,
            registration_id=self.registration_id,
            identity_key=identity_key,
            signing_key=signing_key,
            signature=self.account_key.sign(message).signature,
            name="Python",
            account_key=bytes(self.account_key.verify_key),
        )

    def sign(self, context: bytes, key_id: int, key: bytes) -> bytes:
        return self.signing_key.sign(context + b"\0" + self.ids() + number(key_id) + key).signature

    def signed_prekey(self, key_id: int) -> pb.SignedPreKey:
        self.signed = sodium.crypto_box_keypair()
        public = self.signed[0]
        signature = self.sign(b"Rialto-SignedPreKey-v1", key_id, public)
        return pb.SignedPreKey(key_id=key_id, public_key=public, signature=signature)

    def publish(self, one_time: int) -> None:
        keys.RegisterDevice(self.registration(), **self.call)
        device = {"device_id": self.device_id, "registration_id": self.registration_id}
        keys.SetSignedPreKey(pb.SetSignedPreKeyRequest(**device, signed_pre_key=self.signed_prekey(1)), **self.call)
        self.prekeys = {key_id: sodium.crypto_box_keypair() for key_id in range(one_time)}
        upload = [pb.OneTimePreKey(key_id=key_id, public_key=pair[0]) for key_id, pair in self.prekeys.items()]
        answer = keys.UploadOneTimePreKeys(pb.UploadOneTimePreKeysRequest(**device, pre_keys=upload), **self.call)
        expect_equal(answer.pre_keys, one_time)

    def claim(self, other: "Person") -> pb.Bundle:
        targets = [pb.ClaimTarget(account_id=other.id)]
        answer = keys.ClaimBundles(pb.ClaimBundlesRequest(targets=targets), **self.call)
        (account,) = answer.accounts
        (bundle,) = account.bundles
        # What the server says counts for nothing: libsodium verifies it.
        device, ids = bundle.device, other.ids()
        message = b"Rialto-Device-v1\0" + ids + number(device.registration_id) + device.identity_key + device.signing_key
        VerifyKey(account.account_key).verify(message, device.signature)
        signed = bundle.signed_pre_key
        message = b"Rialto-SignedPreKey-v1\0" + ids + number(signed.key_id) + signed.public_key
        VerifyKey(device.signing_key).verify(message, signed.signature)
        return bundle


def secret(agreements: list[bytes]) -> bytes:
    """A key out of several agreements, as in X3DH."""
    return sodium.crypto_generichash_blake2b_salt_personal(b"".join(agreements), digest_size=32, person=b"rialto-test")


def begin(sender: Person, bundle: pb.Bundle) -> tuple[bytes, dict]:
    """The sender's side: a key, and what the recipient needs to make the same."""
    ephemeral, private = sodium.crypto_box_keypair()
    agree = sodium.crypto_scalarmult
    agreements = [
        agree(sender.identity[1], bundle.signed_pre_key.public_key),
        agree(private, bundle.device.identity_key),
        agree(private, bundle.signed_pre_key.public_key),
    ]
    header = {"ephemeral": ephemeral, "identity": sender.identity[0], "one_time": None}
    if bundle.HasField("one_time_pre_key"):
        agreements.append(agree(private, bundle.one_time_pre_key.public_key))
        header["one_time"] = bundle.one_time_pre_key.key_id
    return secret(agreements), header


def accept(recipient: Person, header: dict) -> bytes:
    """The recipient's side."""
    agree = sodium.crypto_scalarmult
    agreements = [
        agree(recipient.signed[1], header["identity"]),
        agree(recipient.identity[1], header["ephemeral"]),
        agree(recipient.signed[1], header["ephemeral"]),
    ]
    if header["one_time"] is not None:
        # Once.
        agreements.append(agree(recipient.prekeys.pop(header["one_time"])[1], header["ephemeral"]))
    return secret(agreements)


@checks
def two_people_agree_on_the_same_secret():
    ann, bob = Person(), Person()
    ann.publish(2)
    bob.publish(2)
    seen = set()
    for sender, recipient in [(ann, bob), (bob, ann), (ann, bob)]:
        key, header = begin(sender, sender.claim(recipient))
        expect_equal(header["one_time"] is not None, True)
        expect_equal(accept(recipient, header), key)
        seen.add(key)
    expect_equal((len(seen), len(bob.prekeys)), (3, 0))
    # Without one-time prekeys, by the signed one alone.
    key, header = begin(ann, ann.claim(bob))
    expect_equal((header["one_time"], accept(bob, header)), (None, key))


@checks
def a_sealed_box_needs_the_identity_key_alone():
    ann, bob = Person(), Person()
    keys.RegisterDevice(ann.registration(), **ann.call)
    devices = keys.ListDevices(pb.ListDevicesRequest(account_id=ann.id), **bob.call).devices
    box = sodium.crypto_box_seal(b"hello", devices[0].identity_key)
    expect_equal(sodium.crypto_box_seal_open(box, *ann.identity), b"hello")


@checks
def what_libsodium_refuses_is_refused():
    ann = Person()
    request = ann.registration()
    request.signature = ann.signing_key.sign(b"something else").signature
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_ERROR") as caught:
        keys.RegisterDevice(request, **ann.call)
    bad = detail(caught[0], error_details_pb2.BadRequest)
    expect_equal([violation.field for violation in bad.field_violations], ["signature"])
    ann.publish(0)
    for low in [bytes(32), bytes([1]) + bytes(31), bytes([0xEC]) + b"\xff" * 30 + b"\x7f"]:
        try:
            sodium.crypto_scalarmult(ann.identity[1], low)
        except RuntimeError:
            pass
        else:
            raise AssertionError(f"libsodium agrees with {low.hex()}")
        upload = pb.UploadOneTimePreKeysRequest(
            device_id=ann.device_id,
            registration_id=ann.registration_id,
            pre_keys=[pb.OneTimePreKey(key_id=1, public_key=low)],
        )
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_ERROR"):
            keys.UploadOneTimePreKeys(upload, **ann.call)


@checks
def keys_are_base64_over_rest():
    ann, bob = Person(), Person()
    ann.publish(1)
    claimed = Rest(address, bob.token).post("/v1/keys/claim", {"targets": [{"accountId": ann.id}]}).ok()
    bundle = claimed["accounts"][0]["bundles"][0]
    expect_equal(base64.b64decode(bundle["device"]["identityKey"]), ann.identity[0])
    expect_equal(base64.b64decode(bundle["oneTimePreKey"]["publicKey"]), ann.prekeys[0][0])
    count = Rest(address, ann.token).get(f"/v1/keys/devices/{ann.device_id}/prekeys").ok()
    expect_equal((count["preKeys"], count["signedPreKeyId"]), (0, 1))


checks.run()
