#pragma once

#include <memory>
#include <mutex>

#include "handles.h"
#include "kernels.h"

namespace ckpt::cuda {

/// One GPU as a rank uses it: its context, a stream for small work, and the kernels once they are needed.
class Gpu {
 public:
  explicit Gpu(int index) : context_(std::make_shared<const PrimaryContext>(index)), stream_(context_, false) {}

  const ContextPtr& context() const { return context_; }
  const Stream& stream() const { return stream_; }
  /// @throws Error UNSUPPORTED if the addon was built without them.
  std::shared_ptr<const Kernels> kernels() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (kernels_ == nullptr) kernels_ = std::make_shared<const Kernels>(context_);
    return kernels_;
  }

 private:
  ContextPtr context_;
  Stream stream_;
  std::mutex mutex_;
  std::shared_ptr<const Kernels> kernels_;
};

}  // namespace ckpt::cuda
