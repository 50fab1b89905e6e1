# SPDX-License-Identifier: Apache-2.0
# Puts the tests of programs, from their Debian source packages, into /opt/suites.  It is run in the root
# file system that is being made, with its packages installed.  What only building needs is removed.
export DEBIAN_FRONTEND=noninteractive
work=/var/tmp/suites to=/opt/suites
build=(dpkg-dev gcc libc6-dev make tcl-dev bison flex libreadline-dev zlib1g-dev)

key=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb-src [signed-by=$key] http://deb.debian.org/debian bookworm main" >/etc/apt/sources.list.d/source.list
apt-get -qq update
apt-get -qq install -y --no-install-recommends "${build[@]}" >/dev/null </dev/null
mkdir -p $work $to
chmod 777 $work

# Unpacks a source package and goes there.
source_of() {
  cd $work
  apt-get -qq source --download-only "$1"
  dpkg-source --no-check -x "$1"_*.dsc "$1" >/dev/null
  cd "$1"
}

# busybox: the scripts, and the configuration of the binary that busybox-static brings.
source_of busybox
mkdir $to/busybox
cp -r testsuite $to/busybox/
cp debian/config/pkg/static $to/busybox/.config
ln -s /bin/busybox $to/busybox/busybox

# redis: the scripts, which start the installed programs.
source_of redis
mkdir -p $to/redis/src
cp -r tests runtest redis.conf sentinel.conf utils $to/redis/
for program in redis-server redis-cli redis-benchmark redis-check-rdb redis-check-aof redis-sentinel; do
  ln -s /usr/bin/$program $to/redis/src/$program
done

# sqlite: its interpreter with the library and hooks for tests.
source_of sqlite3
./configure --disable-silent-rules --enable-all CFLAGS=-O1 >/dev/null
make -s testfixture >/dev/null 2>&1
strip testfixture
mkdir $to/sqlite
cp -r testfixture test $to/sqlite/
mkdir $to/sqlite/ext
for part in $(cd ext && ls -d */test); do
  mkdir -p $to/sqlite/ext/${part%/test}
  cp -r ext/$part $to/sqlite/ext/$part
done

# node: the scripts, run by the installed node.
source_of nodejs
mkdir -p $to/node/test
cp -r test/common test/fixtures test/parallel test/sequential $to/node/test/

# postgres: the driver, the library that tests load, the scripts, and a cluster that is ready.
source_of postgresql-15
./configure -q --without-icu --without-zlib
make -s -C src/backend generated-headers
make -s -C src/test/regress all >/dev/null
mkdir $to/postgres
cp -r src/test/regress/{pg_regress,regress.so,sql,expected,data,parallel_schedule,resultmap} $to/postgres/
chown -R postgres $to/postgres
su postgres -c "/usr/lib/postgresql/15/bin/initdb -D $to/postgres/cluster --no-locale -A trust -N" >/dev/null

cd /
rm -rf $work /etc/apt/sources.list.d/source.list
apt-get -qq purge -y --auto-remove "${build[@]}" >/dev/null </dev/null
