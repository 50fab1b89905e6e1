# SPDX-License-Identifier: Apache-2.0
# Runs a stressor for two seconds, which checks what it does.
cd /tmp
stress-ng --verify --timeout 2s --oomable --vm-bytes 64m --temp-path /tmp "--$1" 2 >log 2>&1
status=$?
grep -aE 'skipped|fail|not supported|unsuccessful' log | sed -E 's/\[[0-9]+\] ?//g' >&2
[ $status = 0 ] || tail -n 40 log >&2
exit $status
