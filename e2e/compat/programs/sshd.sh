# SPDX-License-Identifier: Apache-2.0
# sshd to itself: keys, a command, a terminal, a copy.
set -e
mkdir -p /run/sshd /root/.ssh; ssh-keygen -q -t ed25519 -N '' -f /tmp/host; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id; cp /root/.ssh/id.pub /root/.ssh/authorized_keys; chmod 700 /root/.ssh /root; /usr/sbin/sshd -h /tmp/host -p 2022 -o ListenAddress=127.0.0.1 -o UsePAM=no -o PermitRootLogin=yes
o="-q -i /root/.ssh/id -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"; ssh $o -p 2022 root@127.0.0.1 'echo over ssh; exit 3' || echo "status $?"; ssh $o -tt -p 2022 root@127.0.0.1 tty < /dev/null | cut -c1-8; head -c 500000 /dev/urandom > /tmp/f; scp $o -P 2022 /tmp/f root@127.0.0.1:/tmp/g; cmp /tmp/f /tmp/g && echo copied
