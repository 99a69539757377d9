# Sourced by the other scripts: changes to the repository root, installs the package with the pinned versions into .venv, and sets
# `python`. TEST_TOOLS=yes also installs the tools of the tests. PYTHON is the interpreter to create .venv with.
# Nothing is installed if the lock and the package's metadata have not changed since the last installation.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

suitable() {
    command -v "$1" >/dev/null 2>&1 &&
        "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.12 python3.11 python3.10 python; do
        if suitable "$candidate"; then
            command -v "$candidate"
            return
        fi
        if [ "$candidate" = "${PYTHON:-}" ]; then
            break
        fi
    done
    echo "error: Python must be 3.10, 3.11 or 3.12, but ${PYTHON:-no python3} is not. Name one: PYTHON=/path/to/python3.11 bash $0" >&2
    return 2
}

install() {
    local extras=all
    [ "${TEST_TOOLS:-no}" = no ] || extras=test
    echo "installing into .venv, once: 2 to 10 minutes, about 500 MB of downloads, 2 GB on disk" >&2
    # pip of Python 3.10 would otherwise build seqeval in a way that fails
    PYTHONWARNINGS=ignore "$python" -m pip install --use-pep517 --disable-pip-version-check --no-input --progress-bar off \
        --constraint scripts/requirements.lock --editable ".[cpu,$extras]" | progress >&2
}

progress() {  # of pip: downloads of 10 MB and more, every twentieth package, and the last step
    awk '/^ *Collecting / { if (++count % 20 == 0) print "  " count " packages found" }
         /^ *Downloading .*\([0-9][0-9][0-9.]* MB\)/ { print " " $0 }
         /^ *Installing collected/ { print "  installing all of them (about a minute)" }
         { fflush() }'
}

python=.venv/bin/python
unset PYTHONPATH PYTHONHOME
if ! suitable "$python"; then
    builder=$(find_python)
    rm -rf .venv
    if ! "$builder" -m venv .venv; then
        rm -rf .venv
        echo "error: $builder must be able to make a virtual environment, but is not. On Debian and Ubuntu: apt install python3-venv" >&2
        exit 2
    fi
fi
wanted=$(cat scripts/requirements.lock setup.cfg pyproject.toml lmf_multitask/__init__.py | cksum)
if [ "${TEST_TOOLS:-no}" = no ]; then stamps=".venv/installed .venv/installed-test"; else stamps=.venv/installed-test; fi
if ! grep -qsxF "$wanted" $stamps; then
    rm -f .venv/installed .venv/installed-test
    install
    if [ "${TEST_TOOLS:-no}" = no ]; then echo "$wanted" >.venv/installed; else echo "$wanted" >.venv/installed-test; fi
fi
