#!/usr/bin/env bash
# Fuzzes the gateway: builds every target of gateway/fuzz and runs each for some seconds (first argument, default 20).
# Stable Rust and a C++ compiler are enough: the coverage that steers libFuzzer comes from an LLVM pass that stable rustc
# can be told to run. What is missing without nightly is the address sanitizer; there is no unsafe code to need it for.
set -euo pipefail
cd "$(dirname "$0")/../gateway/fuzz"

seconds=${1:-20}
host=$(rustc -vV | sed -n 's/^host: //p')
coverage="--cfg fuzzing -Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
  coverage+=" -Cllvm-args=-sanitizer-coverage-$option"
done

# With --target the flags do not reach build scripts and macros.
RUSTFLAGS="${RUSTFLAGS:-} $coverage" cargo build --release --target "$host" --bins
bin=target/$host/release

"$bin/seeds" -runs=0 >/dev/null 2>&1
failed=0
for target in json_to_wire wire_to_json differential route; do
  echo "fuzz: $target, $seconds s"
  mkdir -p "artifacts/$target"
  if ! "$bin/$target" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="artifacts/$target/" "corpus/$target" >"artifacts/$target.log" 2>&1; then
    tail -n 40 "artifacts/$target.log"
    failed=1
  else
    grep -E 'stat::number_of_executed_units|cov:' "artifacts/$target.log" | tail -n 2
  fi
done
exit "$failed"
