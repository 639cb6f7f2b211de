#!/bin/sh
# Prepare .venv: the locked dependencies, the project itself, and the system libraries that OpenCV links.
# `make setup` calls it. It does nothing, at once, when .venv is already what the lock and pyproject.toml say.
#
#   PYTHON   the interpreter to use, Python 3.11 or newer (default: the first one found)
set -eu
cd "$(dirname "$0")/.."

venv=.venv

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# What the environment depends on. The folder is part of it: the scripts in .venv name it.
state=$(pwd; cat requirements.lock pyproject.toml .ci/setup.sh | cksum)

# Each stage leaves the state it was done for, so that one that failed does not repeat those before it.
is_done() { [ "$(cat "$venv/.$1-done" 2>/dev/null)" = "$state" ] && "$venv/bin/python" -c '' 2>/dev/null; }
mark_done() { printf '%s\n' "$state" >"$venv/.$1-done"; }

if is_done setup; then exit 0; fi

# Install Debian packages as root; elsewhere end with the one line that does. $1 says what misses them.
system_packages() {
    missing=$1
    shift
    if ! command -v apt-get >/dev/null; then
        fail "$missing. Install what Debian calls '$*' and run 'make setup' again."
    elif [ "$(id -u)" != 0 ]; then
        fail "$missing. Run: sudo apt-get install -y $*"
    fi
    say "$missing: installing $*"
    export DEBIAN_FRONTEND=noninteractive
    # The lists may be missing (container images have none) or old: fetch them only when the first try fails.
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 ||
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null; } ||
        fail "apt-get could not install $*."
}

if ! is_done packages; then

    # 1. An interpreter.
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON is no program."
        new_enough "$PYTHON" || fail "Python 3.11 or newer is needed; PYTHON=$PYTHON is $("$PYTHON" -V 2>&1)."
        python=$PYTHON
    else
        python=
        for candidate in python3 python3.13 python3.12 python3.11 python; do
            if command -v "$candidate" >/dev/null && new_enough "$candidate"; then python=$candidate; break; fi
        done
        [ -n "$python" ] ||
            fail "Python 3.11 or newer is needed, and none is on the PATH. Name one: make setup PYTHON=/path/to/python3.11"
    fi
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

    # 2. A virtual environment. Debian splits what makes one into a package of its own.
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        system_packages "$python cannot make virtual environments" "python$version-venv"
    say "virtual environment in $venv, with Python $version"
    "$python" -m venv --clear "$venv"

    # 3. The dependencies, each at its locked version and with its locked hash; then the project, from this folder.
    pip() { "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }
    count=$(grep -c '^[a-z0-9]' requirements.lock)
    say "about $count packages from requirements.lock: a minute or two, some 250 MB"
    pip install --quiet --root-user-action=ignore --only-binary :all: --require-hashes -r requirements.lock ||
        fail "the packages could not be installed (see above). 'make setup' takes it up again."
    pip install --quiet --root-user-action=ignore --no-index --no-deps --no-build-isolation --editable .
    mark_done packages

fi

# 4. OpenCV links libraries of the system that a small one lacks.
if ! message=$("$venv/bin/python" -c 'import cv2' 2>&1); then
    case $message in
        *.so*) ;;
        *) fail "OpenCV cannot be imported: $message" ;;
    esac
    # Newer Debian and Ubuntu call glib libglib2.0-0t64; apt-get finds it by the old name too.
    system_packages "OpenCV lacks system libraries" libgl1 libglib2.0-0
    "$venv/bin/python" -c 'import cv2' || fail "OpenCV still cannot be imported (see above)."
fi

mark_done setup
say "done"
