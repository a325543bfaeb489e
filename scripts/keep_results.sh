#!/usr/bin/env bash
# usage: scripts/keep_results.sh SWEEP FOLDER
# Copies what is worth keeping of a sweep's finished runs (options, summaries, metrics of each epoch, times; no models, no
# pictures) into FOLDER, of which python -m sparsum.report makes the same page, but for the runs' own pictures. Runs that are
# not finished are left out.
here=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ $# == 2 ]] || die 2 "keep_results.sh: expected SWEEP and FOLDER, got $# arguments"
cd "$here" # paths are the caller's
sweep=$1 folder=$2
[[ -f $sweep/sweep.json ]] || die 2 "keep_results.sh: $sweep: expected the folder of a sweep, found no sweep.json"

mkdir -p "$folder/runs"
cp "$sweep/sweep.json" "$sweep/sweep.toml" "$folder/"
shopt -s nullglob
kept=0
for summary in "$sweep"/runs/*/summary.json; do
  run=${summary%/summary.json}
  into=$folder/runs/${run##*/}
  mkdir -p "$into"
  cp "$run"/{config.toml,summary.json,metrics.jsonl,timing.jsonl} "$into/"
  kept=$((kept + 1))
done
echo "$folder: $kept runs"
