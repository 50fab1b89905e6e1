# SPDX-License-Identifier: Apache-2.0
# busybox init as the first process of a pid namespace of its own would need a privilege; here it is
# PID 1 of the container: this shell becomes it.
cat > /etc/inittab <<'T'
::sysinit:/bin/sh -c 'echo sysinit; (sleep 0.2; echo orphan) & exit 0'
::once:/bin/sh -c 'sleep 0.1; echo once; sleep 0.5; echo ending; kill -USR1 1'
::shutdown:/bin/echo shutdown
T
exec busybox init
