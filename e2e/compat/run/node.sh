# SPDX-License-Identifier: Apache-2.0
# Runs a test, with the flags that it names, and prints why if it skips itself.
cd /opt/suites/node || exit 9
file=test/parallel/$1.js
[ -e "$file" ] || file=test/parallel/$1.mjs
read -ra flags < <(sed -n 's|^// Flags: *||p' "$file")
node "${flags[@]}" "$file" >/tmp/log 2>&1 </dev/null
status=$?
grep -a '^1\.\.0 # Skipped' /tmp/log
[ $status = 0 ] || tail -n 60 /tmp/log >&2
exit $status
