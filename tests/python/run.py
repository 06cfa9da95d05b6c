"""Starts a server, runs the scripts against it and adds up what they found. See run.sh."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from rialto_process import Rialto

HERE = Path(__file__).parent
# How long a script may take, in seconds. Nothing comes near it but a hang.
LIMIT = 120
# Those that can share a server. crash_client and account_client start their own, to kill it, identity_client one that asks
# more of accounts, webhook_client one that calls it, e2ee_client one that it searches; envoy_client starts gateways.
ON_SHARED_SERVER = [
    "stubs_client",
    "two_factor_client",
    "privacy_client",
    "keys_client",
    "conversations_client",
    "reflection_client",
    "openapi_client",
    "websocket_client",
]
ON_THEIR_OWN = ["identity_client", "crash_client", "account_client", "webhook_client", "e2ee_client", "envoy_client"]
SCRIPTS = [*ON_SHARED_SERVER, *ON_THEIR_OWN]


def run(script: str, temporary: Path, server: Rialto | None) -> tuple[int, int]:
    """Runs a script; returns how many of its checks passed and failed."""
    environment = {**os.environ, "PYTHONPATH": str(temporary / "stubs"), "RIALTO_TEMPORARY": str(temporary)}
    if server:
        environment["RIALTO_BANNER"] = server.line
    with subprocess.Popen(
        [sys.executable, "-u", str(HERE / f"{script}.py")],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        # It says where it hangs, and ends.
        signal.signal(signal.SIGALRM, lambda *_: process.terminate())
        signal.alarm(LIMIT)
        passed = failed = 0
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                passed += line.startswith("ok ")
                failed += line.startswith("FAILED ")
            status = process.wait()
        finally:
            signal.alarm(0)
            if process.poll() is None:
                process.terminate()
    if status != 0 and failed == 0:
        print(f"FAILED {script}: it ended with status {status}")
        failed = 1
    if passed + failed == 0:
        print(f"FAILED {script}: it checked nothing")
        failed = 1
    return passed, failed


def main() -> int:
    # An exception, so that whoever started a server stops it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    temporary = Path(sys.argv[1])
    scripts = sys.argv[2:] or SCRIPTS
    passed = failed = 0

    def add(counts: tuple[int, int]) -> None:
        nonlocal passed, failed
        passed, failed = passed + counts[0], failed + counts[1]

    shared = [script for script in scripts if script in ON_SHARED_SERVER]
    if shared:
        with Rialto(temporary / "shared") as server:
            for script in shared:
                add(run(script, temporary, server))
            panics = [line for line in server.log().splitlines() if re.search(r"panicked at", line)]
            print(f"FAILED server: {panics[0]}" if panics else "ok     server: nothing has panicked")
            add((0, 1) if panics else (1, 0))
            if failed:
                server.print_log()
    for script in scripts:
        if script not in shared:
            add(run(script, temporary, None))

    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
