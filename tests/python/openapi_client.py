"""The OpenAPI document: that it is one, by two validators, and that the server does what it says, by schemathesis."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema_rs
import openapi_spec_validator

from client import Checks, Rest, expect_equal

checks = Checks("openapi")
banner = json.loads(os.environ["RIALTO_BANNER"])
server = Rest(banner["listen"])
document = server.get("/openapi.json").ok()


@checks
def the_document_is_openapi_3_1():
    openapi_spec_validator.OpenAPIV31SpecValidator(document).validate()


@checks
def its_schemas_are_json_schemas_of_2020_12():
    # Another implementation, which also follows the references and compiles the patterns.
    for name, schema in document["components"]["schemas"].items():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
        reference = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema_rs.Draft202012Validator(reference)


@checks
def a_client_that_has_the_document_is_not_sent_it_again():
    for path in ["/openapi.json", "/asyncapi.json"]:
        first = server.get(path)
        again = server.get(path, headers={"if-none-match": first.headers["etag"]})
        expect_equal((first.status, again.status, again.body), (200, 304, b""))


def schemathesis(account: dict | None, seconds: int, *options: str) -> None:
    """Calls every operation with what its schema allows and with what it does not. Every check of schemathesis counts:
    no failure of the server, no answer that contradicts the document, nothing refused that the schemas allow or taken
    that they forbid, no way around authentication."""
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "PYTHONPATH": f"{here}:{os.environ.get('PYTHONPATH', '')}",
        "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
        "RIALTO_ADDRESS": banner["listen"],
        "RIALTO_ACCOUNT": f"{account['email']} {account['password']}" if account else "",
    }
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", here / "schemathesis.toml"]
    command += ["run", f"{banner['rest']}/openapi.json"]
    # The same cases every time, as far as time allows; nothing is written down.
    command += ["--seed", "7", "--generation-database", "none", "--max-time", str(seconds), "--no-color"]
    # Few strings match the patterns of keys: that says nothing of the server.
    command += ["--suppress-health-check", "filter_too_much"]
    # All checks are on; asked for by name, they would not be off where schemathesis.toml says so.
    command += ["--continue-on-failure", "--warnings", "off", *options]
    run = subprocess.run(
        command, cwd=os.environ["RIALTO_TEMPORARY"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if run.returncode != 0:
        sys.stderr.buffer.write(run.stdout)
        raise AssertionError(f"schemathesis ended with status {run.returncode}")


@checks
def schemathesis_finds_nothing_as_an_account():
    schemathesis(banner["accounts"][0], 40, "--max-examples", "10")


@checks
def schemathesis_finds_nothing_as_anybody():
    schemathesis(None, 15, "--max-examples", "5", "--phases", "coverage,fuzzing")


checks.run()
