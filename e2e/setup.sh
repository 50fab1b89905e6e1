#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that building and testing Trine need, if any of them is missing.
set -euo pipefail

# package: a program that it brings
needed="
  binutils:objcopy
  busybox-static:busybox
  containerd:containerd
  cpio:cpio
  curl:curl
  erofs-utils:fsck.erofs
  gcc:gcc
  iproute2:ip
  libc6-dev:/usr/include/stdio.h
  mmdebstrap:mmdebstrap
  qemu-system-x86:qemu-system-x86_64
  runc:runc
  util-linux:unshare
"
missing=()
for entry in $needed; do
  package=${entry%%:*} program=${entry#*:}
  [ -e "$program" ] || PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null ||
    missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || { echo "setup: every Debian package is here"; exit 0; }

if [ "$(id -u)" != 0 ]; then
  echo "setup: missing ${missing[*]}: run make setup as root, or install them" >&2
  exit 1
fi
echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >/dev/null
