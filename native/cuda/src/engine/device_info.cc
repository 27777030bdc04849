#include "device_info.h"

#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "driver.h"

namespace ckpt::cuda {
namespace {

std::string FormatUuid(const abi::Uuid& uuid) {
  std::string text = "GPU-";
  for (int i = 0; i < 16; i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", static_cast<unsigned char>(uuid.bytes[i]));
    text += digits;
  }
  return text;
}

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

}  // namespace

DevicePlace PlaceOf(abi::Device device) {
  const Driver& driver = Driver::Get();
  char text[64] = "";
  driver.Check(driver.api().deviceGetPciBusId(text, sizeof text, device), "cuDeviceGetPCIBusId");
  DevicePlace place;
  place.pci_bus_id = text;
  for (char& c : place.pci_bus_id) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const std::string folder = "/sys/bus/pci/devices/" + place.pci_bus_id + "/";
  if (const std::string node = FirstLine(folder + "numa_node"); !node.empty()) place.numa_node = std::atoi(node.c_str());
  place.cpus = FirstLine(folder + "local_cpulist");
  return place;
}

std::vector<DeviceInfo> ListDevices() {
  const Driver& driver = Driver::Get();
  const abi::Api& api = driver.api();
  std::vector<DeviceInfo> devices;
  for (int index = 0; index < driver.devices(); index++) {
    DeviceInfo info;
    info.index = index;
    abi::Device device = 0;
    driver.Check(api.deviceGet(&device, index), "cuDeviceGet");
    char text[256] = "";
    driver.Check(api.deviceGetName(text, sizeof text, device), "cuDeviceGetName");
    info.name = text;
    abi::Uuid uuid{};
    driver.Check(api.deviceGetUuid(&uuid, device), "cuDeviceGetUuid");
    info.uuid = FormatUuid(uuid);
    info.place = PlaceOf(device);
    int major = 0, minor = 0;
    driver.Check(api.deviceGetAttribute(&major, abi::kAttributeComputeCapabilityMajor, device), "cuDeviceGetAttribute");
    driver.Check(api.deviceGetAttribute(&minor, abi::kAttributeComputeCapabilityMinor, device), "cuDeviceGetAttribute");
    info.compute_capability = major * 10 + minor;
    driver.Check(api.deviceTotalMem(&info.total_bytes, device), "cuDeviceTotalMem");
    for (int other = 0; other < driver.devices(); other++) {
      abi::Device peer = 0;
      int can = other == index ? 1 : 0;
      if (other != index && api.deviceGet(&peer, other) == abi::kSuccess) api.deviceCanAccessPeer(&can, device, peer);
      info.peer_access.push_back(can != 0);
    }
    devices.push_back(std::move(info));
  }
  return devices;
}

}  // namespace ckpt::cuda
