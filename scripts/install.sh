#!/bin/sh
# Makes .venv and installs the project with its locked dependencies: install.sh run|test|bench|mutants
# What only measures the project or its tests goes into an environment of its own, such as .venv-bench, and disturbs nothing.
# A second run finds that nothing changed and installs nothing. PYTHON=/path/to/python chooses the interpreter.
set -eu

kind=$1
cd "$(dirname "$0")/.."
venv=.venv
case $kind in bench | mutants) venv=.venv-$kind ;; esac
python=$venv/bin/python

# What the shell exports for other projects must not redirect this installation. Where packages come from
# (index, proxy, certificates) stays as the user configured it.
unset PYTHONHOME PYTHONPATH PYTHONSTARTUP PYTHONWARNINGS VIRTUAL_ENV
unset PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_REQUIREMENT PIP_CONSTRAINT PIP_NO_BINARY PIP_REQUIRE_VIRTUALENV

fits='import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 14) and sys.implementation.name == "cpython"))'

# The names of the packages count, since an editable installation lists them.
fingerprint() {
    { pwd; echo */__init__.py; cat scripts/install.sh pyproject.toml requirements/run.txt "requirements/$1.txt"; } | cksum
}

usable() {
    [ -x "$1" ] && "$1" -c "$fits" 2>/dev/null && "$1" -m pip --version >/dev/null 2>&1
}

current() {
    [ -f "$venv/.installed-$1" ] && [ "$(cat "$venv/.installed-$1")" = "$(fingerprint "$1")" ] && usable "$python"
}

# The first interpreter that runs (a pyenv shim may not), fits, and can really make an environment with pip
# (Debian's cannot without python3-venv).
make_venv() {
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3.14 python3}; do
        "$candidate" -c "$fits" 2>/dev/null || continue
        rm -rf "$venv"
        if "$candidate" -m venv "$venv" >/dev/null 2>&1 && usable "$python"; then
            echo "Made $venv with $("$python" --version)."
            return
        fi
        rm -rf "$venv"
    done
    echo "No usable Python: install Python 3.13 (3.11 to 3.14 will do) with venv and pip, on Debian" \
        "\`apt-get install python3 python3-venv\`, or name one with PYTHON=/path/to/python." >&2
    exit 1
}

# What the tests need includes what a run needs.
for installed in "$kind" test; do
    if current "$installed"; then
        exit 0
    fi
done

usable "$python" || make_venv
rm -f "$venv"/.installed-*
pip="$python -m pip --disable-pip-version-check --no-input --quiet"
echo "Installing requirements/$kind.txt into $venv ..."
# The lock is complete, and older pips would resolve its extras anew: so take exactly what it lists, then check it.
$pip install --require-hashes --only-binary :all: --no-deps --no-compile -r "requirements/$kind.txt"
# Without build isolation nothing is downloaded here: setuptools is among the locked requirements.
$pip install --no-deps --no-build-isolation --no-index --no-compile --editable .
"$python" -m pip --disable-pip-version-check check
echo "Compiling ..."
"$python" -m compileall -q -j 0 "$venv/lib" */__init__.py
for package in */__init__.py; do
    "$python" -m compileall -q "$(dirname "$package")"
done
fingerprint "$kind" >"$venv/.installed-$kind"
echo "Ready: $venv/bin/onboard"
