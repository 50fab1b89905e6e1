# SPDX-License-Identifier: Apache-2.0
# Perl: fork, pipes, files, signals, sorting, modules.
set -e
perl -e 'use strict; use warnings; $|=1; my %h; $h{$_ % 10}++ for 1..1000; print join(",", map {"$_=$h{$_}"} sort keys %h), "\n";
my $pid = open(my $k, "-|") // die; if (!$pid) { print "from child\n"; exit 3 } print <$k>; close $k; print $? >> 8, "\n";
local $SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; select undef, undef, undef, 5; }; print $@;
open(my $f, "+>", "/tmp/pf") or die; flock($f, 2) or die; print $f "line $_\n" for 1..1000; seek $f, 0, 0; my @l = <$f>; print scalar(@l), " $l[-1]";
print join(" ", (stat "/tmp/pf")[7, 3]), "\n"; my @k = map { my $p = fork; exit($_) unless $p; $p } 1..5; print join(",", map { waitpid $_, 0; $? >> 8 } @k), "\n";
system("sh", "-c", "kill -9 \$\$"); print $? & 127, "\n"; print `echo backtick`; my $s = "a1b22"; print join("|", $s =~ /(\d+)/g), "\n";'
perl -MPOSIX -e 'print POSIX::strftime("%F", gmtime 0), " ", POSIX::floor(2.7), "\n"; my ($r,$w)=POSIX::pipe(); POSIX::write($w,"x",1); print POSIX::read($r,my $b,1), "\n"'
perl -MDigest::MD5=md5_hex -MTime::HiRes=sleep -MFile::Temp=tempdir -MCwd -MList::Util=sum -e 'sleep 0.01; my $d=tempdir(CLEANUP=>1); chdir $d; print cwd() eq $d ? "cwd\n" : "no\n"; print md5_hex("a"), " ", sum(1..100), "\n"; chdir "/"'
perl -Mthreads -Mthreads::shared -e 'my $n :shared = 0; $_->join for map { threads->create(sub { for (1..100) { lock $n; $n++ } }) } 1..4; print "$n\n"' 2>&1
seq 100000 | perl -lne '$s += $_; END { print $s }'
