#!/usr/bin/env bash
# Runs the tests in .venv, one file per core at a time; options are passed to pytest: bash scripts/test.sh tests/data -k pickle -n 0
set -euo pipefail
TEST_TOOLS=yes
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec "$python" -m pytest -n auto --maxprocesses 8 --dist loadfile "$@"
