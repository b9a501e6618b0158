#!/bin/sh
# Write fetch-content and doit-fetch of this checkout as single files for the Python of the image, in one tar.
# Needs Python 3.11 with venv, and a package index; requirements.txt pins what comes from there.
set -eu
here=$(dirname "$0")
python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
    echo "needs Python 3.11, the version in the image, but python3 is $(python3 -V)"
    exit 77
}
umask 022
export SOURCE_DATE_EPOCH=1420070400 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONHASHSEED=0
python3 -m venv venv
venv/bin/pip install --quiet --require-hashes --requirement "$here/requirements.txt"
venv/bin/pip install --quiet --no-build-isolation --no-deps "$here/../.."
mkdir programs
export PIP_CONSTRAINT="$here/requirements.txt"
venv/bin/python "$here/../../fetch-content" package --python 3.11 programs/fetch-content
venv/bin/doit-fetch package --python 3.11 programs/doit-fetch
tar --create --file "$UPLOAD_DIR/image-tools.tar" --directory programs --sort=name --owner=0 --group=0 --numeric-owner \
    --mode=755 --mtime="@$SOURCE_DATE_EPOCH" fetch-content doit-fetch
