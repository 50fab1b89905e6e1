# SPDX-License-Identifier: Apache-2.0
# The shell itself: expansion, functions, traps, here documents, process substitution, jobs.
set -eo pipefail
declare -A map=([one]=1 [two]=2); for k in one two; do echo "$k=${map[$k]}"; done
f() { local x=$1; echo "f $((x * 2)) ${FUNCNAME[0]}"; }; f 21
diff <(seq 3) <(seq 4) || echo "differ: $?"
cat <<< "here string"; cat <<X
here document $(( 6 * 7 ))
X
trap 'echo usr1' USR1; kill -USR1 $$; trap - USR1
(trap 'echo bye' EXIT; exit 3) || echo "status $?"
set +e; sh -c 'kill -TERM $$' ; echo "term $?"; false | true; echo "pipe ${PIPESTATUS[*]}"; set -e
sleep 0.1 & wait $!; echo "waited $?"
for i in 1 2 3; do (exit $i) & pids+=($!); done; for p in "${pids[@]}"; do wait "$p" || echo "child $?"; done
coproc cat; echo "to coproc" >&"${COPROC[1]}"; read -r line <&"${COPROC[0]}"; echo "$line"
exec {out}>/tmp/out; echo text >&$out; exec {out}>&-; cat /tmp/out
mapfile -t lines < <(printf 'a\nb\n'); echo "${#lines[@]} ${lines[1]}"
[[ abc =~ ^a(.)c$ ]] && echo "${BASH_REMATCH[1]}"; printf '%05.1f|%-4s|%q\n' 3.14159 ab 'a b'
read -r -t 0.2 x < <(sleep 1) || echo "read timed out"; ulimit -n >/dev/null; umask 027; umask
type -t cd; echo {a..e}{1,2}; v=hello; echo "${v^^} ${v/l/L} ${v:1:3} ${#v} ${v%lo}"
timeout 0.2 sleep 5 || echo "timeout $?"; echo done
