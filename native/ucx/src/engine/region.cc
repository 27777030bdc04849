#include "region.h"

#include "loop.h"

namespace ckpt::ucx {

Region::Region(std::shared_ptr<Loop> loop, ucp_mem_h handle, void* address, std::size_t bytes, std::string key)
    : loop_(std::move(loop)),
      handle_(handle),
      address_(address),
      bytes_(bytes),
      key_(std::move(key)),
      released_(std::make_shared<std::promise<void>>()),
      gone_(released_->get_future().share()) {}

Region::~Region() {
  const bool posted = loop_->Post([handle = handle_, released = released_](Loop& loop) {
    loop.Unmap(handle);
    released->set_value();
  });
  // A loop that has ended has released everything.
  if (!posted) released_->set_value();
}

}  // namespace ckpt::ucx
