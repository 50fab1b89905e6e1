# SPDX-License-Identifier: Apache-2.0
# tar, gzip, xz, zstd, bzip2, zip of a tree.
set -eo pipefail
mkdir -p /tmp/t && cd /tmp/t; for d in $(seq 20); do mkdir -p d$d; for f in $(seq 20); do seq $((d * f)) $((d * f + 600)) > d$d/f$f; done; done; ln -s d1/f1 d1/link; ln d1/f1 d1/hard; head -c 20000000 /dev/zero > zero
cd /tmp; h() { (cd $1; find . -type f | LC_ALL=C sort | xargs md5sum | md5sum); }; h t
for c in gzip xz zstd; do tar -c --$c -f t.$c t; mkdir x$c; tar -x --$c -f t.$c -C x$c; h x$c/t; readlink x$c/t/d1/link; stat -c %h x$c/t/d1/hard; rm -r x$c; done
zip -qr t.zip t; mkdir z; unzip -q t.zip -d z; h z/t; tar -c t | gzip -1 | gzip -dc | tar -t | wc -l; xz -T2 -k -0 t/zero; xz -l t/zero.xz | wc -l; zstd -q -T2 -19 t/d1/f1 -o f.zst; zstd -dqc f.zst | md5sum; gzip -t t.gzip; tar -df t.gzip 2>&1 | head -n 3
cp -a t t2; tar -c --sparse -f s.tar t2/zero; stat -c %s s.tar | awk '{ print $1 < 100000 ? "sparse" : "full" }'; busybox tar -cf b.tar t; busybox tar -tf b.tar | wc -l
