#!/usr/bin/env bash
# Installs build/release into a temporary folder, builds the consumer project in tests/install against it
# and runs that: once with LibTorch, once with the kernels alone and no LibTorch to be found.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ -x build/release/sparsum ]] || die 2 "build/release/sparsum not found: run scripts/setup.sh first"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# quietly LOG COMMAND…: the output only if it fails.
quietly() {
  local log=$1
  shift
  "$@" </dev/null >"$log" 2>&1 || { cat "$log" >&2 && die 1 "failed: $*"; }
}

# consume NAME CMAKE-OPTIONS…
consume() {
  local build=$folder/$1
  shift
  quietly "$folder/log" cmake -S tests/install -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_PREFIX_PATH="$folder/prefix" "$@"
  quietly "$folder/log" cmake --build "$build"
  ctest --test-dir "$build" --output-on-failure --no-tests=error </dev/null >&2 || die 1 "the consumer's tests failed"
}

say "installing into a temporary folder"
quietly "$folder/log" cmake --install build/release --prefix "$folder/prefix"
say "a consumer of sparsum::sparsum and sparsum::kernels"
consume all
say "a consumer of sparsum::kernels alone, without LibTorch"
consume kernels -DKERNELS_ONLY=ON -DSPARSUM_TORCH_ROOT=/nonexistent
say "the installed program"
quietly "$folder/log" "$folder/prefix/bin/sparsum" --help
