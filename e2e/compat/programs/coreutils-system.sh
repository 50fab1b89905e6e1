# SPDX-License-Identifier: Apache-2.0
# Tools about processes, users and the system.
set -e
export LC_ALL=C
uname -srm | awk '{print $1, $3}'; id; id -un; whoami; groups; logname 2>/dev/null || echo "no login"; tty || true; hostname
nproc > /dev/null; arch; date -u -d @86400 +%F; date +%s > /dev/null; env -i A=1 env; printenv HOME; echo $(($(nice -n 5 nice) - $(nice))); nohup true 2>/dev/null
sleep 0.05; timeout -s INT 0.1 sleep 9 || echo $?; stdbuf -oL echo line; yes | head -n 3; true; false || echo false; seq 3
kill -l | head -n 1; kill -l TERM; uptime > /dev/null; users; who | wc -l; pinky > /dev/null 2>&1 || true; hostid > /dev/null
chroot / /bin/echo chrooted; stty -a < /dev/null 2>/dev/null || echo "not a tty"; test -t 0 || echo "no terminal"; runcon 2>/dev/null || true
ps -e -o comm= | sort -u | head -n 3; ps aux > /dev/null; pgrep -x bash > /dev/null && echo found; free > /dev/null; vmstat > /dev/null
sleep 60 & p=$!; kill -STOP $p; sleep 0.1; ps -o stat= -p $p | cut -c1; kill -CONT $p; sleep 0.1; ps -o stat= -p $p | cut -c1; kill $p; wait $p || echo "ended $?"
pidof sleep || echo none; top -b -n 1 > /dev/null; pstree > /dev/null; killall -0 bash && echo alive; w > /dev/null; pmap $$ | tail -n 1 | grep -c total
sysctl kernel.ostype; getconf PAGESIZE; getent passwd root; getent hosts localhost > /dev/null; locale charmap; echo ok
