#!/bin/sh
# Builds the greeter against the fetched library. Works in $MOZ_FETCHES_DIR, leaves its output in $UPLOAD_DIR.
set -eu
if ! command -v cc >/dev/null 2>&1; then
    echo "no C compiler: install cc (gcc or clang) and run doit again"
    exit 77
fi
cc -O2 -I"$MOZ_FETCHES_DIR/greet-source" -o "$UPLOAD_DIR/greeter" \
    "$MOZ_FETCHES_DIR/greeter-2.1/main.c" "$MOZ_FETCHES_DIR/greet-source/greet.c"
"$UPLOAD_DIR/greeter"
