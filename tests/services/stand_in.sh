#!/bin/sh
# A root file system that stands in for the image python:3.11-slim-bookworm: Debian 12 with its Python 3.11 in the same
# places. `tests/services/stand_in.sh base.tar`, as root, with mmdebstrap. What this machine trusts (certificates, also for pip)
# goes along, so that a build reaches the same package index.
set -eu
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm  # in memory: only the archive needs the disk
mmdebstrap --quiet --variant=apt --include=python3,python3-venv,ca-certificates,tzdata,netbase \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt=force-unsafe-io \
  --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
  --customize-hook='mkdir -p "$1/usr/local/share/ca-certificates"' \
  --customize-hook='cp /usr/local/share/ca-certificates/*.crt "$1/usr/local/share/ca-certificates/" 2>/dev/null || true' \
  --customize-hook='chroot "$1" update-ca-certificates >/dev/null' \
  --customize-hook='chroot "$1" python3 -m venv --system-site-packages /usr/local' \
  --customize-hook='printf "[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n" > "$1/etc/pip.conf"' \
  bookworm "$1"
