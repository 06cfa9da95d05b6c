"""Webhooks of security alerts, verified by the function that docs/security-monitoring.md gives to those who receive them."""

import base64
import http.server
import os
import queue
import re
import secrets
import threading
from pathlib import Path

from client import PATIENCE, Checks, Rest, expect_equal
from rialto_process import Rialto

checks = Checks("webhook")
DOCUMENT = Path(__file__).parents[2] / "docs/security-monitoring.md"
SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
received: queue.Queue = queue.Queue()


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        received.put((self.path, dict(self.headers.items()), body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


@checks
def the_documented_function_knows_a_webhook_from_a_forged_one():
    document: dict = {}
    exec(re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[1], document)
    verify = document["verify"]

    account = next(account for account in server.banner["accounts"] if account["role"] == "user")
    rest = Rest(server.banner["listen"])
    login = rest.post("/v1/auth/login", {"email": account["email"], "password": account["password"]}).ok()
    # One refresh token that is used twice is an alert.
    for status in [200, 401]:
        expect_equal(rest.post("/v1/auth/refresh", {"refreshToken": login["refreshToken"]}).status, status)
    path, headers, body = received.get(timeout=PATIENCE)
    headers = {name.lower(): value for name, value in headers.items()}
    expect_equal(path, "/hook")
    expect_equal(verify(SECRET, headers, body), True)
    expect_equal(verify(SECRET, headers, body.replace(b"high", b"low")), False)
    expect_equal(verify(SECRET, {**headers, "webhook-id": "msg_1"}, body), False)
    earlier = str(int(headers["webhook-timestamp"]) - 301)
    expect_equal(verify(SECRET, {**headers, "webhook-timestamp": earlier}, body), False)
    expect_equal(verify("whsec_" + base64.b64encode(bytes(32)).decode(), headers, body), False)


if __name__ == "__main__":
    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    folder = Path(os.environ["RIALTO_TEMPORARY"]) / "webhook"
    folder.mkdir()
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    settings = f'[security]\nwebhook_url = "{url}"\nwebhook_secret = "{SECRET}"\n'
    # The server reads it where it starts.
    (folder / "rialto.toml").write_text(settings)
    with Rialto(folder / "data") as server:
        checks.run()
