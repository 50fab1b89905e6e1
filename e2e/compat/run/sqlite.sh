# SPDX-License-Identifier: Apache-2.0
# Runs a file of tests, as nobody, since some do not work as root, and prints how many ran and failed.
mkdir /tmp/work && chown nobody /tmp/work && cd /tmp/work || exit 9
setpriv --reuid=nobody --regid=nogroup --clear-groups \
  /opt/suites/sqlite/testfixture "/opt/suites/sqlite/test/$1.test" >/tmp/log 2>&1 </dev/null
status=$?
grep -aE '^[0-9]+ errors? out of ' /tmp/log
[ $status = 0 ] || grep -av '\.\.\. Ok$' /tmp/log | tail -n 60 >&2
exit $status
