// The program that a kernel becomes: it carries out one launch, which it is given as an open file.
//
//   kernel FD           run the launch in that file; exit code 0, or 1 where a report says what went wrong
//   kernel              print what it holds: a line for each kernel and its parameters, each variable and its bytes
//
// Arrays lie in the file, which is mapped so that unmapped pages stand before and behind each of them.  Every worker is
// a process of its own, so that `__shared__` can be a plain static, and takes every n-th cluster; with no clusters, block.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "runtime.h"

#ifdef WITH_ADDRESS
#include <sanitizer/asan_interface.h>
#endif

namespace emulator {

Launch* launch;
Memory* memories;
Range* shared_ranges;
Report* report;
uint64_t page_bytes;
void* argument_values[128];

namespace {

void* pointers[128];

uint64_t program_counter(void* context) {
  const mcontext_t& machine = static_cast<ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
  return machine.gregs[REG_RIP];
#elif defined(__aarch64__)
  return machine.pc;
#else
  return 0;
#endif
}

#ifdef WITH_ADDRESS
const int signals[] = {SIGPROF, SIGSEGV, SIGBUS};
#else
const int signals[] = {SIGPROF, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
#endif
struct sigaction before[64];  // by signal: the sanitizer's

void on_signal(int signal, siginfo_t* info, void* context) {
  const uint64_t pc = program_counter(context);
#ifdef WITH_ADDRESS
  if (signal != SIGPROF && !fail_absent(pc, info->si_addr)) {
    sigaction(signal, &before[signal], nullptr);  // which is asked as the access is tried again
    return;
  }
#endif
  if (signal == SIGPROF) {
    fail_at(last_place(), pc, 0, nullptr, "time-out: the launch still runs after %u s of processor time",
            launch->seconds);
  } else if (signal == SIGFPE) {
    fail_at(last_place(), pc, 0, nullptr, "integer division by zero");
  } else if (signal == SIGILL || signal == SIGTRAP) {
    fail_at(last_place(), pc, 0, nullptr, "trap");
  } else if (on_guard_page(info->si_addr)) {
    fail_at(last_place(), pc, 0, nullptr, "stack overflow: its local variables take more than %llu bytes",
            static_cast<unsigned long long>(launch->stack_bytes));
  } else if (!fail_absent(pc, info->si_addr)) {
    fail_at(last_place(), pc, 0, info->si_addr, "illegal memory access");
  }
  _exit(1);
}

void handle_signals() {
  static char stack[1 << 16];
  const stack_t own = {stack, 0, sizeof stack};
  sigaltstack(&own, nullptr);
  struct sigaction action = {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (int signal : signals) sigaction(signal, &action, &before[signal]);
  const itimerval limit = {{0, 0}, {long(launch->seconds), 0}};
  setitimer(ITIMER_PROF, &limit, nullptr);
}

void need(bool holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "emulator: %s: %s\n", what, strerror(errno));
  exit(2);
}

void map_memory(int file, Memory& memory) {
  char* room = static_cast<char*>(
      mmap(nullptr, memory.pages_bytes + 2 * page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  need(room != MAP_FAILED, "no room for an array");
  char* pages = room + page_bytes;
  need(mmap(pages, memory.pages_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, memory.offset) == pages,
       "an array cannot be mapped");
  memory.address = reinterpret_cast<uint64_t>(pages + memory.data);
#ifdef WITH_ADDRESS
  __asan_poison_memory_region(pages, memory.data);
  const uint64_t end = memory.data + memory.bytes;
  __asan_poison_memory_region(pages + end, memory.pages_bytes - end);
#endif
}

// The number of the k-th cluster that runs.  In the random order, a walk through all of them with a random step.
uint64_t cluster_at(uint64_t k, uint64_t count) {
  if (launch->order == DESCENDING) return count - 1 - k;
  if (launch->order == ASCENDING) return k;
  uint64_t step = (launch->seed * 0x9E3779B97F4A7C15ull >> 16) % count | 1;
  for (uint64_t a = step, b = count;;) {  // until they have no common divisor
    while (b) {
      const uint64_t rest = a % b;
      a = b, b = rest;
    }
    if (a == 1) break;
    a = step += 2, b = count;
  }
  return static_cast<unsigned __int128>(k) * step % count;
}

int work(uint32_t worker, Report* reports) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // whoever waits for it is gone
  report = reports + worker;
  prepare_worker();
  handle_signals();
  races_begin_launch();
  const uint64_t count = launch->clusters;
  for (uint64_t k = worker; k < count; k += launch->workers) {
    for (uint32_t other = 0; other < launch->workers; other++) {
      if (static_cast<volatile Report*>(reports + other)->state == FAILED) return 1;
    }
    if (!run_cluster(launch->first_cluster + cluster_at(k, count))) return 1;
  }
  return 0;
}

int run(int file) {
  page_bytes = sysconf(_SC_PAGESIZE);
  struct stat status;
  need(fstat(file, &status) == 0, "the launch's file cannot be read");
  char* start =
      static_cast<char*>(mmap(nullptr, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
  need(start != MAP_FAILED, "the launch's file cannot be mapped");
  launch = reinterpret_cast<Launch*>(start);
  memories = reinterpret_cast<Memory*>(launch + 1);
  const auto* arguments = reinterpret_cast<Argument*>(memories + launch->memories);
  const auto* kept = reinterpret_cast<const int64_t*>(arguments + launch->arguments);
  shared_ranges = reinterpret_cast<Range*>(const_cast<int64_t*>(kept) + launch->variables);
  auto* reports = reinterpret_cast<Report*>(shared_ranges + launch->shared);

  for (uint32_t i = 0; i < launch->memories; i++) map_memory(file, memories[i]);
  for (uint32_t i = 0; i < launch->arguments; i++) {
    argument_values[i] = start + arguments[i].offset;
    if (arguments[i].memory >= 0) {
      pointers[i] = reinterpret_cast<void*>(memories[arguments[i].memory].address + arguments[i].offset);
      argument_values[i] = &pointers[i];
    }
  }
  for (uint32_t i = 0; i < launch->variables; i++) {
    memcpy(variables[i].address, reinterpret_cast<void*>(memories[kept[i]].address), variables[i].bytes);
  }

  setvbuf(stdout, nullptr, _IOLBF, 0);  // what printf in a kernel says is not split by another worker's
  for (uint32_t worker = 1; worker < launch->workers; worker++) {
    const pid_t child = fork();
    need(child >= 0, "no process for a worker");
    if (child == 0) {
      const int code = work(worker, reports);
      fflush(stdout);
      _exit(code);
    }
  }
  int code = work(0, reports);
  for (uint32_t worker = 1; worker < launch->workers; worker++) {
    int ended = 0;
    wait(&ended);
    if (ended != 0) code = 1;
    if (WIFSIGNALED(ended)) fprintf(stderr, "a worker's process was ended by signal %d\n", WTERMSIG(ended));
  }
  for (uint32_t i = 0; i < launch->variables; i++) {
    memcpy(reinterpret_cast<void*>(memories[kept[i]].address), variables[i].address, variables[i].bytes);
  }
  fflush(stdout);
  return code;
}

void describe() {
  for (int i = 0; i < entry_count; i++) {
    const auto& [name, parameters, cluster, call, function] = entries[i];
    printf("kernel\t%s\t%u %u %u\t%s\n", name, cluster.x, cluster.y, cluster.z, parameters);
  }
  for (int i = 0; i < variable_count; i++) {
    printf("variable\t%s\t", variables[i].name);
    const auto* value = static_cast<const unsigned char*>(variables[i].address);
    for (size_t byte = 0; byte < variables[i].bytes; byte++) printf("%02x", value[byte]);
    printf("\n");
  }
}

}  // namespace
}  // namespace emulator

#if defined(WITH_ADDRESS) || defined(WITH_UNDEFINED)
// The sanitizers say what they found; here is added which thread it was.
extern "C" __attribute__((visibility("default"))) void __asan_on_error() {
  emulator::fail_at(emulator::last_place(), 0, 0, nullptr, "sanitizer");
}
extern "C" __attribute__((visibility("default"))) void __ubsan_on_report() { __asan_on_error(); }
#endif

int main(int count, char** words) {
  if (count == 2) _exit(emulator::run(atoi(words[1])));
  emulator::describe();
  return 0;
}
