#include "../engine/device_info.h"
#include "../engine/verbs.h"
#include "ckpt/napi/environment.h"
#include "objects.h"

namespace ckpt::rdma {
namespace {

struct Found {
  std::vector<DeviceInfo> devices;
  std::string problem;
};

Napi::Value TextOrNothing(Napi::Env env, const std::string& text) {
  return text.empty() ? env.Undefined() : Napi::Value(Napi::String::New(env, text));
}

Napi::Object ToJs(Napi::Env env, const GidInfo& gid) {
  Napi::Object result = Napi::Object::New(env);
  result.Set("index", gid.index);
  result.Set("gid", GidText(gid.gid));
  result.Set("type", TextOrNothing(env, gid.type));
  result.Set("interface", TextOrNothing(env, gid.interface));
  return result;
}

Napi::Object ToJs(Napi::Env env, const PortInfo& port) {
  Napi::Object result = Napi::Object::New(env);
  result.Set("port", port.number);
  result.Set("state", port.state);
  result.Set("linkLayer", port.link_layer);
  result.Set("activeMtu", port.active_mtu);
  result.Set("maxMtu", port.max_mtu);
  result.Set("lid", port.lid);
  result.Set("gigabitsPerSecond", port.gigabits_per_second);
  Napi::Array gids = Napi::Array::New(env);
  for (std::uint32_t i = 0; i < port.gids.size(); i++) gids.Set(i, ToJs(env, port.gids[i]));
  result.Set("gids", gids);
  return result;
}

Napi::Object ToJs(Napi::Env env, const DeviceInfo& info) {
  Napi::Object result = Napi::Object::New(env);
  result.Set("name", info.name);
  result.Set("problem", TextOrNothing(env, info.problem));
  result.Set("nodeGuid", info.node_guid);
  result.Set("firmware", info.firmware);
  result.Set("vendorId", info.vendor_id);
  result.Set("vendorPartId", info.vendor_part_id);
  result.Set("pciBusId", TextOrNothing(env, info.pci_bus_id));
  result.Set("numaNode", info.numa_node);
  result.Set("cpus", info.cpus);
  result.Set("maxQueuePairs", info.max_queue_pairs);
  result.Set("maxWorkRequests", info.max_work_requests);
  result.Set("maxReadsOut", info.max_reads_out);
  result.Set("maxReadsIn", info.max_reads_in);
  result.Set("maxRegionBytes", info.max_region_bytes);
  Napi::Array ports = Napi::Array::New(env);
  for (std::uint32_t i = 0; i < info.ports.size(); i++) ports.Set(i, ToJs(env, info.ports[i]));
  result.Set("ports", ports);
  return result;
}

/// probe(): Promise<what exists and what is missing>. Never rejects for missing parts.
Napi::Value Probe(const Napi::CallbackInfo& info) {
  return Environment::Of(info.Env())
      .Run(
          [](const Task&) {
            Found found;
            found.problem = Verbs::Get().problem();
            if (!found.problem.empty()) return found;
            try {
              found.devices = ListDevices();
            } catch (const Error& error) {
              found.problem = error.what();
            }
            return found;
          },
          [](Napi::Env env, Found& found) -> Napi::Value {
            Napi::Object result = Napi::Object::New(env);
            result.Set("available", found.problem.empty());
            result.Set("problem", TextOrNothing(env, found.problem));
            result.Set("path", TextOrNothing(env, Verbs::Get().library().path()));
            result.Set("dmabuf", Verbs::Get().can_register_dmabuf());
            Napi::Array devices = Napi::Array::New(env);
            for (std::uint32_t i = 0; i < found.devices.size(); i++) devices.Set(i, ToJs(env, found.devices[i]));
            result.Set("devices", devices);
            return result;
          });
}

}  // namespace

void RegisterProbe(Napi::Env env, Napi::Object exports) { exports.Set("probe", Napi::Function::New(env, Probe, "probe")); }

}  // namespace ckpt::rdma
