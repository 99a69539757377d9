#!/usr/bin/env bash
# Installs into .venv, trains on the built-in sample, and prints the table of metrics.
# Further options are passed to the training: bash scripts/quickstart.sh --seed 2
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
"$python" -m lmf_multitask.train --output_dir runs/quickstart --overwrite "$@"
echo "next: source .venv/bin/activate; lmf --help; docs/getting_started.md"
