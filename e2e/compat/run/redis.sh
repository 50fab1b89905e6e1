# SPDX-License-Identifier: Apache-2.0
# Runs a file of tests and prints what came of each, without the times.
cd /opt/suites/redis || exit 9
./runtest --single "$1" --clients 1 >/tmp/log 2>&1 </dev/null
status=$?
sed -E 's/\x1b\[[0-9;]*m//g; s/ \([0-9]+ ms\)$//' /tmp/log |
  grep -aE '^\[(ok|err|skip|ignore|exception)\]: ' | sort
[ $status = 0 ] || tail -n 60 /tmp/log >&2
exit $status
