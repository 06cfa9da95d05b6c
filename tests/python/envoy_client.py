"""`rialto gateway` beside Envoy's grpc_json_transcoder, in front of the same grpcio server, on one table of requests.

inventory/table.json holds the table. A row is a request and `expect`, which is what Envoy answers; where `rialto` answers
something else on purpose, the row says what and names the difference, and docs/gateway-vs-envoy.md lists it.
"""

import atexit
import http.client
import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import grpc
from grpc_tools import protoc

from client import PATIENCE, Checks, expect_equal, wait_until

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TABLE = HERE / "inventory" / "table.json"
DOCUMENT = ROOT / "docs" / "gateway-vs-envoy.md"
TEMPORARY = Path(os.environ.get("RIALTO_TEMPORARY", "/nonexistent")) / "envoy"
CONTRACTS = {"inventory": "warehouse.inventory.v3.Inventory", "transfers": "warehouse.transfers.v1.Transfers"}
# What the gateway refuses or says itself. Its words are not Envoy's; only the HTTP status is compared.
OWN_REASONS = {
    "INVALID_FORMAT",
    "METHOD_NOT_ALLOWED",
    "NOT_ACCEPTABLE",
    "PAYLOAD_TOO_LARGE",
    "ROUTE_NOT_FOUND",
    "UNSUPPORTED_MEDIA_TYPE",
    "UPSTREAM_ERROR",
}
CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def compile_contracts() -> dict[str, Path]:
    """Stubs for the server, a descriptor set of each contract, and one of all for Envoy, which takes a single file."""
    (TEMPORARY / "stubs").mkdir(parents=True)
    # googleapis-common-protos brings google/api, grpcio-tools google/protobuf.
    common = next(Path(path) for path in sys.path if (Path(path) / "google" / "api" / "http.proto").exists())
    includes = [f"-I{HERE / 'inventory'}", f"-I{common}", f"-I{Path(protoc.__file__).parent / '_proto'}"]
    sets = {"envoy": TEMPORARY / "envoy.binpb"}
    # Envoy shows details of errors only if it is given their messages.
    everything = [f"{name}.proto" for name in CONTRACTS] + ["google/rpc/error_details.proto"]
    out = f"--descriptor_set_out={sets['envoy']}"
    if protoc.main(["protoc", *includes, out, "--include_imports", *everything]) != 0:
        raise RuntimeError("the contracts do not compile together")
    for name in CONTRACTS:
        sets[name] = TEMPORARY / f"{name}.binpb"
        stubs = TEMPORARY / "stubs"
        out = [f"--python_out={stubs}", f"--grpc_python_out={stubs}", f"--descriptor_set_out={sets[name]}"]
        arguments = ["protoc", *includes, *out, "--include_imports", "--include_source_info", f"{name}.proto"]
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"{name}.proto does not compile")
    sys.path.insert(0, str(TEMPORARY / "stubs"))
    return sets


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A server that is a child of ours."""

    def __init__(self, name: str, command: list[str], port: int | None = None):
        self.log_path = TEMPORARY / f"{name}.log"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RIALTO_")}
        with open(self.log_path, "ab") as log:
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=TEMPORARY, env=environment
            )
        atexit.register(self.stop)
        self.name, self.port = name, port

    def listening(self) -> bool:
        if self.child.poll() is not None:
            raise RuntimeError(f"{self.name} ended: {self.log_path.read_text()[-2000:]}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> int:
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise


def start_gateway(name: str, upstream: int, *arguments: str) -> Process:
    config = TEMPORARY / f"{name}.toml"
    config.write_text('[gateway]\nrequest_headers = ["x-tenant"]\nresponse_headers = ["x-note", "x-trailer-note"]\n')
    command = [os.environ["RIALTO_BIN"], "gateway", "--config", str(config), "--listen", "127.0.0.1:0"]
    process = Process(name, [*command, "--upstream", f"http://127.0.0.1:{upstream}", *arguments])

    def address():
        lines = [json.loads(line) for line in process.log_path.read_text().splitlines() if line.startswith("{")]
        return next((line["address"] for line in lines if line.get("message") == "serving"), None)

    def started():
        if process.child.poll() is not None:
            raise RuntimeError(process.log_path.read_text()[-2000:])
        return address()

    process.port = int(wait_until(started, f"{name} to serve").rsplit(":")[-1])
    return process


def start_envoy(upstream: int, descriptors: Path) -> Process:
    port = free_port()
    transcoder = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "proto_descriptor": str(descriptors),
        "services": list(CONTRACTS.values()),
        "convert_grpc_status": True,
        "ignore_unknown_query_parameters": False,
        "query_param_unescape_plus": True,
        "url_unescape_spec": "ALL_CHARACTERS_EXCEPT_SLASH",
        "request_validation_options": {"reject_unknown_method": True, "reject_unknown_query_parameters": True},
    }
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "http_protocol_options": {"use_balsa_parser": True, "allow_custom_methods": True},
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "grpc", "timeout": "30s"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.grpc_json_transcoder", "typed_config": transcoder},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            },
        ],
    }

    def address(port: int) -> dict:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    http2 = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    config = {
        "static_resources": {
            "listeners": [
                {
                    "address": address(port),
                    "filter_chains": [
                        {
                            "filters": [
                                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "grpc",
                    "type": "STATIC",
                    "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
                    "load_assignment": {
                        "cluster_name": "grpc",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(upstream)}}]}],
                    },
                }
            ],
        }
    }
    path = TEMPORARY / "envoy.json"
    path.write_text(json.dumps(config))
    binary = shutil.which("envoy", path=str(Path(sys.executable).parent)) or "envoy"
    flags = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
    process = Process("envoy", [binary, "-c", str(path), *flags], port)
    wait_until(process.listening, "Envoy to listen")
    return process


def send(port: int, request: dict) -> tuple[int, dict, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        body = request.get("body")
        data = None if body is None else (body if isinstance(body, str) else json.dumps(body)).encode()
        data = data and data * request.get("times", 1)
        # Not `request`: a header may be there twice.
        connection.putrequest(request["method"], request["path"], skip_accept_encoding=True)
        headers = request.get("headers", [])
        if data is not None:
            connection.putheader("content-length", str(len(data)))
            if not any(name == "content-type" for name, _ in headers):
                connection.putheader("content-type", "application/json")
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders(data)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def parse(body: bytes):
    try:
        return json.loads(body)
    except ValueError:
        return None


def error_of(body: bytes) -> dict | None:
    """The gRPC status of either's error body; None for what they refuse themselves."""
    parsed = parse(body)
    if not isinstance(parsed, dict):
        return None
    error = parsed.get("error", parsed)
    if not isinstance(error, dict) or error.get("reason") in OWN_REASONS or "message" not in error:
        return None
    code = error["status"] if "status" in error else CODES.get(error.get("code"))
    return {"code": code, "message": error["message"], "details": error.get("details", [])}


def messages_of(headers: dict, body: bytes) -> list | None:
    """The messages of a stream: Envoy's array, or lines. A failure in mid-stream is the last."""
    kind = headers.get("content-type", "")
    if kind.startswith("application/x-ndjson"):
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        return [line["result"] if "result" in line else {"failed": line["error"]["status"]} for line in lines]
    parsed = parse(body)
    return parsed if isinstance(parsed, list) else None


def outcome(row: dict, answer: tuple[int, dict, bytes]) -> dict:
    """What of an answer is compared: as values, not as text."""
    status, headers, body = answer
    found = {"status": status}
    for name in row.get("headers_of_note", []):
        found[name] = headers.get(name)
    if status >= 400:
        error = error_of(body)
        if error is not None and not row.get("status_only"):
            found["error"] = error
    elif row.get("stream"):
        found["messages"] = messages_of(headers, body)
        if found["messages"] is None:
            found["text"] = body.decode(errors="replace")
    elif row.get("text"):
        found["text"] = body.decode(errors="replace")
    else:
        found["json"] = parse(body)
        if row.get("only"):
            found["json"] = {key: found["json"].get(key) for key in row["only"]}
    return found


def document(table: dict) -> str:
    """docs/gateway-vs-envoy.md, from the table."""
    rows = table["rows"]
    lines = [
        "# The gateway beside Envoy",
        "",
        "`rialto gateway` and Envoy's `grpc_json_transcoder` answer one table of requests",
        f"([table.json](../tests/python/inventory/table.json), {len(rows)} of them) in front of the same Python gRPC server.",
        "`tests/python/envoy_client.py` compares them at each `make test`, and this page with the table: it is made from it.",
        "",
        "Envoy 1.40 runs with `convert_grpc_status`, `query_param_unescape_plus`, `reject_unknown_method`,",
        "`reject_unknown_query_parameters`, `url_unescape_spec: ALL_CHARACTERS_EXCEPT_SLASH` and `allow_custom_methods`, which is as",
        "close to google/api/http.proto as it gets. What is not listed here is the same: status, JSON as values, details of",
        "errors. The words of refusals, which each gateway chooses, are not compared.",
        "",
    ]
    used = [row["difference"] for row in rows if "difference" in row]
    for key, text in table["differences"].items():
        lines += [f"## {text['title']}", "", *textwrap.wrap(text["why"], 120), ""]
        examples = [row for row in rows if row.get("difference") == key]
        if examples:
            lines += ["| request | Envoy | `rialto gateway` |", "|---|---|---|"]
            lines += [f"| {cell(asked(row))} | {said(row['expect'])} | {said(row['rialto'])} |" for row in examples]
            lines.append("")
        elif not text.get("general"):
            raise AssertionError(f"no row shows the difference {key}")
    unknown = set(used) - set(table["differences"])
    if unknown:
        raise AssertionError(f"differences that are not described: {unknown}")
    return "\n".join(lines).rstrip() + "\n"


def cell(text: str) -> str:
    text = text if len(text) <= 100 else f"{text[:97]}…"
    return "`" + text.replace("|", "\\|") + "`"


def asked(row: dict) -> str:
    request = row["request"]
    body = request.get("body")
    body = "" if body is None else " " + (body if isinstance(body, str) else json.dumps(body))
    headers = "".join(f" {name}: {value};" for name, value in request.get("headers", []))
    return re.sub(r"\s+", " ", f"{request['method']} {request['path']}{headers}{body}")


def said(expected: dict) -> str:
    rest = {key: value for key, value in expected.items() if key != "status"}
    if "error" in rest:
        return f"{expected['status']} {rest['error']['code']}"
    return f"{expected['status']} {cell(json.dumps(next(iter(rest.values())) if len(rest) == 1 else rest))}" if rest else str(
        expected["status"]
    )


def main() -> None:
    checks = Checks("envoy")
    sets = compile_contracts()
    inventory_server = importlib.import_module("inventory_server")
    server, upstream, hanging, cancelled = inventory_server.start(reflect=True)
    atexit.register(server.stop, None)
    table = json.loads(TABLE.read_text())
    descriptor_sets = [argument for name in CONTRACTS for argument in ("--descriptor-set", str(sets[name]))]
    rialto = start_gateway("rialto", upstream, *descriptor_sets)
    envoy = start_envoy(upstream, sets["envoy"])

    servers = [("envoy", envoy), ("rialto", rialto)]

    def add(row: dict) -> None:
        def both_answer_as_the_table_says():
            found = {name: outcome(row, send(server.port, row["request"])) for name, server in servers}
            expect_equal(found, {"envoy": row["expect"], "rialto": row.get("rialto", row["expect"])})

        both_answer_as_the_table_says.__name__ = row["name"]
        checks(both_answer_as_the_table_says)

    for row in table["rows"]:
        add(row)

    @checks
    def every_difference_is_in_the_table_once_and_is_one():
        names = [row["name"] for row in table["rows"]]
        expect_equal(len(names), len(set(names)))
        for row in table["rows"]:
            expect_equal((row["name"], "rialto" in row), (row["name"], "difference" in row))
            if row.get("rialto") == row["expect"]:
                raise AssertionError(f"{row['name']}: no difference")

    @checks
    def the_page_about_the_differences_is_the_table():
        text = document(table)
        if DOCUMENT.read_text() != text:
            raise AssertionError(f"{DOCUMENT} is not what the table makes; run envoy_client.py --document")

    @checks
    def the_contract_by_reflection_makes_the_same_routes():
        reflected = start_gateway("reflected", upstream, "--reflect")
        paths = [sorted(json.loads(send(port, {"method": "GET", "path": "/openapi.json"})[2])["paths"]) for port in (
            rialto.port, reflected.port
        )]
        expect_equal(paths[1], [path for path in paths[0] if path.startswith("/v3/")])
        request = {"method": "GET", "path": "/v3/shelves/1/items/2"}
        expect_equal(send(reflected.port, request)[2], send(rialto.port, request)[2])
        expect_equal(reflected.stop(), 0)

    @checks
    def a_client_that_hangs_up_cancels_the_call():
        connection = http.client.HTTPConnection("127.0.0.1", rialto.port, timeout=PATIENCE)
        connection.request("POST", "/v3/hang", body="{}", headers={"content-type": "application/json"})
        wait_until(hanging.is_set, "the call to arrive")
        connection.close()
        wait_until(cancelled.is_set, "the server to hear of it")

    @checks
    def grpc_passes_through_with_metadata_status_and_trailers():
        pb, stubs = importlib.import_module("inventory_pb2"), importlib.import_module("inventory_pb2_grpc")
        empty = importlib.import_module("google.protobuf.empty_pb2").Empty()
        with grpc.insecure_channel(f"127.0.0.1:{rialto.port}") as channel:
            stub = stubs.InventoryStub(channel)
            item, call = stub.GetItem.with_call(pb.GetItemRequest(name="n"), timeout=PATIENCE)
            expect_equal(item.name, "n")
            expect_equal(("x-note", "head") in call.initial_metadata(), True)
            expect_equal(("x-trailer-note", "tail") in call.trailing_metadata(), True)
            metadata = (("x-anything-bin", b"\x00\xff"), ("x-anything", "a"), ("x-anything", "b"))
            seen = stub.Metadata(empty, metadata=metadata)
            expect_equal((seen["x-anything-bin"], seen["x-anything"]), ("00ff", "b"))
            expect_equal([item.price_cents for item in stub.Watch(pb.WatchRequest(count=3))], [0, 1, 2])
            try:
                stub.Fail(pb.FailRequest(code=9, message="nö", details=True))
                raise AssertionError("it did not fail")
            except grpc.RpcError as error:
                expect_equal((error.code(), error.details()), (grpc.StatusCode.FAILED_PRECONDITION, "nö"))
                details = [key for key, _ in error.trailing_metadata()]
                expect_equal("grpc-status-details-bin" in details, True)
            try:
                stub.Hang(empty, timeout=0.2)
                raise AssertionError("it did not time out")
            except grpc.RpcError as error:
                expect_equal(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)

    @checks
    def it_stops_in_order_when_told():
        expect_equal(rialto.stop(), 0)

    checks.run()


if __name__ == "__main__":
    if sys.argv[1:] == ["--document"]:
        DOCUMENT.write_text(document(json.loads(TABLE.read_text())))
    else:
        main()
