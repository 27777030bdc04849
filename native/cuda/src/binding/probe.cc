#include "../engine/device_info.h"
#include "../engine/driver.h"
#include "../engine/nccl.h"
#include "ckpt/napi/environment.h"
#include "objects.h"

namespace ckpt::cuda {
namespace {

struct Found {
  std::vector<DeviceInfo> devices;
  std::string problem;
};

Napi::Array ToJs(Napi::Env env, const std::vector<Attempt>& attempts) {
  Napi::Array array = Napi::Array::New(env);
  for (std::uint32_t i = 0; i < attempts.size(); i++) {
    Napi::Object attempt = Napi::Object::New(env);
    attempt.Set("name", attempts[i].name);
    attempt.Set("error", attempts[i].error.empty() ? env.Undefined() : Napi::String::New(env, attempts[i].error));
    array.Set(i, attempt);
  }
  return array;
}

Napi::Object ToJs(Napi::Env env, const DeviceInfo& info) {
  Napi::Object device = Napi::Object::New(env);
  device.Set("index", info.index);
  device.Set("name", info.name);
  device.Set("uuid", info.uuid);
  device.Set("pciBusId", info.place.pci_bus_id);
  device.Set("numaNode", info.place.numa_node);
  device.Set("cpus", info.place.cpus);
  device.Set("computeCapability", info.compute_capability);
  device.Set("totalBytes", static_cast<double>(info.total_bytes));
  Napi::Array peers = Napi::Array::New(env);
  for (std::uint32_t i = 0; i < info.peer_access.size(); i++) peers.Set(i, Napi::Boolean::New(env, info.peer_access[i]));
  device.Set("peerAccess", peers);
  return device;
}

Napi::Object Part(Napi::Env env, const std::string& problem, const Library& library, int version) {
  Napi::Object part = Napi::Object::New(env);
  part.Set("available", problem.empty());
  part.Set("problem", problem.empty() ? env.Undefined() : Napi::String::New(env, problem));
  part.Set("version", version);
  part.Set("path", library.path().empty() ? env.Undefined() : Napi::String::New(env, library.path()));
  part.Set("attempts", ToJs(env, library.attempts()));
  return part;
}

/// probe(): Promise<what is available and what is missing>. Never rejects because something is missing.
Napi::Value Probe(const Napi::CallbackInfo& info) {
  return Environment::Of(info.Env())
      .Run(
          [](const Task&) {
            Found found;
            Nccl::Get();
            try {
              found.devices = ListDevices();
            } catch (const Error& error) {
              found.problem = error.what();
            }
            return found;
          },
          [](Napi::Env env, Found& found) -> Napi::Value {
            Napi::Object result = Napi::Object::New(env);
            const Driver& driver = Driver::Get();
            const Nccl& nccl = Nccl::Get();
            const std::string& problem = driver.problem().empty() ? found.problem : driver.problem();
            result.Set("driver", Part(env, problem, driver.library(), driver.version()));
            result.Set("nccl", Part(env, nccl.problem(), nccl.library(), nccl.version()));
            Napi::Object kernels = Napi::Object::New(env);
            kernels.Set("available", KernelsProblem().empty());
            kernels.Set("problem", KernelsProblem().empty() ? env.Undefined() : Napi::String::New(env, KernelsProblem()));
            result.Set("kernels", kernels);
            Napi::Array devices = Napi::Array::New(env);
            for (std::uint32_t i = 0; i < found.devices.size(); i++) devices.Set(i, ToJs(env, found.devices[i]));
            result.Set("devices", devices);
            return result;
          });
}

}  // namespace

void RegisterProbe(Napi::Env env, Napi::Object exports) { exports.Set("probe", Napi::Function::New(env, Probe, "probe")); }

}  // namespace ckpt::cuda
