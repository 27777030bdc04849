#include "verbs.h"

#include <cstdlib>
#include <cstring>

#include "ckpt/error.h"

namespace ckpt::rdma {
namespace {

std::vector<std::string> Candidates() {
  std::vector<std::string> names;
  if (const char* named = std::getenv("CKPT_IBVERBS_LIBRARY"); named != nullptr && *named != '\0') names.emplace_back(named);
  names.emplace_back("libibverbs.so.1");
  return names;
}

}  // namespace

const Verbs& Verbs::Get() {
  // Never destroyed: threads that use it may outlive static destructors.
  static const Verbs* instance = new Verbs();
  return *instance;
}

const VerbsApi& Verbs::Api() {
  const Verbs& verbs = Get();
  if (!verbs.problem_.empty()) throw Error(ckpt::code::kAddonUnavailable, verbs.problem_);
  return verbs.api_;
}

Verbs::Verbs() : library_(Library::Open(Candidates())) {
  if (!library_.is_open()) {
    problem_ = "libibverbs is not installed (" + library_.DescribeAttempts() +
               "); on Debian and Ubuntu: apt-get install libibverbs1 ibverbs-providers";
    return;
  }
  std::string missing;
#define CKPT_RESOLVE(member, symbol, version, result, parameters)                          \
  api_.member = reinterpret_cast<decltype(api_.member)>(library_.Symbol(symbol, version)); \
  if (api_.member == nullptr) missing += std::string(missing.empty() ? "" : ", ") + symbol + "@" + version;
  CKPT_VERBS_FUNCTIONS(CKPT_RESOLVE)
#undef CKPT_RESOLVE
#define CKPT_RESOLVE(member, symbol, version, result, parameters) \
  api_.member = reinterpret_cast<decltype(api_.member)>(library_.Symbol(symbol, version));
  CKPT_VERBS_OPTIONAL_FUNCTIONS(CKPT_RESOLVE)
#undef CKPT_RESOLVE
  if (!missing.empty()) problem_ = library_.path() + " lacks " + missing;
}

int Verbs::QueryPort(ibv_context* context, std::uint8_t port, ibv_port_attr* attributes) const {
  std::memset(attributes, 0, sizeof *attributes);
  // The same as the header's own ibv_query_port, whose fallback would need the library at link time.
  if (verbs_context* extended = verbs_get_ctx_op(context, query_port); extended != nullptr) {
    return extended->query_port(context, port, attributes, sizeof *attributes);
  }
  return api_.query_port(context, port, attributes);
}

}  // namespace ckpt::rdma
