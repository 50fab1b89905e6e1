# SPDX-License-Identifier: Apache-2.0
# Runs a file of tests and prints how many ran and failed.
mkdir /tmp/work && cd /tmp/work || exit 9
/opt/suites/sqlite/testfixture "/opt/suites/sqlite/test/$1.test" >/tmp/log 2>&1 </dev/null
status=$?
grep -aE '^[0-9]+ errors? out of ' /tmp/log
[ $status = 0 ] || tail -n 60 /tmp/log >&2
exit $status
