#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# make-image.sh TAR: a tar of a small Debian with Python, for the tests of profile image. An older
# one is kept. Needs root, debootstrap and a mirror.
set -eu

tar=$1
[ ! -e "$tar" ] || exit 0
tree=$(mktemp -d "$tar.XXXXXX")
trap 'rm -rf --one-file-system "$tree" "$tar.partial"' EXIT
debootstrap --variant=minbase --include=procps,python3,python3-ipython,python3-pip bookworm "$tree/root"
tar -C "$tree/root" --exclude='./var/cache/apt/archives/*.deb' -cf "$tar.partial" .
chmod 0644 "$tar.partial"
mv "$tar.partial" "$tar"
