# SPDX-License-Identifier: Apache-2.0
# tree.sh DIRECTORY ROUNDS: git and tar in a tree of many files on a volume.  Prints
# `NAME NANOSECONDS`; each is done once more before, for the caches and for git's index.
set -euo pipefail
cd "$1"
for ((round = 0; round <= $2; round++)); do
  begun=$EPOCHREALTIME
  git -C tree status --porcelain > /tmp/status
  ended=$EPOCHREALTIME
  [ ! -s /tmp/status ] || { echo "git finds changes" >&2; exit 1; }
  [ "$round" = 0 ] || echo "git $((${ended/./} - ${begun/./}))000"

  mkdir unpacked
  begun=$EPOCHREALTIME
  tar -xf tree.tar -C unpacked
  ended=$EPOCHREALTIME
  [ "$round" = 0 ] || echo "tar $((${ended/./} - ${begun/./}))000"
  rm -rf unpacked
done
