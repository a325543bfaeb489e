#!/usr/bin/env bash
# Formats every tracked C++ file, or with --check says which ones are not formatted and exits with 1.
# Version 14 by name: other versions format differently.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

command -v clang-format-14 >/dev/null || die 2 "clang-format-14 not found: apt-get install clang-format-14"
case "${1-}" in
  "") mode=(-i) ;;
  --check) mode=(--dry-run --Werror) ;;
  *) die 2 "format.sh: unknown option $1 (known: --check)" ;;
esac
git ls-files -z '*.h' '*.cpp' '*.cc' | xargs -0 -n 16 -P "$(nproc)" clang-format-14 "${mode[@]}" >&2 ||
  die 1 "not formatted (see above): run scripts/format.sh"
