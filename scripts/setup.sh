#!/bin/sh
# Set up .venv for one of: demo (what a user needs, no torch), dev (tests and checks), bench (loggers to compare with).
# Installs Debian packages itself when it may (root, or sudo without a password); otherwise says which are missing.
set -eu
kind=$1
venv=$2
say() { printf '%s\n' "[setup] $*"; }

# --- system packages ------------------------------------------------------------------------------------------------
as_root=
if command -v apt-get >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ]; then as_root=env; elif sudo -n true 2>/dev/null; then as_root=sudo; fi
fi
apt_updated=
debian() { # debian PACKAGE WHY: install it, or say how
    if [ -z "$as_root" ]; then
        say "missing: $1 ($2). Install it with: sudo apt-get install $1"
        return 1
    fi
    say "installing Debian's $1 ($2)"
    if [ -z "$apt_updated" ]; then $as_root apt-get update -qq >/dev/null 2>&1 || true; apt_updated=yes; fi
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends "$1" >/dev/null 2>&1 ||
        { say "apt-get could not install $1; continuing without"; return 1; }
}
wanted() { ls $1 >/dev/null 2>&1; }

if [ "$(uname -s)" = Linux ] && command -v apt-get >/dev/null 2>&1; then
    wanted '/usr/lib/*/openblas*/libopenblas.so.0' || wanted '/usr/lib/*/libopenblas.so.0' ||
        debian libopenblas0-pthread "MLX on Linux multiplies matrices about 20 times faster with OpenBLAS" || true
    wanted '/usr/share/datasets/fashion-mnist/*' || debian dataset-fashion-mnist "real images for the demo" || true
    if [ "$kind" != demo ]; then
        wanted '/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf' ||
            debian fonts-noto-color-emoji "the tests and benchmarks render its emoji" || true
        command -v prometheus >/dev/null 2>&1 || debian prometheus "the tests run a real Prometheus" || true
    fi
elif [ "$(uname -s)" = Darwin ] && [ "$kind" != demo ]; then
    command -v prometheus >/dev/null 2>&1 || { command -v brew >/dev/null 2>&1 && brew install prometheus; } ||
        say "missing: prometheus (the tests run a real one). Install it with: brew install prometheus"
fi

# --- Python -----------------------------------------------------------------------------------------------------------
find_python() {
    for name in "${PYTHON3:-python3}" python3.11 python3.12 python3.13 python3.14; do
        command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' && { command -v "$name"; return; }
    done
    return 1
}
if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python) || { [ -n "$as_root" ] && debian python3 "Python 3.11 or newer" && python=$(find_python); } ||
        { say "Python 3.11 or newer was not found; install it, or name one: PYTHON3=/path/to/python3 make demo"; exit 1; }
    "$python" -c 'import ensurepip' 2>/dev/null || debian python3-venv "virtual environments" ||
        { say "this Python cannot make virtual environments"; exit 1; }
    say "making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi

say "installing Python packages for $kind into $venv"
started=$(date +%s)
install() { "$venv/bin/python" -m pip install --disable-pip-version-check "$@" -e ".[$kind]"; }
if [ -t 1 ]; then
    install --progress-bar on
else # no terminal: one line a package; the status travels in a file, since a pipe has only its last one's
    status=$(mktemp)
    { code=0; install --progress-bar off 2>&1 || code=$?; echo "$code" >"$status"; } |
        { grep -E '^ *(Collecting|Downloading|Successfully|ERROR|error)' || true; }
    code=$(cat "$status")
    rm -f "$status"
    [ "$code" = 0 ] || { say "pip failed with code $code; the lines above say why"; exit 1; }
fi
say "done in $(($(date +%s) - started)) s"
touch "$venv/.$kind"
