# SPDX-License-Identifier: Apache-2.0
# Builds tests of the Linux kernel's own (tools/testing/selftests), statically linked, in /opt/kselftest.  It is
# run in the root file system that is being made.  What only building needs is removed.
export DEBIAN_FRONTEND=noninteractive
work=/var/tmp/kselftest to=/opt/kselftest
build=(gcc libc6-dev linux-libc-dev make libcap-dev rsync)
# Those that need neither privileges, nor modules, nor hardware.
folders=(
  clone3 core exec filesystems/epoll futex/functional kcmp membarrier mincore mqueue openat2 pidfd
  pid_namespace prctl proc ptrace rlimits rseq seccomp sigaltstack size splice syscall_user_dispatch
  timers tmpfs
)

key=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb-src [signed-by=$key] http://deb.debian.org/debian bookworm main" >/etc/apt/sources.list.d/source.list
apt-get -qq update
apt-get -qq install -y --no-install-recommends "${build[@]}" >/dev/null </dev/null
mkdir -p $work $to
chmod 777 $work
cd $work
apt-get -qq source --download-only --tar-only linux
tar -xJf linux_*.orig.tar.xz --strip-components=1 --wildcards --no-wildcards-match-slash \
  '*/tools' '*/scripts' '*/include' '*/Makefile'
rm linux_*.orig.tar.xz
for folder in "${folders[@]}"; do
  mkdir -p "$to/$folder"
  make -s -k -C "tools/testing/selftests/$folder" KHDR_INCLUDES= LDFLAGS=-static OUTPUT="$to/$folder" all \
    >/var/tmp/log 2>&1 </dev/null || { echo "kselftest $folder: not all is built:"; grep -m 3 'error' /var/tmp/log || true; }
done
find $to -type f ! -perm -100 -delete
find $to -type d -empty -delete

[ -e $to/futex/functional/futex_wait ]

cd /
rm -rf $work /etc/apt/sources.list.d/source.list
apt-get -qq purge -y --auto-remove "${build[@]}" >/dev/null </dev/null
