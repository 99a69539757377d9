#!/usr/bin/env bash
# Exports the four models that train.sh left in check to check_inference.
# Further options go to the command and take precedence: bash scripts/export.sh --format both
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec "$python" -m lmf_multitask.export check --output_dir check_inference "$@"
