# SPDX-License-Identifier: Apache-2.0
# Runs the tests of an applet and prints what came of each.  Some fail under runc: so must they here.
cd /opt/suites/busybox/testsuite || exit 9
ECHO=/bin/echo timeout 100 ./runtest -v "$1" >/tmp/log 2>&1 </dev/null
grep -aE '^(PASS|FAIL|SKIPPED|UNTESTED): ' /tmp/log | sort
grep -aq '^PASS: ' /tmp/log && exit 0
tail -n 60 /tmp/log >&2
exit 1
