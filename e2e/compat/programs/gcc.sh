# SPDX-License-Identifier: Apache-2.0
# gcc and g++: C and C++ programs with threads, exceptions, static and shared libraries.
set -e
cd /tmp; cat > a.c <<'C'
#include <stdio.h>
#include <stdlib.h>
#include <pthread.h>
#include <math.h>
int twice(int); static void *f(void *p) { long s = 0; for (int i = 0; i < 1000000; i++) s += i ^ (long)p; return (void *)s; }
int main(void) { pthread_t t[8]; long sum = 0; for (long i = 0; i < 8; i++) pthread_create(&t[i], 0, f, (void *)i);
  for (int i = 0; i < 8; i++) { void *r; pthread_join(t[i], &r); sum += (long)r; } printf("%ld %d %.6f\n", sum, twice(21), sqrt(2)); return twice(2) - 4; }
C
echo 'int twice(int x) { return 2 * x; }' > lib.c
gcc -O2 -Wall -c lib.c && ar rcs libtwice.a lib.o && gcc -O2 -Wall a.c -o a1 -L. -ltwice -lm -pthread && ./a1
gcc -O2 -fPIC -shared lib.c -o libtwice.so && gcc a.c -o a2 -L. -ltwice -Wl,-rpath,/tmp -lm -pthread && ./a2; gcc -static a.c lib.c -o a3 -lm -pthread && ./a3
cat > b.cc <<'C'
#include <iostream>
#include <map>
#include <memory>
#include <regex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
int main() { std::map<std::string, int> m; for (auto s : {"b", "a", "c"}) m[s]++; for (auto &[k, v] : m) std::cout << k << v << ' ';
  try { throw std::runtime_error("thrown"); } catch (std::exception &e) { std::cout << e.what() << ' '; }
  std::atomic<int> n{0}; std::vector<std::jthread> t; for (int i = 0; i < 8; i++) t.emplace_back([&] { for (int j = 0; j < 10000; j++) n++; }); t.clear(); std::cout << n << ' ';
  std::cout << std::async(std::launch::async, [] { return 42; }).get() << ' ' << std::regex_match("aab", std::regex("a+b")) << '\n';
  std::filesystem::create_directories("/tmp/x/y"); std::ofstream("/tmp/x/y/z") << "z"; for (auto &e : std::filesystem::recursive_directory_iterator("/tmp/x")) std::cout << e.path().filename() << ' '; std::cout << '\n'; }
C
g++ -std=c++20 -O1 b.cc -o b -pthread && ./b; g++ -std=c++20 -O0 -g -flto b.cc -o b2 -pthread && ./b2; ldd b | wc -l; size a1 > /dev/null; nm lib.o | grep -c twice; objdump -d lib.o | tail -n 1 | cut -f3; strip a1 && ./a1
