#!/usr/bin/env bash
# Sets up, gets Fashion-MNIST, trains the bit-vector VAE on it for about two minutes, and draws a report.
# Safe to run again: a finished run is not trained again, an interrupted one goes on.
# Environment: SPARSUM_DATA=FOLDER reads FOLDER/fashion-mnist; see scripts/setup.sh for the rest.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

run=runs/demo
report=report/demo
epochs=12
steps_per_epoch=430 # half a pass

case "${1-}" in
  "") ;;
  -h | --help) sed -n '2,4s/^# \{0,1\}//p' scripts/demo.sh && exit 0 ;;
  *) die 2 "demo.sh: unknown option $1 (it has none)" ;;
esac

scripts/setup.sh
sparsum=build/release/sparsum

# train ARGUMENTS…: 130 says that Ctrl-C stopped the run after a step and saved it.
train() {
  local status=0
  "$sparsum" train bitvector "$@" || status=$?
  if ((status == 130)); then
    say "stopped; scripts/demo.sh goes on from there"
    exit 130
  elif ((status != 0)); then
    die "$status" "training failed (see above)"
  fi
}

if [[ -e $run/summary.json ]]; then
  say "$run is trained already; to start over: rm -r $run"
elif [[ -e $run/config.toml ]]; then
  say "going on with the interrupted run in $run; to start over: rm -r $run"
  train --resume --out "$run"
else
  say "getting Fashion-MNIST"
  "$sparsum" data get fashion-mnist >&2 || die $? "the data could not be had (see above)"
  say "training a VAE whose code is 32 bits, with SparseMAP: $epochs epochs of half a pass over 55,000 images"
  train --dataset fashion-mnist --estimator sparsemap --seed 0 --epochs "$epochs" \
    --steps-per-epoch "$steps_per_epoch" --importance-images 100 --out "$run"
fi

say "drawing the report"
# It says where the report is and what each file shows.
PYTHONPATH=python .venv/bin/python -m sparsum.report "$run" --out "$report" ||
  die $? "the report could not be drawn (see above)"
