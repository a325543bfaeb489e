# Shared by the scripts: sourced, never run. Puts the caller into the root of the checkout.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Paths inside the checkout do not count for ccache: another clone finds what this one compiled.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1

# Progress goes to stderr, so that stdout carries results only.
say() { printf '%s\n' "==> $*" >&2; }
note() { printf '%s\n' "    $*" >&2; }
# die STATUS MESSAGE: one line that says what to do, then the exit.
die() {
  local status=$1
  shift
  printf '%s\n' "error: $*" >&2
  exit "$status"
}

# How many compilers to run at once: a file that includes torch takes about 1.5 GB.
build_jobs() {
  local cores memory_kb fit
  cores=$(nproc)
  memory_kb=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo 2>/dev/null || true)
  fit=$((${memory_kb:-1500000} / 1500000))
  ((fit < 1)) && fit=1
  echo $((cores < fit ? cores : fit))
}
