# SPDX-License-Identifier: Apache-2.0
# apt-get install of a local package, with its scripts, and its removal.
set -e
mkdir -p /tmp/hello/DEBIAN /tmp/hello/usr/bin /tmp/hello/etc; cd /tmp; printf '#!/bin/sh\necho packaged\n' > hello/usr/bin/hello-compat; chmod 755 hello/usr/bin/hello-compat; echo conf > hello/etc/hello-compat.conf; echo /etc/hello-compat.conf > hello/DEBIAN/conffiles
printf 'Package: hello-compat\nVersion: 1.0\nArchitecture: all\nMaintainer: T <t@example.com>\nDepends: bash\nDescription: a test\n' > hello/DEBIAN/control
printf '#!/bin/sh\nset -e\necho "postinst $1"\n' > hello/DEBIAN/postinst; printf '#!/bin/sh\necho "prerm $1"\n' > hello/DEBIAN/prerm; chmod 755 hello/DEBIAN/postinst hello/DEBIAN/prerm
dpkg-deb --root-owner-group -b hello hello.deb > /dev/null; export DEBIAN_FRONTEND=noninteractive; apt-get install -y -q ./hello.deb 2>&1 | grep -E 'postinst|Setting up|newly installed'; hello-compat; dpkg -s hello-compat | grep -E '^(Status|Version)'; dpkg -L hello-compat | tail -n 1; dpkg -V hello-compat && echo verified
sed -i 's/1.0/1.1/' hello/DEBIAN/control; dpkg-deb --root-owner-group -b hello hello2.deb > /dev/null; dpkg -i hello2.deb 2>&1 | grep -E 'Unpacking|postinst'; apt-get remove -y -q hello-compat 2>&1 | grep -E 'prerm|Removing'; ls /etc/hello-compat.conf; apt-get purge -y -q hello-compat > /dev/null 2>&1; ls /etc/hello-compat.conf 2>&1 | tail -n 1; dpkg --audit; dpkg -l | grep -c '^ii' | awk '{ print ($1 > 100) }'; apt-cache policy bash | sed -n 1,2p | cut -c1-12
