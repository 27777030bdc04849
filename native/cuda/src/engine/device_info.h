#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "cuda_abi.h"

namespace ckpt::cuda {

/// Location of a GPU.
struct DevicePlace {
  /// domain:bus:device.function, lower case.
  std::string pci_bus_id;
  /// NUMA node of the slot; -1 if the system does not report it.
  int numa_node = -1;
  /// CPUs of that node or slot in the kernel's list format ("0-15,32"); empty if the system does not report them.
  std::string cpus;
};

DevicePlace PlaceOf(abi::Device device);

/// Properties and location of a GPU.
struct DeviceInfo {
  int index = 0;
  std::string name;
  /// In nvidia-smi's format: GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx.
  std::string uuid;
  DevicePlace place;
  /// For example 90.
  int compute_capability = 0;
  std::size_t total_bytes = 0;
  /// By device index: whether this device can read and write the other one's memory over NVLink or PCIe.
  std::vector<bool> peer_access;
};

/// All devices, ascending by index. @throws Error ADDON_UNAVAILABLE if CUDA cannot be used.
std::vector<DeviceInfo> ListDevices();

}  // namespace ckpt::cuda
