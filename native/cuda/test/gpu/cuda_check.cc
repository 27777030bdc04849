// Checks that need GPUs, runnable without Node: `cuda_check [kernels|random|faults|aborts|rates|orders|pins]…`, all but aborts
// by default. `cuda_check load DEVICE SECONDS` keeps a GPU busy the way an engine worker does. Prints what it saw; ends with 0
// when all went well, 77 where there is no GPU.
#include <cstring>

#include "check.h"
#include "ckpt/error.h"
#include "device_info.h"
#include "driver.h"
#include "kernels.h"
#include "nccl.h"

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  try {
    if (argc > 1 && std::strcmp(argv[1], "member") == 0) return check::RunMember(argc, argv);
    const ckpt::cuda::Driver& driver = ckpt::cuda::Driver::Get();
    if (!driver.problem().empty()) {
      std::printf("skipped: %s\n", driver.problem().c_str());
      return 77;
    }
    std::printf("CUDA %d from %s\n", driver.version(), driver.library().path().c_str());
    if (argc == 4 && std::strcmp(argv[1], "load") == 0) return check::LoadGpu(std::atoi(argv[2]), std::atof(argv[3]));
    const ckpt::cuda::Nccl& nccl = ckpt::cuda::Nccl::Get();
    std::printf("NCCL %d from %s %s\n", nccl.version(), nccl.library().path().c_str(), nccl.problem().c_str());
    for (const auto& device : ckpt::cuda::ListDevices()) {
      std::printf("%d: %s %s %s numa %d cpus %s capability %d, %zu bytes, peers:", device.index, device.name.c_str(),
                  device.uuid.c_str(), device.place.pci_bus_id.c_str(), device.place.numa_node, device.place.cpus.c_str(),
                  device.compute_capability, device.total_bytes);
      for (const bool peer : device.peer_access) std::printf(" %d", peer ? 1 : 0);
      std::printf("\n");
    }
    std::vector<std::string> parts(argv + 1, argv + argc);
    if (parts.empty()) parts = {"kernels", "random", "faults", "rates", "orders", "pins"};
    for (const std::string& part : parts) {
      const int status = part == "kernels" ? check::CheckKernels() : check::CheckPipelines(part);
      if (status != 0) return status;
    }
    std::printf("all checks passed\n");
    return 0;
  } catch (const ckpt::Error& error) {
    std::fprintf(stderr, "FAILED: %s: %s\n", error.code().c_str(), error.what());
    return 1;
  }
}
