#include "context.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "ckpt/error.h"

namespace ckpt::rdma {
namespace {

Error Failed(const std::string& device, const char* call) {
  return Error::System(ckpt::code::kNativeFailure, device + ": " + call, errno);
}

}  // namespace

Context::Context(const std::string& name, int completions) : name_(name) {
  const VerbsApi& api = Verbs::Api();
  int count = 0;
  std::string found;
  {
    const std::unique_ptr<ibv_device*, void (*)(ibv_device**)> list(api.get_device_list(&count), api.free_device_list);
    ibv_device* device = nullptr;
    for (int i = 0; list != nullptr && i < count; i++) {
      const std::string candidate = api.get_device_name(list.get()[i]);
      if (candidate == name) device = list.get()[i];
      found += (found.empty() ? "" : ", ") + candidate;
    }
    if (device == nullptr) {
      throw Error(ckpt::code::kInvalidArgument,
                  "there is no RDMA device " + name + "; this machine has " + (found.empty() ? "none" : found))
          .WithField("device");
    }
    errno = 0;
    context_ = api.open_device(device);
  }
  if (context_ == nullptr) throw Failed(name, "ibv_open_device");
  try {
    if (const int result = api.query_device(context_, &attributes_); result != 0) {
      throw Error::System(ckpt::code::kNativeFailure, name + ": ibv_query_device", result);
    }
    if ((pd_ = api.alloc_pd(context_)) == nullptr) throw Failed(name, "ibv_alloc_pd");
    if ((channel_ = api.create_comp_channel(context_)) == nullptr) throw Failed(name, "ibv_create_comp_channel");
    const int flags = fcntl(channel_->fd, F_GETFL);
    if (fcntl(channel_->fd, F_SETFL, flags | O_NONBLOCK) != 0) throw Failed(name, "fcntl of the completion channel");
    cq_ = api.create_cq(context_, std::min(completions, attributes_.max_cqe), nullptr, channel_, 0);
    if (cq_ == nullptr) throw Failed(name, "ibv_create_cq");
  } catch (...) {
    Close();
    throw;
  }
}

Context::~Context() { Close(); }

void Context::Close() {
  const VerbsApi& api = Verbs::Api();
  if (cq_ != nullptr) api.destroy_cq(cq_);
  if (channel_ != nullptr) api.destroy_comp_channel(channel_);
  if (pd_ != nullptr) api.dealloc_pd(pd_);
  if (context_ != nullptr) api.close_device(context_);
}

ibv_port_attr Context::Port(int number) const {
  ibv_port_attr attributes;
  if (number < 1 || number > attributes_.phys_port_cnt ||
      Verbs::Get().QueryPort(context_, static_cast<std::uint8_t>(number), &attributes) != 0) {
    throw Error(ckpt::code::kInvalidArgument, name_ + " has no port " + std::to_string(number)).WithField("port");
  }
  return attributes;
}

Gid Context::GidAt(int port, int index) const {
  union ibv_gid raw;
  Gid gid{};
  if (index >= 0 && Verbs::Api().query_gid(context_, static_cast<std::uint8_t>(port), index, &raw) == 0) {
    std::copy(std::begin(raw.raw), std::end(raw.raw), gid.begin());
  }
  if (std::all_of(gid.begin(), gid.end(), [](std::uint8_t byte) { return byte == 0; })) {
    throw Error(ckpt::code::kInvalidArgument,
                name_ + " port " + std::to_string(port) + " has no GID at index " + std::to_string(index))
        .WithField("gidIndex");
  }
  return gid;
}

void Context::Reserve(int completions) {
  if ((reserved_ += completions) > cq_->cqe) {
    reserved_ -= completions;
    throw Error(ckpt::code::kInvalidState, name_ + " has no completion queue entries left for another queue pair");
  }
}

}  // namespace ckpt::rdma
