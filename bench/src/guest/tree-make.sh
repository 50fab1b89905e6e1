# SPDX-License-Identifier: Apache-2.0
# tree-make.sh DIRECTORY FILES: a tree of so many files of 1 KiB and more as a git repository, and as
# an archive.
set -euo pipefail
mkdir -p "$1/tree"
cd "$1/tree"
printf -v line '%063d' 0
for ((file = 0; file < $2; file++)); do
  ((file % 100)) || mkdir "directory-$((file / 100))"
  for ((number = 0; number < 16 + file % 8; number++)); do
    echo "$line"
  done > "directory-$((file / 100))/file-$file"
  echo "$file" >> "directory-$((file / 100))/file-$file"
done
git init --quiet
git config gc.auto 0
git add --all
git -c user.name=bench -c user.email=bench@localhost commit --quiet --message=all
tar -cf ../tree.tar --exclude=.git .
