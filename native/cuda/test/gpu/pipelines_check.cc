// Starts member processes, one a GPU, and says how they ended.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "check.h"
#include "driver.h"

namespace check {
namespace {

pid_t Spawn(const std::string& what, int position, int size, int device, int board) {
  const std::string texts[] = {std::to_string(position), std::to_string(size), std::to_string(device), std::to_string(board)};
  const pid_t pid = fork();
  Require(pid >= 0, "fork");
  if (pid == 0) {
    execl("/proc/self/exe", "cuda_check", "member", what.c_str(), texts[0].c_str(), texts[1].c_str(), texts[2].c_str(),
          texts[3].c_str(), nullptr);
    std::_Exit(127);
  }
  return pid;
}

struct Cluster {
  int fd;
  Board* board;
  std::vector<pid_t> pids;

  Cluster() {
    fd = memfd_create("ckpt-check", 0);
    Require(fd >= 0 && ftruncate(fd, sizeof(Board)) == 0, "memfd");
    board = static_cast<Board*>(mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    Require(board != MAP_FAILED, "the board");
  }
  ~Cluster() {
    munmap(board, sizeof(Board));
    close(fd);
  }
  int Wait(pid_t pid) {
    int status = 0;
    Require(waitpid(pid, &status, 0) == pid, "waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
};

void RunAll(const std::string& what, int size) {
  Cluster cluster;
  for (int m = 0; m < size; m++) cluster.pids.push_back(Spawn(what, m, size, m, cluster.fd));
  for (const pid_t pid : cluster.pids) Require(cluster.Wait(pid) == 0, "a member of " + what);
}

/// Member 1 dies; one that takes its place joins the survivor's second communicator.
void RunDeath(const std::string& what) {
  Cluster cluster;
  const pid_t survivor = Spawn(what, 0, 2, 0, cluster.fd);
  const pid_t victim = Spawn(what, 1, 2, 1, cluster.fd);
  Require(cluster.Wait(victim) == -SIGKILL, "the victim was killed");
  Cluster second;
  // The newcomer finds the survivor's second id in the first slot of a board of its own.
  const auto start = Clock::now();
  while (cluster.board->ids_ready[1].load() == 0) {
    Require(Seconds(Clock::now() - start) < 30, "the survivor starts again");
    usleep(1000);
  }
  second.board->ids[0] = cluster.board->ids[1];
  second.board->ids_ready[0].store(1);
  const pid_t newcomer = Spawn("again", 1, 2, 1, second.fd);
  Require(cluster.Wait(survivor) == 0, "the survivor of " + what);
  Require(cluster.Wait(newcomer) == 0, "the newcomer of " + what);
}

}  // namespace

int CheckPipelines(const std::string& what) {
  const int devices = ckpt::cuda::Driver::Get().devices();
  const int size = std::min(devices, kMostMembers);
  if (what == "random") {
    RunAll("random", 1);
    if (size > 1) RunAll("random", size);
  } else if (what == "rates") {
    RunAll("rates", 1);
    if (size > 1) RunAll("rates", size);
  } else if (what == "pins") {
    RunAll("pins", 1);
    if (size > 1) RunAll("pins", size);
  } else if (what == "orders") {
    if (size > 1) RunAll("orders", size);
  } else if (what == "aborts") {
    if (size > 1) RunAll(what, 2);
  } else if (what == "faults") {
    if (size < 2) {
      std::printf("faults: skipped, there is only one GPU\n");
      return 0;
    }
    RunAll("stuck", 2);
    RunAll("abort", 2);
    RunAll("aborts", 2);
    RunDeath("kill");
    RunDeath("lost");
  } else {
    std::fprintf(stderr, "no check is called %s\n", what.c_str());
    return 2;
  }
  return 0;
}

}  // namespace check
