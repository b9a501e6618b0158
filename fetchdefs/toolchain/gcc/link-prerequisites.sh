#!/bin/sh
# GCC's configure builds the prerequisites that it finds inside its own source tree.
# Source: https://gcc.gnu.org/install/prerequisites.html
set -eu
for name in gmp isl mpc mpfr; do
    ln -sfn "../$name-source" "$MOZ_FETCHES_DIR/gcc-source/$name"
done
