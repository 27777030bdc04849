#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "cuda_abi.h"

namespace ckpt::cuda {

/// Where a GPU sits.
struct DevicePlace {
  /// domain:bus:device.function, lower case.
  std::string pci_bus_id;
  /// NUMA node the slot hangs on; -1 where the system does not say.
  int numa_node = -1;
  /// CPUs of that node or slot in the kernel's list format ("0-15,32"); empty where the system does not say.
  std::string cpus;
};

DevicePlace PlaceOf(abi::Device device);

/// What a GPU is and where it sits.
struct DeviceInfo {
  int index = 0;
  std::string name;
  /// As nvidia-smi writes it: GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx.
  std::string uuid;
  DevicePlace place;
  /// For example 90.
  int compute_capability = 0;
  std::size_t total_bytes = 0;
  /// By device index: whether this device can read and write that one's memory over NVLink or PCIe.
  std::vector<bool> peer_access;
};

/// All devices, ascending by index. @throws Error ADDON_UNAVAILABLE where CUDA cannot be used.
std::vector<DeviceInfo> ListDevices();

}  // namespace ckpt::cuda
