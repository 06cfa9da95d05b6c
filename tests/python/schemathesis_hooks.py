"""What schemathesis is told of Rialto: how to log in, what exists, and what ends a stream. See openapi_client.py."""

import base64
import os
import uuid
from datetime import datetime, timedelta, timezone

import requests
import schemathesis
from nacl.signing import SigningKey
from schemathesis.core.parameters import ParameterLocation

from client import PATIENCE, Rest, register

# Without an account, schemathesis calls as anybody.
ACCOUNT = os.environ.get("RIALTO_ACCOUNT")
ADDRESS = os.environ["RIALTO_ADDRESS"]


# Calls that take a code of the second factor, or a backup code.
TAKES_CODE = {
    "POST /v1/auth/login/verify-2fa",
    "POST /v1/auth/reauthenticate",
    "POST /v1/twofa/enable",
    "POST /v1/twofa/disable",
    "POST /v1/twofa/regenerate-backup-codes",
}


# The form of what an authenticator makes, for registrations and for logins.
CREDENTIAL = {
    "id": "AA",
    "rawId": "AA",
    "type": "public-key",
    "response": {"clientDataJSON": "AA", "attestationObject": "AA", "authenticatorData": "AA", "signature": "AA"},
}

# These have no end of their own.
STREAMS = (
    "GET /v1/account/events",
    "GET /v1/conversations/{conversationId}/events",
    "GET /v1/security/alert-changes",
)

# No schema can say what a signature is, and which numbers are keys of X25519. This is one: the base point.
POINT = base64.b64encode(bytes([9]) + bytes(31)).decode()
ACCOUNT_KEY = SigningKey.generate()

# An id that no account has.
NOBODY = "01890a5d-ac96-774b-bcce-b302099a8057"


def log_in(email: str, password: str) -> str:
    login = {"email": email, "password": password}
    answer = requests.post(f"http://{ADDRESS}/v1/auth/login", json=login, timeout=PATIENCE)
    answer.raise_for_status()
    return answer.json()["accessToken"]


class World:
    """What the calls are about: a conversation of the account that makes them, and somebody to talk to."""

    token: str | None = None

    def __init__(self):
        email, password = ACCOUNT.split(" ")
        self.log_in = lambda: log_in(email, password)
        self.other, self.other_token = register(Rest(ADDRESS), "schemathesis")
        caller = Rest(ADDRESS, self.log_in())
        self.id = caller.get("/v1/auth/me").ok()["id"]
        self.conversation = caller.post("/v1/conversations", {"memberIds": [self.other["id"]]}).ok()["id"]

    def token_for(self, label: str) -> str:
        if label in ("POST /v1/auth/logout", "POST /v1/auth/change-password"):
            # Not the token that everything else is called with: it may end all sessions of its account.
            return register(Rest(ADDRESS), "leaver")[1]
        self.token = self.token or self.log_in()
        return self.token


    def device(self, device_id: str) -> dict:
        """A registration of a device that the account key has signed."""
        keys = bytes([9]) + bytes(31) + bytes(ACCOUNT_KEY.verify_key)
        ids = uuid.UUID(self.id).bytes + uuid.UUID(device_id).bytes
        signature = ACCOUNT_KEY.sign(b"Rialto-Device-v1\0" + ids + bytes([0, 0, 0, 7]) + keys).signature
        key = base64.b64encode(bytes(ACCOUNT_KEY.verify_key)).decode()
        signature = base64.b64encode(signature).decode()
        body = {"registrationId": 7, "identityKey": POINT, "signingKey": key, "signature": signature, "name": "Phone"}
        return {**body, "accountKey": key}


world = World() if ACCOUNT else None

if world:

    @schemathesis.auth(refresh_interval=None)
    class Bearer:
        def get(self, case, context):
            return world.token_for(case.operation.label)

        def set(self, case, data, context):
            case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.hook
def before_call(context, case, kwargs):
    label = case.operation.label
    if label in STREAMS:
        case.headers["x-request-timeout"] = "0.3"
        # It replaces `afterSeq`, so that nobody looks at that.
        if case.meta is None or not case.meta.is_negative_at(ParameterLocation.HEADER):
            case.headers.pop("Last-Event-ID", None)
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    body = case.body if isinstance(case.body, dict) else {}
    # No schema can say which passwords are easy to guess.
    for field in ("password", "newPassword"):
        if label != "POST /v1/auth/login" and field in body:
            body[field] = "staple h7-Kq.92z"
    if label in TAKES_CODE:
        # What no schema can say: six digits, and one of two fields.
        case.body = body
        body["code"] = "123456"
        body.pop("backupCode", None)
        body.pop("credential", None)
    if label.startswith("POST /v1/passkeys/") and label.endswith("/finish"):
        # A JSON object of another standard, for a ceremony that nobody has begun: none of these has the keys for one.
        case.body = body
        body.update({"ceremonyToken": "unknown", "credential": CREDENTIAL})
    if "/v1/passkeys/" in label and "name" in body:
        # Not blank.
        body["name"] = "schemathesis"
    if label == "POST /v1/auth/register":
        # No invisible characters.
        body["displayName"] = "Somebody"
    if label == "POST /v1/auth/accounts/{accountId}/reject":
        # Not blank.
        body["reason"] = "because"
    if label.startswith("POST /v1/auth/refresh"):
        # Only a browser's cookie makes up for it.
        case.body = {"refreshToken": "unknown"}
    if not world:
        return
    # Nor can it say which ids, page tokens and numbers of messages there are. Every second id stays unknown.
    ids = case.path_parameters or {}
    if "conversationId" in ids and int(ids["conversationId"][-1], 16) % 2 == 0:
        ids["conversationId"] = world.conversation
    query = case.query or {}
    query.pop("pageToken", None)
    # Names of fields.
    query.pop("updateMask", None)
    if label in STREAMS and "afterSeq" in query:
        query["afterSeq"] = 0
    if label == "POST /v1/conversations":
        case.body = body
        body["memberIds"] = [world.other["id"]]
        # A conversation of two has no title.
        body.pop("kind", None)
    if label == "POST /v1/conversations/{conversationId}/members":
        body["accountIds"] = [world.other["id"]]
    # Nothing, or not too short.
    for field in ("validSeconds", "disappearAfterSeconds"):
        body.pop(field, None)
    if label == "PATCH /v1/conversations/{conversationId}":
        # A URL.
        body.pop("avatarUrl", None)
    if "title" in body:
        # No control characters.
        body["title"] = "schemathesis"
    if label in ["POST /v1/roles", "PUT /v1/roles/{roleId}", "PATCH /v1/roles/{roleId}"]:
        # Names of permissions and roles, and a name that is not blank.
        case.body = body
        body.update({"name": "schemathesis", "grants": [{"permission": "messages:*"}], "parentIds": []})
    if label == "POST /v1/accounts/{accountId}/roles":
        # Some times are over.
        body.pop("expiresAt", None)
    # Nor what a name, a URL, a language, a time zone and an order may be.
    if label.startswith(("PATCH /v1/users/", "PUT /v1/users/")):
        case.body = {"displayName": "Somebody", "timeZone": "Europe/Zurich", "privacy": body.get("privacy")}
    if label == "GET /v1/security/events":
        query.pop("address", None)
    if label == "GET /v1/users":
        query.pop("orderBy", None)
    if label == "GET /v1/messages:search":
        # A word.
        query["query"] = "schemathesis"
    if label == "POST /v1/users:batchReview":
        case.body = {"userIds": [NOBODY], "decision": "REVIEW_DECISION_APPROVE"}
    if label == "POST /v1/users:batchSuspend":
        case.body = {"userIds": [NOBODY]}
    # Nor what an emoji is, the least of a 64-bit number, and when it is later than now.
    if "emoji" in ids:
        ids["emoji"] = "👍"
    if "fromSeq" in body:
        body["fromSeq"] = "1"
    if "sendAt" in body:
        body["sendAt"] = (datetime.now(timezone.utc) + timedelta(days=1)).isoformat()
    # Nobody blocks oneself, and the other one stays.
    if label in ["POST /v1/users/{userId}/block", "DELETE /v1/users/{userId}"]:
        ids["userId"] = NOBODY
    if label == "PUT /v1/keys/devices/{deviceId}":
        # One device: there can't be any number of them.
        ids["deviceId"] = NOBODY
        case.body = world.device(NOBODY)
    if label == "PUT /v1/keys/account":
        key = bytes(ACCOUNT_KEY.verify_key)
        signature = ACCOUNT_KEY.sign(b"Rialto-AccountKey-v1\0" + uuid.UUID(world.id).bytes + key).signature
        case.body = {name: base64.b64encode(value).decode() for name, value in [("accountKey", key), ("signature", signature)]}
    if label == "PUT /v1/keys/devices/{deviceId}/signed-prekey":
        # One of the two, and signed by a device that there is; none of these is.
        ids["deviceId"] = str(uuid.uuid4())
        key = {"publicKey": POINT, "signature": base64.b64encode(bytes(64)).decode()}
        case.body = {"registrationId": 1, "signedPreKey": key}
    if label == "POST /v1/keys/devices/{deviceId}/prekeys":
        ids["deviceId"] = str(uuid.uuid4())
        case.body = {"registrationId": 1, "preKeys": [{"keyId": 1, "publicKey": POINT}]}
    if label == "POST /v1/keys/claim":
        # No account twice.
        body["targets"] = body.get("targets", [])[:1]
    if label == "POST /v1/twofa/accounts/{accountId}/reset":
        ids["accountId"] = NOBODY


@schemathesis.hook
def after_call(context, case, response):
    if world and response.status_code == 401:
        # A call has ended the session.
        world.token = None
