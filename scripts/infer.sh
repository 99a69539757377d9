#!/usr/bin/env bash
# Writes the probabilities of the four models in check_inference to out_prob.
# Further options go to the command and take precedence: bash scripts/infer.sh --data_path iemocap.pkl
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec "$python" -m lmf_multitask.infer check_inference --output_dir out_prob "$@"
