#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gid.h"

namespace ckpt::rdma {

/// One used entry of a port's GID table.
struct GidInfo {
  int index = 0;
  Gid gid{};
  /// "IB", "RoCE v1" or "RoCE v2", or "" where the kernel does not say.
  std::string type;
  /// The network interface behind it; empty where there is none.
  std::string interface;
};

struct PortInfo {
  int number = 0;
  /// "ACTIVE", "DOWN", "INIT", "ARMED", "ACTIVE_DEFER" or "NOP".
  std::string state;
  /// "InfiniBand", "Ethernet" or "unspecified".
  std::string link_layer;
  /// Bytes.
  int active_mtu = 0;
  int max_mtu = 0;
  std::uint32_t lid = 0;
  /// Speed times width; 0 where that is not known.
  double gigabits_per_second = 0;
  std::vector<GidInfo> gids;
};

struct DeviceInfo {
  std::string name;
  std::string node_guid;
  std::string firmware;
  std::uint32_t vendor_id = 0;
  std::uint32_t vendor_part_id = 0;
  /// domain:bus:device.function; empty for a device without one.
  std::string pci_bus_id;
  /// -1 where the system does not say.
  int numa_node = -1;
  /// CPUs near the device as the kernel lists them; empty where it does not.
  std::string cpus;
  int max_queue_pairs = 0;
  int max_work_requests = 0;
  /// READs that one queue pair may have under way as the one who asks, and as the one who answers.
  int max_reads_out = 0;
  int max_reads_in = 0;
  double max_region_bytes = 0;
  std::vector<PortInfo> ports;
  /// Why the device cannot be asked; then all but its name and place is empty.
  std::string problem;
};

/// Every RDMA device of this machine, by name. @throws Error ADDON_UNAVAILABLE without libibverbs, NATIVE_FAILURE.
std::vector<DeviceInfo> ListDevices();

/// CPUs near a device, for binding threads to; empty where the system does not say.
std::vector<int> NearCpus(const std::string& device);

}  // namespace ckpt::rdma
