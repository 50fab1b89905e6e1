# SPDX-License-Identifier: Apache-2.0
# Runs the tests of a package, as they are installed, and prints what came of each.  Some fail under runc: so
# must they here.  Debian has no archive of time zones for Go.
export GOCACHE=/tmp/go-cache GO111MODULE=off HOME=/tmp PATH=/usr/lib/go-1.19/bin:$PATH
cd "/usr/lib/go-1.19/src/$1" || exit 9
flags=()
[ "$1" != time ] || flags=(-tags=timetzdata)
go test -short -count=1 -vet=off -v "${flags[@]}" "$1" >/tmp/log 2>&1 </dev/null
status=$?
grep -aE '^(--- (PASS|SKIP|FAIL)|PASS|FAIL|ok)' /tmp/log |
  sed -E 's/[ \t]+\(?[0-9.]+s\)?( \[no tests to run\])?$/\1/' | sort
! grep -aq '^--- PASS' /tmp/log || exit 0
[ $status = 0 ] || tail -n 120 /tmp/log >&2
exit $status
