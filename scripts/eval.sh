#!/usr/bin/env bash
# Evaluates the four models that train.sh left in check.
# Further options go to the command and take precedence: bash scripts/eval.sh --split validation
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec "$python" -m lmf_multitask.evaluate check "$@"
