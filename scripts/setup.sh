#!/usr/bin/env bash
# Sets everything up and builds the program: build/release/sparsum. Safe to run again, in seconds.
#   scripts/setup.sh          system packages, .venv, the program
#   scripts/setup.sh --all    the tests and examples too
# Environment: SPARSUM_TORCH_ROOT=FOLDER uses the LibTorch there (in a PyTorch wheel: site-packages/torch)
# instead of installing torch into .venv; SPARSUM_PYTHON=PROGRAM names the Python that .venv is made from.
# Exit status: 0, 1 if the build fails, 2 if something is missing that only you can provide.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

target=sparsum_cli
case "${1-}" in
  "") ;;
  --all) target=all ;;
  -h | --help) sed -n '2,7s/^# \{0,1\}//p' scripts/setup.sh && exit 0 ;;
  *) die 2 "setup.sh: unknown option $1 (known: --all)" ;;
esac

installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

# The first Python from 3.11 on: the one on PATH may be older than the system's.
find_python() {
  local candidate
  for candidate in ${SPARSUM_PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

install_system_packages() {
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    note "no apt here: what scripts/apt-packages.txt lists must be installed by other means"
    return
  fi
  local stamp=build/.setup/apt missing=() optional=() package python
  local key
  key=$(sha256sum scripts/apt-packages.txt | cut -d' ' -f1)
  while read -r package; do
    installed "$package" || missing+=("$package")
  done < <(grep -v -e '^#' -e '^optional:' scripts/apt-packages.txt)
  python=$(find_python) || die 2 "no Python 3.11 or newer found: install one, or set SPARSUM_PYTHON to it"
  # Debian keeps a part of the standard library's venv in a package of its own.
  if [[ ! -x .venv/bin/python ]] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    missing+=("$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')")
  fi
  # Optional packages are asked for once for a given list, not at every run.
  if ((${#missing[@]})) || [[ $(cat "$stamp" 2>/dev/null) != "$key" ]]; then
    while read -r package; do
      installed "$package" || optional+=("$package")
    done < <(sed -n 's/^optional: *//p' scripts/apt-packages.txt)
  fi
  if ((${#missing[@]} + ${#optional[@]})); then
    local as_root=()
    if ((EUID != 0)); then
      if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
      elif ((${#missing[@]})); then
        say "these packages are missing, and installing them takes an administrator. Run this line, then this script again:"
        local known=()
        for package in "${optional[@]}"; do
          if apt-cache show "$package" >/dev/null 2>&1; then known+=("$package"); fi
        done
        printf '%s\n' "sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]} ${known[*]}" >&2
        exit 2
      else
        note "optional packages that are not installed: ${optional[*]}"
        optional=()
      fi
    fi
    if ((${#missing[@]} + ${#optional[@]})); then
      say "installing system packages: ${missing[*]} ${optional[*]}"
      apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" </dev/null >&2; }
      apt update || note "apt-get update failed; going on with the package lists that are there"
      if ((${#missing[@]})) && ! apt install -y --no-install-recommends "${missing[@]}"; then
        die 2 "apt-get could not install: ${missing[*]} (see above; Debian 12, Ubuntu 24.04 or newer have all of them)"
      fi
      for package in "${optional[@]}"; do
        if ! apt-cache show "$package" >/dev/null 2>&1; then
          note "$package: not in this release, going on without"
        elif ! apt install -y --no-install-recommends "$package"; then
          note "$package: could not be installed, going on without"
        fi
      done
    fi
  fi
  mkdir -p "$(dirname "$stamp")"
  printf '%s\n' "$key" >"$stamp"
}

# The requirements that this machine should hold, one a line.
requirements() {
  if [[ -n "${SPARSUM_TORCH_ROOT:-}" ]]; then
    grep -v -e '^#' -e '^torch==' scripts/requirements.txt
  else
    grep -v '^#' scripts/requirements.txt
  fi
}

has_requirements() {
  requirements | .venv/bin/python -c '
import importlib.metadata as metadata, sys
for line in sys.stdin:
    name, version = line.split("==")
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        sys.exit(1)
    if found.split("+")[0] != version.strip():
        sys.exit(1)
'
}

make_environment() {
  if [[ -n "${SPARSUM_TORCH_ROOT:-}" && ! -e "$SPARSUM_TORCH_ROOT/lib/libtorch_cpu.so" ]]; then
    die 2 "SPARSUM_TORCH_ROOT=$SPARSUM_TORCH_ROOT: expected a folder that holds include/ and lib/libtorch_cpu.so"
  fi
  # A stamp, because asking Python for the versions costs more than all the other checks together.
  local stamp=.venv/.sparsum-setup key
  key=$(requirements | sha256sum | cut -d' ' -f1)
  if .venv/bin/python -c '' 2>/dev/null && [[ $(cat "$stamp" 2>/dev/null) == "$key" ]]; then
    return
  fi
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    local python
    python=$(find_python) || die 2 "no Python 3.11 or newer found: install one, or set SPARSUM_PYTHON to it"
    say "making the virtual environment .venv from $("$python" --version)"
    "$python" -m venv --clear .venv || die 2 "$python -m venv .venv failed (see above)"
  fi
  if ! has_requirements; then
    say "installing Python packages into .venv: $(requirements | tr '\n' ' ')"
    requirements >.venv/requirements.txt
    .venv/bin/python -m pip install --disable-pip-version-check -r .venv/requirements.txt </dev/null >&2 ||
      die 2 "pip could not install them (see above): check the network and free space, then run this again"
  fi
  printf '%s\n' "$key" >"$stamp"
}

build() {
  command -v cmake >/dev/null || die 2 "cmake not found: install CMake 3.23 or newer"
  local log=build/.setup/configure.log
  mkdir -p build/.setup
  if ! cmake --preset release >"$log" 2>&1; then
    cat "$log" >&2
    die 1 "configuring failed (see above); after a change of compiler or LibTorch remove build/release and run this again"
  fi
  # Ninja's own dry run says whether there is anything to do, so that a second run stays quiet.
  if ninja -C build/release -n "$target" | grep -q 'no work to do'; then
    note "build/release is up to date"
  else
    say "building build/release (the first time takes minutes)"
    ninja -C build/release -j "$(build_jobs)" "$target" >&2 || die 1 "the build failed (see above)"
  fi
  [[ -x build/release/sparsum ]] || die 1 "the build left no build/release/sparsum"
}

say "setting up: system packages, .venv, build/release"
install_system_packages
make_environment
build
say "ready: build/release/sparsum"
