#pragma once

#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>

#include "context.h"

namespace ckpt::rdma {

/// Permitted accesses to a region. Its own side may always read it.
struct Access {
  /// True if bytes read from peers may be written to it; peers' writes also need it.
  bool local_write = false;
  bool remote_read = false;
  bool remote_write = false;
};

/// Memory that a device reads and writes. The memory itself belongs to the caller, who keeps it until gone() is ready.
class Region {
 public:
  /// Registers memory of this process: the host's, or a GPU's if the kernel's peer memory module makes that known to the
  /// device.
  /// @throws Error INVALID_ARGUMENT for a range that is not mapped, OUT_OF_MEMORY if the limit on locked memory forbids it,
  /// NATIVE_FAILURE.
  static std::shared_ptr<Region> Host(std::shared_ptr<Context> context, void* address, std::size_t bytes, Access access);

  /// Registers memory behind a dma-buf. Peers and transfers address it starting at `address`.
  /// @throws Error UNSUPPORTED if the library or the device does not support it, NATIVE_FAILURE.
  static std::shared_ptr<Region> Dmabuf(std::shared_ptr<Context> context, int fd, std::uint64_t offset, std::size_t bytes,
                                        std::uint64_t address, Access access);

  Region(std::shared_ptr<Context> context, ibv_mr* mr, std::uint64_t address, std::size_t bytes);
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region();

  const Context& context() const { return *context_; }
  std::uint64_t address() const { return address_; }
  std::size_t bytes() const { return bytes_; }
  std::uint32_t local_key() const { return mr_->lkey; }
  std::uint32_t remote_key() const { return mr_->rkey; }
  /// Ready when the device has released the memory.
  std::shared_future<void> gone() const { return gone_; }

 private:
  const std::shared_ptr<Context> context_;
  ibv_mr* const mr_;
  const std::uint64_t address_;
  const std::size_t bytes_;
  std::promise<void> released_;
  const std::shared_future<void> gone_;
};

}  // namespace ckpt::rdma
