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
  /// "IB", "RoCE v1" or "RoCE v2", or "" if the kernel does not report it.
  std::string type;
  /// The network interface behind it; empty if there is none.
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
  /// Speed times width; 0 if unknown.
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
  /// -1 if the system does not report it.
  int numa_node = -1;
  /// CPUs near the device in the kernel's form; empty if not reported.
  std::string cpus;
  int max_queue_pairs = 0;
  int max_work_requests = 0;
  /// Maximum concurrent READs of one queue pair as requester, and as responder.
  int max_reads_out = 0;
  int max_reads_in = 0;
  double max_region_bytes = 0;
  std::vector<PortInfo> ports;
  /// Reason why the device cannot be queried; then everything except its name and place is empty.
  std::string problem;
};

/// Lists every RDMA device of this machine, by name. @throws Error ADDON_UNAVAILABLE without libibverbs, NATIVE_FAILURE.
std::vector<DeviceInfo> ListDevices();

/// Returns CPUs near a device, for binding threads; empty if the system does not report them.
std::vector<int> NearCpus(const std::string& device);

}  // namespace ckpt::rdma
