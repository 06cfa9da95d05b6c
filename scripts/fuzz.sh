#!/usr/bin/env bash
# Fuzzes the gateway: builds every target of gateway/fuzz and runs each for some seconds (first argument, default 20).
# Stable Rust and a C++ compiler are enough: the coverage that steers libFuzzer comes from an LLVM pass that stable rustc
# can be told to run. What is missing without nightly is the address sanitizer; there is no unsafe code to need it for.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
scripts/setup.sh fuzz
find_cargo || die "cargo is not on PATH"
cd gateway/fuzz

seconds=${1:-20}
jobs=()
host=$(rustc -vV | sed -n 's/^host: //p')
coverage="--cfg fuzzing -Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
  coverage+=" -Cllvm-args=-sanitizer-coverage-$option"
done

# With --target the flags do not reach build scripts and macros.
RUSTFLAGS="${RUSTFLAGS:-} $coverage" cargo build --release --target "$host" --bins ${CI:+--locked}
bin=target/$host/release

"$bin/seeds" -runs=0 >/dev/null 2>&1
targets=(json_to_wire wire_to_json differential route)
echo "fuzz: ${targets[*]}, $seconds s side by side"
for target in "${targets[@]}"; do
  mkdir -p "artifacts/$target"
  "$bin/$target" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="artifacts/$target/" "corpus/$target" >"artifacts/$target.log" 2>&1 &
  jobs+=($!)
done
failed=0
for i in "${!targets[@]}"; do
  log=artifacts/${targets[$i]}.log
  if wait "${jobs[$i]}"; then
    echo "fuzz: ${targets[$i]}: $(grep DONE "$log")"
  else
    tail -n 40 "$log"
    echo "fuzz: ${targets[$i]} failed; its input is below gateway/fuzz/artifacts/${targets[$i]}"
    failed=1
  fi
done
exit "$failed"
