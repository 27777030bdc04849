#include "device_info.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>

#include "ckpt/affinity.h"
#include "ckpt/error.h"
#include "verbs.h"

namespace ckpt::rdma {
namespace {

const std::string kFolder = "/sys/class/infiniband/";

std::string Line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// Returns the last part of the path of the device's PCI function, if it has one.
std::string PciBusId(const std::string& device) {
  char target[512];
  const ssize_t length = readlink((kFolder + device + "/device").c_str(), target, sizeof target - 1);
  if (length <= 0) return "";
  const std::string path(target, static_cast<std::size_t>(length));
  const std::string name = path.substr(path.rfind('/') + 1);
  unsigned domain, bus, slot, function;
  return std::sscanf(name.c_str(), "%x:%x:%x.%x", &domain, &bus, &slot, &function) == 4 ? name : "";
}

int NumaNode(const std::string& device) {
  const std::string text = Line(kFolder + device + "/device/numa_node");
  if (text.empty()) return -1;
  return std::max(-1, std::atoi(text.c_str()));
}

int MtuBytes(ibv_mtu mtu) { return mtu >= IBV_MTU_256 && mtu <= IBV_MTU_4096 ? 128 << mtu : 0; }

const char* StateName(ibv_port_state state) {
  switch (state) {
    case IBV_PORT_NOP:
      return "NOP";
    case IBV_PORT_DOWN:
      return "DOWN";
    case IBV_PORT_INIT:
      return "INIT";
    case IBV_PORT_ARMED:
      return "ARMED";
    case IBV_PORT_ACTIVE:
      return "ACTIVE";
    case IBV_PORT_ACTIVE_DEFER:
      return "ACTIVE_DEFER";
  }
  return "unknown";
}

const char* LinkLayerName(std::uint8_t layer) {
  if (layer == IBV_LINK_LAYER_INFINIBAND) return "InfiniBand";
  return layer == IBV_LINK_LAYER_ETHERNET ? "Ethernet" : "unspecified";
}

/// Gigabits per second of one lane, and lanes, by their codes in the port's attributes (InfiniBand specification, PortInfo).
double Rate(std::uint8_t speed, std::uint8_t width) {
  double lane = 0;
  switch (speed) {
    case 1:
      lane = 2.5;
      break;
    case 2:
      lane = 5;
      break;
    case 4:
    case 8:
      lane = 10;
      break;
    case 16:
      lane = 14;
      break;
    case 32:
      lane = 25;
      break;
    case 64:
      lane = 50;
      break;
    case 128:
      lane = 100;
      break;
  }
  const int lanes = width == 1 ? 1 : width == 2 ? 4 : width == 4 ? 8 : width == 8 ? 12 : width == 16 ? 2 : 0;
  return lane * lanes;
}

std::vector<GidInfo> Gids(const std::string& device, ibv_context* context, int port, int entries) {
  std::vector<GidInfo> gids;
  const std::string folder = kFolder + device + "/ports/" + std::to_string(port) + "/gid_attrs/";
  for (int index = 0; index < entries; index++) {
    union ibv_gid raw;
    if (Verbs::Api().query_gid(context, static_cast<std::uint8_t>(port), index, &raw) != 0) continue;
    GidInfo info;
    info.index = index;
    std::copy(std::begin(raw.raw), std::end(raw.raw), info.gid.begin());
    if (std::all_of(info.gid.begin(), info.gid.end(), [](std::uint8_t byte) { return byte == 0; })) continue;
    info.type = Line(folder + "types/" + std::to_string(index));
    if (info.type == "IB/RoCE v1") info.type = "RoCE v1";
    info.interface = Line(folder + "ndevs/" + std::to_string(index));
    gids.push_back(std::move(info));
  }
  return gids;
}

PortInfo Port(const std::string& device, ibv_context* context, int number) {
  PortInfo port;
  port.number = number;
  ibv_port_attr attributes;
  if (Verbs::Get().QueryPort(context, static_cast<std::uint8_t>(number), &attributes) != 0) {
    port.state = "unknown";
    return port;
  }
  port.state = StateName(attributes.state);
  port.link_layer = LinkLayerName(attributes.link_layer);
  port.active_mtu = MtuBytes(attributes.active_mtu);
  port.max_mtu = MtuBytes(attributes.max_mtu);
  port.lid = attributes.lid;
  port.gigabits_per_second = Rate(attributes.active_speed, attributes.active_width);
  port.gids = Gids(device, context, number, attributes.gid_tbl_len);
  if (port.link_layer == std::string("InfiniBand")) {
    for (GidInfo& gid : port.gids) gid.type = "IB";
  }
  return port;
}

DeviceInfo Describe(ibv_device* device) {
  const VerbsApi& api = Verbs::Api();
  DeviceInfo info;
  info.name = api.get_device_name(device);
  info.pci_bus_id = PciBusId(info.name);
  info.numa_node = NumaNode(info.name);
  info.cpus = Line(kFolder + info.name + "/device/local_cpulist");
  info.node_guid = Line(kFolder + info.name + "/node_guid");
  errno = 0;
  const std::unique_ptr<ibv_context, int (*)(ibv_context*)> context(api.open_device(device), api.close_device);
  if (context == nullptr) {
    info.problem = "cannot be opened" + (errno == 0 ? std::string() : ": " + Error::Describe(errno)) +
                   "; a container needs /dev/infiniband and may lock memory";
    return info;
  }
  ibv_device_attr attributes{};
  if (const int result = api.query_device(context.get(), &attributes); result != 0) {
    info.problem = "cannot be queried: " + Error::Describe(result);
    return info;
  }
  info.firmware = std::string(attributes.fw_ver, strnlen(attributes.fw_ver, sizeof attributes.fw_ver));
  info.vendor_id = attributes.vendor_id;
  info.vendor_part_id = attributes.vendor_part_id;
  info.max_queue_pairs = attributes.max_qp;
  info.max_work_requests = attributes.max_qp_wr;
  info.max_reads_out = attributes.max_qp_init_rd_atom;
  info.max_reads_in = attributes.max_qp_rd_atom;
  info.max_region_bytes = static_cast<double>(attributes.max_mr_size);
  for (int number = 1; number <= attributes.phys_port_cnt; number++) {
    info.ports.push_back(Port(info.name, context.get(), number));
  }
  return info;
}

}  // namespace

std::vector<DeviceInfo> ListDevices() {
  const VerbsApi& api = Verbs::Api();
  int count = 0;
  errno = 0;
  const std::unique_ptr<ibv_device*, void (*)(ibv_device**)> list(api.get_device_list(&count), api.free_device_list);
  std::vector<DeviceInfo> devices;
  if (list == nullptr) {
    // A kernel without RDMA has no devices: that is an answer, not a failure.
    if (errno == ENOSYS || errno == ENOENT || errno == 0) return devices;
    throw Error::System(ckpt::code::kNativeFailure, "ibv_get_device_list", errno);
  }
  for (int i = 0; i < count; i++) devices.push_back(Describe(list.get()[i]));
  std::sort(devices.begin(), devices.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return devices;
}

std::vector<int> NearCpus(const std::string& device) { return ParseList(Line(kFolder + device + "/device/local_cpulist")); }

}  // namespace ckpt::rdma
