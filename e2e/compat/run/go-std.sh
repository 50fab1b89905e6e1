# SPDX-License-Identifier: Apache-2.0
# Runs the tests of a package, as they are installed, and prints which passed.
export GOCACHE=/tmp/go-cache GO111MODULE=off HOME=/tmp PATH=/usr/lib/go-1.19/bin:$PATH
cd "/usr/lib/go-1.19/src/$1" || exit 9
go test -short -count=1 -vet=off -v "$1" >/tmp/log 2>&1 </dev/null
status=$?
grep -aE '^(--- (PASS|SKIP|FAIL)|PASS|FAIL|ok)' /tmp/log | sed -E 's/[ \t]+\(?[0-9.]+s\)?$//' | sort
[ $status = 0 ] || tail -n 120 /tmp/log >&2
exit $status
