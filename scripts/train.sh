#!/usr/bin/env bash
# Trains the paper's four separate models with LMF_Paddle's settings, one emotion after another, as the seed's train.sh did.
# Further options go to the command, and win: bash scripts/train.sh --data_path iemocap.pkl
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec "$python" -m lmf_multitask.train --mode per_emotion --recipe lmf_paddle --jobs 1 --output_dir check "$@"
