# SPDX-License-Identifier: Apache-2.0
# nginx as a daemon with two workers: static files, a large one, reload, stop.
set -e
mkdir -p /tmp/www; echo hello > /tmp/www/index.html; head -c 3000000 /dev/zero > /tmp/www/big; printf 'worker_processes 2;pid /tmp/n.pid;error_log /tmp/n.err;events{}http{access_log /tmp/n.log;server{listen 127.0.0.1:8088;root /tmp/www;sendfile on;}}' > /tmp/n.conf
nginx -c /tmp/n.conf; get() { exec 3<>/dev/tcp/127.0.0.1/8088; printf 'GET %s HTTP/1.0\r\n\r\n' $1 >&3; cat <&3; exec 3>&-; }
get / | tail -n 1; get /big | tail -c 3000000 | md5sum; get /no | head -n 1 | tr -d '\r'; for i in $(seq 50); do get / > /dev/null; done; wc -l < /tmp/n.log; nginx -c /tmp/n.conf -s reload; sleep 0.5; get / | tail -n 1; nginx -c /tmp/n.conf -s quit; sleep 0.5; [ ! -e /tmp/n.pid ] && echo stopped
