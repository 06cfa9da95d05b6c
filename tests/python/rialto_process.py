"""A `rialto dev` as a child process."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

# Seconds. The first start makes a database cluster.
START = 90
STOP = 30


class Rialto:
    """Runs `rialto dev --json` on a free port of the loopback interface. Also a context manager."""

    def __init__(self, data_dir: Path):
        self.data_dir = data_dir
        self.log_path = data_dir.with_name(f"{data_dir.name}.log")
        self.start()

    def start(self) -> None:
        """Starts the server and waits until it is ready. On the same data directory as before, if it ran before."""
        command = [os.environ["RIALTO_BIN"], "dev", "--json", "--listen", "127.0.0.1:0"]
        command += ["--data-dir", str(self.data_dir)]
        # Not the settings of whoever runs the tests.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RIALTO_")}
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.data_dir.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        too_long = threading.Timer(START, self.process.kill)
        too_long.start()
        try:
            self.line = self.process.stdout.readline()
        except BaseException:
            self.stop()
            raise
        finally:
            too_long.cancel()
        if not self.line.endswith("\n"):
            status = self.process.wait(STOP)
            self.print_log()
            raise RuntimeError(f"rialto dev did not start; status {status}")
        self.banner = json.loads(self.line)

    def kill(self) -> None:
        """Ends the server as a crash would: it can't tidy up."""
        self.process.kill()
        self._reap()

    def stop(self) -> int:
        """Ends the server in an orderly way; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        try:
            return self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.process.stdout.close()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def print_log(self) -> None:
        print("the end of the server's log:", *self.log().splitlines()[-40:], sep="\n    ", file=sys.stderr)

    def __enter__(self) -> "Rialto":
        return self

    def __exit__(self, *_) -> None:
        self.stop()
