#!/bin/sh
# Make .venv from requirements.lock: `make install` calls this. Needs python3 (any 3.8 or newer), and nothing else.
#   PYTHON=3.12 make install      another interpreter for the environment (3.11 or 3.12)
set -eu

fail() {
    echo "install: $1" >&2
    exit 1
}

NEEDED_GIB=12
WANTED_PYTHON="${PYTHON:-}"
BOOTSTRAP=.venv-bootstrap

[ "$(uname -s)" = Linux ] && [ "$(uname -m)" = x86_64 ] ||
    fail "this is $(uname -s) on $(uname -m); the locked wheels are for Linux on x86_64, so use such a machine or container."
case "$WANTED_PYTHON" in
    "" | 3.11 | 3.11.* | 3.12 | 3.12.*) ;;
    *) fail "PYTHON=$WANTED_PYTHON does not fit: the stack holds on Python 3.11 and 3.12 (img2dataset fails on 3.13), so give one of these or leave PYTHON out." ;;
esac
free_gib=$(($(df -Pk . | awk 'NR == 2 { print $4 }') / 1048576))
[ -x .venv/bin/python ] || [ "$free_gib" -ge "$NEEDED_GIB" ] ||
    fail "$free_gib GiB free in $(pwd), and the environment with PyTorch's wheels takes about $NEEDED_GIB: free some space."

if command -v uv >/dev/null 2>&1; then
    UV=uv
else
    command -v python3 >/dev/null 2>&1 || fail "python3 is not on the PATH; install it (Debian: apt-get install python3 python3-venv)."
    UV=$BOOTSTRAP/bin/uv
    if [ ! -x "$UV" ]; then
        rm -rf "$BOOTSTRAP"
        python3 -m venv "$BOOTSTRAP" >/dev/null 2>&1 ||
            fail "python3 ($(python3 --version)) cannot make a virtual environment; install its venv module (Debian: apt-get install python3-venv)."
        "$BOOTSTRAP/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
            -r requirements-bootstrap.lock || fail "uv could not be installed (see above); is the package index reachable?"
    fi
fi

# Wheels unpack into .venv by hard link or copy; either is fine, the warning about it is noise.
export UV_LINK_MODE="${UV_LINK_MODE:-copy}"
if [ ! -x .venv/bin/python ] || { [ -n "$WANTED_PYTHON" ] && ! .venv/bin/python --version | grep -qF "Python ${WANTED_PYTHON}"; }; then
    "$UV" venv --quiet --clear --python "${WANTED_PYTHON:->=3.11,<3.13}" .venv ||
        fail "no Python 3.11 or 3.12 found or fetched; install one (Debian: apt-get install python3.11 python3.11-venv)."
fi
# Bytecode now, once: without it the first start of Prefect, Ray and MLflow takes several times as long.
"$UV" pip sync --python .venv --compile-bytecode --require-hashes requirements.lock ||
    fail "the packages of requirements.lock could not be installed (see above); is the package index reachable, is there disk space?"
"$UV" pip install --quiet --python .venv --no-deps --no-build-isolation --editable .
touch .venv/.installed
