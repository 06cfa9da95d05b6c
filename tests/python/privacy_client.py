"""The archive of one's data, over gRPC as a stream and over REST, opened by another implementation of zip."""

import io
import json
import os
import zipfile

import grpc
from rialto.auth.v1 import auth_pb2, auth_pb2_grpc
from rialto.privacy.v1 import privacy_pb2 as pb
from rialto.privacy.v1 import privacy_pb2_grpc

from client import PATIENCE, Checks, Rest, expect_equal, new_id, wait_until
from grpc_client import bearer, channel, refused

checks = Checks("privacy")
address = json.loads(os.environ["RIALTO_BANNER"])["listen"]
connection = channel(address)
auth = auth_pb2_grpc.AuthServiceStub(connection)
privacy = privacy_pb2_grpc.PrivacyServiceStub(connection)

PASSWORD = "correct horse battery"


def account() -> tuple[str, str]:
    """A new account: its address, and its access token."""
    login = {"email": f"archive-{new_id()}@example.org", "password": PASSWORD}
    auth.Register(auth_pb2.RegisterRequest(**login, display_name="Archive"), timeout=PATIENCE)
    return login["email"], auth.Login(auth_pb2.LoginRequest(**login), timeout=PATIENCE).access_token


def check_archive(data: bytes, email: str) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        expect_equal(archive.testzip(), None)
        expect_equal([entry["email"] for entry in json.loads(archive.read("account/account.json"))], [email])
        for name in archive.namelist():
            text = archive.read(name).decode()
            if name == "README.txt":
                continue
            expect_equal(type(json.loads(text)), list)


@checks
def an_archive_is_streamed_over_grpc():
    email, token = account()
    call = {"metadata": bearer(token), "timeout": PATIENCE}
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "EXPORT_NOT_READY"):
        list(privacy.DownloadExport(pb.DownloadExportRequest(), **call))
    privacy.RequestExport(pb.RequestExportRequest(), **call)

    def ready():
        export = privacy.GetExport(pb.GetExportRequest(), **call).export
        return export if export.state == pb.EXPORT_STATE_READY else None

    export = wait_until(ready, "the archive")
    stream = privacy.DownloadExport(pb.DownloadExportRequest(), **call)
    headers = dict(stream.initial_metadata())
    chunks = [message.body for message in stream]
    data = b"".join(chunk.data for chunk in chunks)
    expect_equal((len(data), headers["x-content-length"]), (export.size_bytes, str(export.size_bytes)))
    expect_equal(chunks[0].content_type, "application/zip")
    check_archive(data, email)


@checks
def an_archive_is_a_file_over_rest():
    email, token = account()
    rest = Rest(address, token)
    rest.post("/v1/privacy/export").ok()
    wait_until(lambda: rest.get("/v1/privacy/export").ok()["state"] == "EXPORT_STATE_READY", "the archive")
    answer = rest.get("/v1/privacy/export/archive")
    expect_equal((answer.status, answer.headers["content-type"]), (200, "application/zip"))
    check_archive(answer.body, email)
    # A download that broke off goes on.
    rest_of_it = rest.get("/v1/privacy/export/archive", headers={"range": "bytes=100-"})
    expect_equal((rest_of_it.status, rest_of_it.body), (206, answer.body[100:]))


checks.run()
