#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "gid.h"
#include "verbs.h"

namespace ckpt::rdma {

/// An opened device with one protection domain and one completion queue. Objects created from it hold it.
class Context {
 public:
  /// `completions`: entries of the completion queue, limited by the device.
  /// @throws Error INVALID_ARGUMENT for an unknown name, NATIVE_FAILURE, ADDON_UNAVAILABLE.
  Context(const std::string& name, int completions);
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context();

  const std::string& name() const { return name_; }
  ibv_context* verbs() const { return context_; }
  ibv_pd* pd() const { return pd_; }
  ibv_cq* cq() const { return cq_; }
  ibv_comp_channel* channel() const { return channel_; }
  const ibv_device_attr& attributes() const { return attributes_; }

  /// @throws Error INVALID_ARGUMENT for a port that the device does not have.
  ibv_port_attr Port(int number) const;
  /// @throws Error INVALID_ARGUMENT for an entry that is not used.
  Gid GidAt(int port, int index) const;

  /// Reserves completion queue entries for a queue pair. @throws Error INVALID_STATE if none are left.
  void Reserve(int completions);
  void Release(int completions) { reserved_ -= completions; }

 private:
  void Close();

  const std::string name_;
  ibv_context* context_ = nullptr;
  ibv_pd* pd_ = nullptr;
  ibv_comp_channel* channel_ = nullptr;
  ibv_cq* cq_ = nullptr;
  ibv_device_attr attributes_{};
  std::atomic<int> reserved_{0};
};

}  // namespace ckpt::rdma
