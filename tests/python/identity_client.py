"""The life of an account over grpcio, where addresses are verified and accounts approved. Its links come out of /dev/mail."""

import json
import os
import urllib.parse
from pathlib import Path

import grpc
from rialto.auth.v1 import auth_pb2 as pb
from rialto.auth.v1 import auth_pb2_grpc
from rialto.messaging.v1 import messaging_pb2, messaging_pb2_grpc
from rialto.roles.v1 import roles_pb2, roles_pb2_grpc

from client import PATIENCE, Checks, Rest, expect_equal, new_id, wait_until
from grpc_client import bearer, channel, refused
from rialto_process import Rialto

CONFIG = "[auth]\nrequire_verified_email = true\nrequire_approval = true\n"
PASSWORD, NEW_PASSWORD = "correct horse battery", "quite another sentence"
ANYBODY = {"timeout": PATIENCE}

checks = Checks("identity")
home = Path(os.environ["RIALTO_TEMPORARY"]) / "identity"
home.mkdir()
(home / "rialto.toml").write_text(CONFIG)


def mails(to: str) -> list[dict]:
    """What was mailed to an address, the newest first."""
    answer = Rest(address).get("/dev/mail", {"accept": "application/json"}).ok()
    return [mail for mail in answer["mails"] if mail["to"] == to]


def mailed_token(to: str, subject: str) -> str:
    """The token in the link of a mail that comes soon."""
    found = wait_until(lambda: [mail for mail in mails(to) if mail["subject"] == subject], f"{subject!r} to {to}")
    return urllib.parse.parse_qs(urllib.parse.urlsplit(found[0]["link"]).query)["token"][0]


def call(token: str) -> dict:
    return {"metadata": bearer(token), "timeout": PATIENCE}


def log_in(login: dict, **more) -> pb.LoginResponse:
    return auth.Login(pb.LoginRequest(**login, **more), **ANYBODY)


def registered(name: str) -> dict:
    """Registers somebody and verifies the address; the account waits for approval. Returns how they log in."""
    login = {"email": f"{name}-{new_id()}@example.org", "password": PASSWORD}
    account = auth.Register(pb.RegisterRequest(**login, display_name=name), **ANYBODY).account
    expect_equal((account.id, account.state), ("", pb.ACCOUNT_STATE_UNVERIFIED))
    with refused(grpc.StatusCode.PERMISSION_DENIED, "ACCOUNT_NOT_ACTIVE"):
        log_in(login)
    token = mailed_token(login["email"], "Verify your e-mail address")
    account = auth.VerifyEmail(pb.VerifyEmailRequest(token=token), **ANYBODY).account
    expect_equal(account.state, pb.ACCOUNT_STATE_PENDING)
    with refused(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"):
        auth.VerifyEmail(pb.VerifyEmailRequest(token=token), **ANYBODY)
    return {"id": account.id, "login": login}


def approved(name: str) -> dict:
    """An account that may log in."""
    person = registered(name)
    with refused(grpc.StatusCode.PERMISSION_DENIED, "ACCOUNT_NOT_ACTIVE"):
        log_in(person["login"])
    account = auth.ApproveAccount(pb.ApproveAccountRequest(account_id=person["id"]), **call(admin)).account
    expect_equal(account.state, pb.ACCOUNT_STATE_ACTIVE)
    return person


@checks
def an_account_is_verified_approved_and_told():
    ann = approved("ann")
    me = auth.GetMe(pb.GetMeRequest(), **call(log_in(ann["login"]).access_token)).account
    expect_equal((me.id, me.email), (ann["id"], ann["login"]["email"]))
    wait_until(lambda: len(mails(me.email)) == 2, "the mail about the approval")


@checks
def an_account_is_rejected_with_a_reason():
    eve = registered("eve")
    request = pb.RejectAccountRequest(account_id=eve["id"], reason="We don't know you.")
    expect_equal(auth.RejectAccount(request, **call(admin)).account.state, pb.ACCOUNT_STATE_REJECTED)
    told = wait_until(lambda: [mail for mail in mails(eve["login"]["email"]) if "don't know you" in mail["text"]], "why")
    expect_equal(len(told), 1)
    with refused(grpc.StatusCode.PERMISSION_DENIED, "ACCOUNT_NOT_ACTIVE"):
        log_in(eve["login"])


@checks
def who_registers_a_known_address_learns_nothing_and_its_owner_hears_of_it():
    ann = approved("ann")
    log_in(ann["login"])
    again = {"email": ann["login"]["email"], "password": NEW_PASSWORD}
    account = auth.Register(pb.RegisterRequest(**again, display_name="Mallory"), **ANYBODY).account
    expect_equal((account.id, account.state), ("", pb.ACCOUNT_STATE_UNVERIFIED))
    wait_until(lambda: any(mail["subject"] == "You have an account already" for mail in mails(account.email)), "the mail")
    with refused(grpc.StatusCode.PERMISSION_DENIED, "ACCOUNT_NOT_ACTIVE"):
        log_in(again)
    log_in(ann["login"])


@checks
def a_refresh_token_works_once_and_its_reuse_ends_the_session():
    tokens = log_in(approved("ann")["login"])
    renewed = auth.Refresh(pb.RefreshRequest(refresh_token=tokens.refresh_token), **ANYBODY)
    auth.GetMe(pb.GetMeRequest(), **call(renewed.access_token))
    with refused(grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
        auth.Refresh(pb.RefreshRequest(refresh_token=tokens.refresh_token), **ANYBODY)
    for token in [tokens.access_token, renewed.access_token]:
        with refused(grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
            auth.GetMe(pb.GetMeRequest(), **call(token))
    with refused(grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
        auth.Refresh(pb.RefreshRequest(refresh_token=renewed.refresh_token), **ANYBODY)


@checks
def sessions_are_listed_and_one_that_is_revoked_loses_its_streams():
    ann = approved("ann")
    telephone, computer = log_in(ann["login"]), log_in(ann["login"])
    sessions = auth.ListSessions(pb.ListSessionsRequest(), **call(computer.access_token)).sessions
    expect_equal(sorted(session.current for session in sessions), [False, True])
    other = next(session for session in sessions if not session.current)
    expect_equal(other.address, "127.0.0.1")

    request = messaging_pb2.CreateConversationRequest(member_ids=[approved("bob")["id"]])
    conversation = messaging.CreateConversation(request, **call(telephone.access_token)).conversation
    stream = messaging.Subscribe(
        messaging_pb2.SubscribeRequest(conversation_id=conversation.id), **call(telephone.access_token)
    )
    stream.initial_metadata()
    auth.RevokeSession(pb.RevokeSessionRequest(session_id=other.id), **call(computer.access_token))
    with refused(grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
        next(stream)
    with refused(grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
        auth.GetMe(pb.GetMeRequest(), **call(telephone.access_token))
    auth.GetMe(pb.GetMeRequest(), **call(computer.access_token))


@checks
def a_forgotten_password_is_reset_once_and_ends_every_session():
    ann = approved("ann")
    email, session = ann["login"]["email"], log_in(ann["login"]).access_token
    for address_ in [email, f"nobody-{new_id()}@example.org"]:
        auth.ForgotPassword(pb.ForgotPasswordRequest(email=address_), **ANYBODY)
    token = mailed_token(email, "Reset your password")
    request = pb.ResetPasswordRequest(token=token, new_password=NEW_PASSWORD)
    auth.ResetPassword(request, **ANYBODY)
    with refused(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"):
        auth.ResetPassword(request, **ANYBODY)
    with refused(grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
        auth.GetMe(pb.GetMeRequest(), **call(session))
    with refused(grpc.StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS"):
        log_in(ann["login"])
    log_in({"email": email, "password": NEW_PASSWORD})


@checks
def a_role_gives_for_as_long_as_it_is_assigned_and_nobody_gives_what_they_lack():
    ann, bob = approved("ann"), approved("bob")
    token = log_in(ann["login"]).access_token
    grants = [roles_pb2.Grant(permission="accounts:approve")]
    role = roles.CreateRole(roles_pb2.CreateRoleRequest(name=f"doorkeeper {new_id()}", grants=grants), **call(admin)).role

    def may_approve() -> bool:
        request = roles_pb2.CheckPermissionsRequest(permissions=["accounts:approve"])
        return roles.CheckPermissions(request, **call(token)).checks[0].allowed

    expect_equal(may_approve(), False)
    with refused(grpc.StatusCode.PERMISSION_DENIED, "INSUFFICIENT_PERMISSIONS"):
        auth.ApproveAccount(pb.ApproveAccountRequest(account_id=bob["id"]), **call(token))
    roles.AssignRole(roles_pb2.AssignRoleRequest(account_id=ann["id"], role_id=role.id), **call(admin))
    wait_until(may_approve, "the role to count", patience=1)
    waiting = registered("carl")
    auth.ApproveAccount(pb.ApproveAccountRequest(account_id=waiting["id"]), **call(token))
    with refused(grpc.StatusCode.PERMISSION_DENIED, "INSUFFICIENT_PERMISSIONS"):
        roles.AssignRole(roles_pb2.AssignRoleRequest(account_id=bob["id"], role_id=role.id), **call(token))
    roles.UnassignRole(roles_pb2.UnassignRoleRequest(account_id=ann["id"], role_id=role.id), **call(admin))
    wait_until(lambda: not may_approve(), "the role to be gone", patience=1)


@checks
def a_suspended_account_is_out_at_once_and_comes_back():
    ann = approved("ann")
    session = log_in(ann["login"]).access_token
    auth.SuspendAccount(pb.SuspendAccountRequest(account_id=ann["id"]), **call(admin))
    with refused(grpc.StatusCode.UNAUTHENTICATED):
        auth.GetMe(pb.GetMeRequest(), **call(session))
    with refused(grpc.StatusCode.PERMISSION_DENIED, "ACCOUNT_NOT_ACTIVE"):
        log_in(ann["login"])
    auth.ReinstateAccount(pb.ReinstateAccountRequest(account_id=ann["id"]), **call(admin))
    log_in(ann["login"])


with Rialto(home / "data") as server:
    address = server.banner["listen"]
    connection = channel(address)
    auth = auth_pb2_grpc.AuthServiceStub(connection)
    messaging = messaging_pb2_grpc.MessagingServiceStub(connection)
    roles = roles_pb2_grpc.RoleServiceStub(connection)
    administrator = next(account for account in server.banner["accounts"] if account["role"] == "admin")
    admin = log_in({"email": administrator["email"], "password": administrator["password"]}).access_token
    checks.run()
