"""Two-factor authentication with another implementation of RFC 6238: pyotp."""

import base64
import json
import os
import time

import grpc
import pyotp
from rialto.auth.v1 import auth_pb2, auth_pb2_grpc
from rialto.twofactor.v1 import twofactor_pb2 as pb
from rialto.twofactor.v1 import twofactor_pb2_grpc

from client import PATIENCE, Checks, Rest, expect_equal, new_id
from grpc_client import bearer, channel, refused

checks = Checks("two_factor")
address = json.loads(os.environ["RIALTO_BANNER"])["listen"]
connection = channel(address)
auth = auth_pb2_grpc.AuthServiceStub(connection)
two_factor = twofactor_pb2_grpc.TwoFactorServiceStub(connection)

PASSWORD = "correct horse battery"


def account() -> tuple[dict, str]:
    """A new account: how it logs in, and its access token."""
    login = {"email": f"otp-{new_id()}@example.org", "password": PASSWORD}
    auth.Register(auth_pb2.RegisterRequest(**login, display_name="Otp"), timeout=PATIENCE)
    return login, auth.Login(auth_pb2.LoginRequest(**login), timeout=PATIENCE).access_token


@checks
def enrol_and_log_in_over_grpc():
    login, token = account()
    call = {"metadata": bearer(token), "timeout": PATIENCE}
    setup = two_factor.Setup(pb.SetupRequest(password=PASSWORD), **call)
    authenticator = pyotp.parse_uri(setup.otpauth_uri)
    expect_equal((authenticator.issuer, authenticator.name), ("Rialto", login["email"]))
    expect_equal((authenticator.secret, authenticator.digits, authenticator.interval), (setup.secret, 6, 30))
    expect_equal(setup.qr_png[:8], b"\x89PNG\r\n\x1a\n")
    codes = two_factor.Enable(pb.EnableRequest(code=authenticator.now()), **call).backup_codes
    expect_equal(len(set(codes)), 10)

    challenge = auth.Login(auth_pb2.LoginRequest(**login), timeout=PATIENCE)
    expect_equal((challenge.two_factor_required, challenge.access_token), (True, ""))

    def verify(code: str) -> auth_pb2.VerifyTwoFactorResponse:
        request = auth_pb2.VerifyTwoFactorRequest(challenge_token=challenge.challenge_token, code=code)
        return auth.VerifyTwoFactor(request, timeout=PATIENCE)

    # The code of the next step counts already; those of an hour ago do not any more.
    with refused(grpc.StatusCode.UNAUTHENTICATED, "TWO_FACTOR_CODE_INVALID"):
        verify(authenticator.at(int(time.time()) - 3600))
    tokens = verify(authenticator.at(int(time.time()) + 30))
    me = auth.GetMe(auth_pb2.GetMeRequest(), metadata=bearer(tokens.access_token), timeout=PATIENCE).account
    expect_equal(me.email, login["email"])


@checks
def enrol_and_log_in_over_rest():
    login, token = account()
    rest = Rest(address, token)
    setup = rest.post("/v1/twofa/setup", {"password": PASSWORD}).ok()
    authenticator = pyotp.TOTP(setup["secret"])
    expect_equal(base64.b64decode(setup["qrPng"])[:4], b"\x89PNG")
    codes = rest.post("/v1/twofa/enable", {"code": authenticator.now()}).ok()["backupCodes"]
    expect_equal(rest.get("/v1/twofa/backup-codes").ok()["left"], 10)

    challenge = Rest(address).post("/v1/auth/login", login).ok()
    expect_equal(challenge["twoFactorRequired"], True)
    body = {"challengeToken": challenge["challengeToken"], "backupCode": codes[0]}
    tokens = Rest(address).post("/v1/auth/login/verify-2fa", body).ok()
    status = Rest(address, tokens["accessToken"]).get("/v1/twofa/status").ok()
    expect_equal((status["enabled"], status["backupCodesLeft"]), (True, 9))
    expect_equal(Rest(address).post("/v1/auth/login/verify-2fa", body).status, 401)


checks.run()
