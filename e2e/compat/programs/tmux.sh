# SPDX-License-Identifier: Apache-2.0
# tmux: a detached session, keys sent to it, what its pane shows.
set -e
export TERM=screen LC_ALL=C.UTF-8; tmux -f /dev/null new-session -d -x 80 -y 24 'bash --norc'; tmux send-keys 'echo $((6*7)) from tmux' Enter; for i in $(seq 50); do tmux capture-pane -p | grep -q '^42 from tmux' && break; sleep 0.1; done
tmux capture-pane -p | grep '^42'; tmux split-window 'sleep 100'; tmux list-panes | wc -l; tmux resize-pane -y 5; tmux kill-server; sleep 0.2; tmux ls 2>&1 | cut -c1-2
