#!/bin/sh
# Runs a command with these variables alone: clean_env.sh COMMAND [ARGUMENT ...]
# Whatever else the shell exports (settings of this project or of Prefect, proxies, PYTHONPATH, options of pytest)
# could make a demonstration or a test contact a real system.
set -eu

for name in CI COLUMNS FORCE_COLOR HOME LANG LC_ALL LC_CTYPE LINES LOGNAME NO_COLOR PATH SHELL TERM TMPDIR TZ USER; do
    eval "value=\${$name-}"
    if [ -n "$value" ]; then
        set -- "$name=$value" "$@"
    fi
done
exec env -i "$@"
