#!/bin/sh
# Makes ./configure. Needs autoconf, automake, pkg-config.
set -e
cd "$(dirname "$0")"
mkdir -p m4
autoreconf --force --install --warnings=all
