#include "region.h"

#include <cerrno>

#include "ckpt/error.h"

namespace ckpt::rdma {
namespace {

int Flags(Access access) {
  int flags = 0;
  if (access.local_write || access.remote_write) flags |= IBV_ACCESS_LOCAL_WRITE;
  if (access.remote_read) flags |= IBV_ACCESS_REMOTE_READ;
  if (access.remote_write) flags |= IBV_ACCESS_REMOTE_WRITE;
  return flags;
}

Error Refused(const Context& context, const char* call, std::size_t bytes) {
  const int number = errno;
  const std::string what = context.name() + ": " + call + " of " + std::to_string(bytes) + " bytes";
  if (number == ENOMEM) {
    return Error::System(ckpt::code::kOutOfMemory, what + " (is there a limit on locked memory? ulimit -l, --cap-add IPC_LOCK)",
                         number);
  }
  if (number == EFAULT) return Error::System(ckpt::code::kInvalidArgument, what, number).WithField("memory");
  if (number == EOPNOTSUPP || number == ENOSYS) return Error::System(ckpt::code::kUnsupported, what, number);
  return Error::System(ckpt::code::kNativeFailure, what, number);
}

}  // namespace

std::shared_ptr<Region> Region::Host(std::shared_ptr<Context> context, void* address, std::size_t bytes, Access access) {
  const VerbsApi& api = Verbs::Api();
  const auto start = reinterpret_cast<std::uint64_t>(address);
  errno = 0;
  ibv_mr* mr = nullptr;
  // The order in which pieces of a READ arrive does not matter here, and PCIe is faster without it. Devices that do not know
  // the flag ignore it.
  if (api.reg_mr_iova2 != nullptr) {
    const auto flags = static_cast<unsigned int>(Flags(access)) | IBV_ACCESS_RELAXED_ORDERING;
    mr = api.reg_mr_iova2(context->pd(), address, bytes, start, flags);
  }
  if (mr == nullptr) mr = api.reg_mr(context->pd(), address, bytes, Flags(access));
  if (mr == nullptr) throw Refused(*context, "ibv_reg_mr", bytes);
  return std::make_shared<Region>(std::move(context), mr, start, bytes);
}

std::shared_ptr<Region> Region::Dmabuf(std::shared_ptr<Context> context, int fd, std::uint64_t offset, std::size_t bytes,
                                       std::uint64_t address, Access access) {
  const VerbsApi& api = Verbs::Api();
  if (api.reg_dmabuf_mr == nullptr) {
    throw Error(ckpt::code::kUnsupported, "this libibverbs has no ibv_reg_dmabuf_mr (rdma-core 34 or newer has)");
  }
  errno = 0;
  ibv_mr* mr = api.reg_dmabuf_mr(context->pd(), offset, bytes, address, fd, Flags(access));
  if (mr == nullptr) throw Refused(*context, "ibv_reg_dmabuf_mr", bytes);
  return std::make_shared<Region>(std::move(context), mr, address, bytes);
}

Region::Region(std::shared_ptr<Context> context, ibv_mr* mr, std::uint64_t address, std::size_t bytes)
    : context_(std::move(context)), mr_(mr), address_(address), bytes_(bytes), gone_(released_.get_future().share()) {}

Region::~Region() {
  Verbs::Api().dereg_mr(mr_);
  released_.set_value();
}

}  // namespace ckpt::rdma
