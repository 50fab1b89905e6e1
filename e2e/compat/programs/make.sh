# SPDX-License-Identifier: Apache-2.0
# make -j4 of a project of 24 C files.
set -e
mkdir -p /tmp/p && cd /tmp/p; for i in $(seq 24); do printf '#include <stdio.h>\nint f%d(int x) { char b[64]; snprintf(b, 64, "%%d", x); return b[0] + %d; }\n' $i $i > f$i.c; done
{ for i in $(seq 24); do echo "int f$i(int);"; done; echo '#include <stdio.h>'; echo 'int main(void) { int s = 0;'; for i in $(seq 24); do echo "s += f$i($i);"; done; echo 'printf("%d\n", s); return 0; }'; } > main.c
printf 'OBJ := $(patsubst %%.c,%%.o,$(wildcard *.c))\nprog: $(OBJ)\n\t@$(CC) -o $@ $^\n%%.o: %%.c\n\t@$(CC) -O1 -c -o $@ $<\n.PHONY: clean\nclean:\n\t@rm -f $(OBJ) prog\n' > Makefile
make -s -j4 && ./prog; make -q && echo "up to date"; touch f3.c; make -n -j4 | grep -c 'f3.c'; make -s clean; ls *.o 2>/dev/null | wc -l; make -s -j4 -O && ./prog
