# SPDX-License-Identifier: Apache-2.0
# compute.sh DIRECTORY ROUNDS PYTHON: work that needs little but the processor.  Prints
# `NAME NANOSECONDS`; each is done once more before, for the caches.  PYTHON is the program text.
set -euo pipefail
rounds=$2 python=$3
work=$(mktemp -d)
cd "$work"

# A project of 20 files, each of 12 functions.
for ((file = 0; file < 20; file++)); do
  {
    echo '#include <stdio.h>'
    echo '#include <stdlib.h>'
    echo '#include <string.h>'
    for ((number = 0; number < 12; number++)); do
      echo "static unsigned mix_$number(unsigned value, const char *text) {"
      echo "  for (size_t at = 0; at < strlen(text); at++) switch ((value ^ text[at]) % 5) {"
      echo "    case 0: value = value * ${number}7u + at; break; case 1: value ^= value >> 7; break;"
      echo "    case 2: value += $((file * 100 + number)); break; default: value = (value << 3) | (value >> 29);"
      echo "  }"
      echo "  return value;"
      echo "}"
    done
    echo "unsigned file_$file(unsigned value) {"
    for ((number = 0; number < 12; number++)); do
      echo "  value = mix_$number(value, \"function $number of $file\");"
    done
    echo "  return value;"
    echo "}"
  } > "file$file.c"
done
{
  echo '#include <stdio.h>'
  for ((file = 0; file < 20; file++)); do echo "unsigned file_$file(unsigned);"; done
  echo 'int main(void) { unsigned value = 1;'
  for ((file = 0; file < 20; file++)); do echo "  value = file_$file(value);"; done
  echo '  return printf("%u\n", value) < 2; }'
} > main.c

for ((round = 0; round <= rounds; round++)); do
  begun=$EPOCHREALTIME
  for source in *.c; do gcc -O1 -c "$source"; done
  gcc -o program ./*.o
  ./program > answer
  ended=$EPOCHREALTIME
  [ "$round" = 0 ] || echo "compile $((${ended/./} - ${begun/./}))000"

  # +F:number:name:bytes per second
  line=$(openssl speed -mr -seconds 1 -bytes 16384 -evp sha256 2> /dev/null | grep '^+F:')
  rate=${line##*:}
  [ "$round" = 0 ] || echo "hash $(((1 << 20) * 1000000000 / ${rate%.*}))"
done
python3 -c "$python" "$rounds"
