# SPDX-License-Identifier: Apache-2.0
# Text tools.
set -eo pipefail
cd /tmp; seq 1 200 > n; cp n m; export LC_ALL=C
cat -n n | tail -n 2; tac n | head -n 2; nl n | sed -n 3p; od -c n | head -n 2; od -An -tx1 -N8 n
fold -w 10 <<< "the quick brown fox jumps"; fmt -w 20 <<< "the quick brown fox jumps over"; pr -l 20 n | head -n 5 | tail -n 1 | wc -l
split -l 50 n part-; ls part-* | wc -l; csplit -s n 100; wc -l xx00 xx01
wc n; sum n; cksum n; md5sum n; sha1sum n; sha224sum n; sha256sum n; sha384sum n; sha512sum n; b2sum n
sort -rn n | head -n 3; shuf n | sort -n | cmp - n; sort -R n | sort -n | md5sum; printf 'a\na\nb\n' | uniq -c
comm -12 <(sort n) <(seq 10 20 | sort) | wc -l; printf '1 a\n2 b\n' > j1; printf '1 x\n2 y\n' > j2; join j1 j2
ptx -G <<< "a quick fox" | wc -l; tsort <<< "a b b c"; cut -d' ' -f2 j1; paste j1 j2; tr a-z A-Z < j1
expand <<< $'a\tb'; unexpand -a <<< "a       b" | od -c | head -n 1; base64 <<< hello; base32 <<< hello; basenc --base16 <<< hello
numfmt --to=iec 123456789; factor 720720; expr 6 \* 7; echo "5 k 2 v p" > /dev/null; printf '%s\n' "$(seq -s, 5)"
head -c 10 n | xxd -p 2>/dev/null || head -c 10 n | od -An -tx1; tee t1 t2 < j1 > /dev/null; cmp t1 t2; echo ok
