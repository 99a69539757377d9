#!/usr/bin/env bash
# Trains the paper's four separate models with LMF_Paddle's settings, one emotion after another, as LMF_Paddle's train.sh did.
# Uses data/iemocap.pkl if it exists; without data it trains on the built-in sample of made-up clips, and says so first.
# Further options go to the command and take precedence: bash scripts/train.sh --data_path iemocap.pkl
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
if [ -f data/iemocap.pkl ]; then
    set -- --data_path data/iemocap.pkl "$@"
elif [[ " $* " != *" --data_path"* ]]; then
    echo "no data/iemocap.pkl: training on made-up clips. Put IEMOCAP's features there, or add --data_path FILE" >&2
fi
exec "$python" -m lmf_multitask.train --mode per_emotion --recipe lmf_paddle --jobs 1 --output_dir check "$@"
