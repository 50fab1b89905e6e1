# SPDX-License-Identifier: Apache-2.0
# Runs a module of CPython's tests and prints how many tests ran and were skipped, without the
# times.  What else the tests print goes to standard error.
cd /tmp
python3 -u -m test --verbose "$1" >log 2>&1 </dev/null
status=$?
grep -aE '^Ran [0-9]+ test|^OK|^FAILED \(|^Result: ' log | sed -E 's/ in [0-9.]+s$//'
[ $status = 0 ] || tail -n 120 log >&2
exit $status
