#!/usr/bin/env bash
# usage: scripts/keep_results.sh SWEEP FOLDER
# Copies what is worth keeping of a sweep (the options of all runs, how runs failed; of finished ones summaries, metrics of each
# epoch, times and comparisons of gradients; no models, no pictures) into FOLDER, of which python -m sparsum.report makes the
# same page, but that runs which are not finished have not started there.
here=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ $# == 2 ]] || die 2 "keep_results.sh: expected SWEEP and FOLDER, got $# arguments"
cd "$here" # paths are the caller's
sweep=$1 folder=$2
[[ -f $sweep/sweep.json ]] || die 2 "keep_results.sh: $sweep: expected the folder of a sweep, found no sweep.json"

mkdir -p "$folder/runs"
cp "$sweep/sweep.json" "$sweep/sweep.toml" "$folder/"
shopt -s nullglob
# Those of an earlier call would say of runs what is no longer so.
rm -f "$folder"/{configs,failed}/*
for file in "$sweep"/configs/*.toml "$sweep"/failed/*.json "$sweep"/gradient_quality.json; do
  [[ -f $file ]] || continue
  name=${file##*/}
  [[ $file != *.toml || ! -f $sweep/runs/${name%.toml}/summary.json ]] || continue # its config.toml says it all
  into=$folder/${file#"$sweep"/}
  mkdir -p "${into%/*}"
  cp "$file" "$into"
done
kept=0
for summary in "$sweep"/runs/*/summary.json; do
  run=${summary%/summary.json}
  into=$folder/runs/${run##*/}
  mkdir -p "$into"
  cp "$run"/{config.toml,summary.json,metrics.jsonl,timing.jsonl} "$into/"
  [[ ! -f $run/gradient_quality.json ]] || cp "$run/gradient_quality.json" "$into/"
  kept=$((kept + 1))
done
echo "$folder: $kept runs"
