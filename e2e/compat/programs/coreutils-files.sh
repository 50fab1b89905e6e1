# SPDX-License-Identifier: Apache-2.0
# File tools.
set -eo pipefail
export LC_ALL=C; mkdir -p /tmp/w/a/b && cd /tmp/w
echo one > f; ln f hard; ln -s f soft; readlink soft; realpath soft; stat -c '%s %h %F %a' f soft a
cp -a f g; cp -r a c; mv g a/g; install -m 750 f a/i; stat -c %a a/i; touch -d '2020-01-02 03:04:05 UTC' f; stat -c %Y f hard
chmod u=rwx,go=r f; stat -c %a f; chown 1000:1000 f; stat -c '%u %g' hard; chgrp 5 f; stat -c %g f
truncate -s 1M big; stat -c '%s %b' big; dd if=/dev/zero of=z bs=64k count=4 status=none; du -k z | cut -f1; fallocate -l 1M fa && stat -c %s fa
mkfifo p; (echo through > p) & cat p; wait; mknod n p; stat -c %F n; mktemp -d /tmp/XXXXXX > /dev/null
ls -la --time-style=+ | awk '{print $1, $2, $NF}' | tail -n +4 | sort; ls -R a c; dir a; vdir a | wc -l
rm -rf c; rmdir a/b; unlink hard; link f again; stat -c %h f; shred -u fa; test ! -e fa; sync; df /tmp | wc -l > /dev/null
basename /x/y.c .c; dirname /x/y.c; pathchk /tmp/w; pwd; test -L soft && echo link; [ f -ef again ] && echo same
chcon x f 2>/dev/null || echo "no selinux"; SHELL=/bin/bash dircolors > /dev/null; ln -sfn a soft; cd -P soft; pwd; cd ..
cp --sparse=always big sparse; cmp big sparse; cp --reflink=auto f r; mv -n f a/; ls | wc -l; find . -newer a/i | wc -l > /dev/null
echo b > x; echo c > y; mv --exchange x y 2>/dev/null || true; cp -b y x; ls x*; tail -f x --pid=$(sh -c 'sleep 0.3 >/dev/null & echo $!') -s 0.1; echo ok
