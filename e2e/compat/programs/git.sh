# SPDX-License-Identifier: Apache-2.0
# git: a repository with history, branches, merges, gc and clones.
set -e
export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z' HOME=/tmp GIT_CONFIG_NOSYSTEM=1
cd /tmp; git config --global user.name t; git config --global user.email t@example.com; git config --global init.defaultBranch main; git config --global advice.detachedHead false
git init -q r; cd r; for i in $(seq 30); do mkdir -p d$((i % 5)); seq $i 400 > d$((i % 5))/f$i; git add -A; git commit -q -m "commit $i"; done
git log --oneline | wc -l; git rev-parse HEAD; git checkout -q -b side HEAD~5; echo side > side; git add side; git commit -q -m side; git checkout -q main; git merge -q --no-edit side; git log --merges --oneline | wc -l
git status --short | wc -l; git diff HEAD~3 --stat | tail -n 1; git gc -q --prune=now; ls .git/objects/pack | wc -l > /dev/null; git fsck --full 2>&1 | grep -v '^Checking' || true; git count-objects -v | grep -E '^(count|packs)'
cd ..; git clone -q r c; git clone -q --no-hardlinks --bare r b.git; git clone -q file:///tmp/b.git c2; cd c2; git log -1 --format=%H; echo more > more; git add more; git commit -q -m more; git push -q origin main; cd ../b.git; git log -1 --format='%h %s'
cd ../r; git rebase -q side~1 2>/dev/null; git stash list | wc -l; git tag v1; git archive v1 | tar -t | wc -l; git grep -c 399 | wc -l; git blame -s d1/f1 | head -n 1; git worktree add -q ../wt v1; ls ../wt | wc -l; git bisect start -q HEAD HEAD~5 > /dev/null; git bisect reset > /dev/null 2>&1; git repack -adq; git log --stat | md5sum
