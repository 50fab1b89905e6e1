# SPDX-License-Identifier: Apache-2.0
# find, grep, sed, awk, xargs, diff, patch.
set -eo pipefail
export LC_ALL=C; cd /usr/share; find /usr/lib/python3 -name '*.py' | wc -l | awk '{ print ($1 > 50) }'; find /usr/include -name 'std*.h' | sort | head -n 3; grep -rl 'struct timespec' /usr/include | wc -l | awk '{ print ($1 > 10) }'
mkdir -p /tmp/f && cd /tmp/f; for i in $(seq 300); do echo "line $i of $((i * 7 % 13))" > "file $i.txt"; done; find . -name '*.txt' -print0 | xargs -0 -n 20 -P 4 cat | sort | md5sum; find . -size -1k -newer /etc/passwd -delete; ls | wc -l | awk '{ print ($1 >= 0) }'
seq 100 | grep -cE '^(.)\1$'; seq 100 | grep -P '^\d0$' | tr '\n' ' '; sed -n '/^5$/,/^8$/p;$=' <(seq 20); seq 5 | sed -E 's/(.)/<\1>/;2d;$a end'; echo a b c > e; sed -i 's/b/B/' e; cat e
seq 1000 | awk '{ s[$1 % 3] += $1 } END { for (i = 0; i < 3; i++) print i, s[i] }'; awk 'BEGIN { "date -u -d @0 +%Y" | getline y; print y; print "piped" | "cat"; close("cat"); printf "%.3f\n", atan2(1, 1) * 4; exit 0 }'; gawk 'BEGIN { PROCINFO["sorted_in"] = "@ind_str_asc"; a["b"]; a["a"]; for (k in a) print k; print strftime("%F", 0, 1) }'
seq 10 > a; sed 's/5/five/' a > b; diff -u --label a --label b a b > p || true; patch -s a p; cmp a b && echo patched; diff -r /etc/default /etc/default && echo same; bc <<< "scale=20; 4*a(1)" 2>/dev/null || bc -l <<< "scale=20; 4*a(1)"; bc -l <<< "scale=20; 4*a(1)"; file /bin/bash | cut -d, -f1-2; less --version | head -n 1 | cut -c1-4; openssl dgst -sha256 a; openssl enc -aes-256-cbc -pbkdf2 -pass pass:x -in a -S 0102030405060708 | md5sum
