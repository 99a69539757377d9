#!/usr/bin/env bash
# Runs the tests in .venv; options go to pytest: bash scripts/test.sh tests/data -k pickle
set -euo pipefail
TEST_TOOLS=yes
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec "$python" -m pytest "$@"
