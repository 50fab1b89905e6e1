# SPDX-License-Identifier: Apache-2.0
# apt and its database, without a network.
set -e
apt-mark showmanual | wc -l | awk '{ print ($1 > 10) }'; dpkg-query -W -f '${Status}\n' bash; dpkg -S /bin/bash | cut -d: -f1; apt-config dump | grep -c '^APT::Architecture '; dpkg --print-architecture; update-alternatives --display awk | head -n 1; debconf-show bash; ldconfig -p | wc -l | awk '{ print ($1 > 50) }'; perl -MDpkg::Version -e 'print version_compare("1.0","1.1"), "\n"' 2>/dev/null || echo "no Dpkg"
