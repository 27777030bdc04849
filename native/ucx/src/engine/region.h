#pragma once

#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <string>

#include "ucx.h"

namespace ckpt::ucx {

class Loop;

/// Memory that UCX reads and writes. The memory itself belongs to the caller, who keeps it until gone() is ready.
class Region {
 public:
  Region(std::shared_ptr<Loop> loop, ucp_mem_h handle, void* address, std::size_t bytes, std::string key);
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  /// Asks the loop to release the memory.
  ~Region();

  const Loop& loop() const { return *loop_; }
  ucp_mem_h handle() const { return handle_; }
  void* address() const { return address_; }
  std::size_t bytes() const { return bytes_; }
  /// Packed key with which peers reach it.
  const std::string& key() const { return key_; }
  /// Ready when UCX has released the memory.
  std::shared_future<void> gone() const { return gone_; }

 private:
  const std::shared_ptr<Loop> loop_;
  const ucp_mem_h handle_;
  void* const address_;
  const std::size_t bytes_;
  const std::string key_;
  const std::shared_ptr<std::promise<void>> released_;
  const std::shared_future<void> gone_;
};

}  // namespace ckpt::ucx
