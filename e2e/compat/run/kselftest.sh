# SPDX-License-Identifier: Apache-2.0
# Runs a program and prints what came of each of its tests.  Some fail under runc: so must they here.
cd "/opt/kselftest/${1%/*}" || exit 9
timeout 50 "./${1##*/}" >/tmp/log 2>&1 </dev/null
status=$?
grep -aE '^(ok|not ok) ' /tmp/log | sed -E 's/ in [0-9.]+ ?[mun]?s//; s/\[[0-9]+\]//'
! grep -aq '^ok ' /tmp/log || exit 0
[ $status = 0 ] || tail -n 60 /tmp/log >&2
exit $status
