#pragma once

#include <infiniband/verbs.h>

#include <string>

#include "ckpt/library.h"

namespace ckpt::rdma {

/// Functions of libibverbs that are not inline functions of its header: member, name, symbol version, result, parameters.
#define CKPT_VERBS_FUNCTIONS(X)                                                                             \
  X(get_device_list, "ibv_get_device_list", "IBVERBS_1.1", ibv_device**, (int*))                            \
  X(free_device_list, "ibv_free_device_list", "IBVERBS_1.1", void, (ibv_device**))                          \
  X(get_device_name, "ibv_get_device_name", "IBVERBS_1.1", const char*, (ibv_device*))                      \
  X(open_device, "ibv_open_device", "IBVERBS_1.1", ibv_context*, (ibv_device*))                             \
  X(close_device, "ibv_close_device", "IBVERBS_1.1", int, (ibv_context*))                                   \
  X(query_device, "ibv_query_device", "IBVERBS_1.1", int, (ibv_context*, ibv_device_attr*))                 \
  X(query_port, "ibv_query_port", "IBVERBS_1.1", int, (ibv_context*, std::uint8_t, void*))                  \
  X(query_gid, "ibv_query_gid", "IBVERBS_1.1", int, (ibv_context*, std::uint8_t, int, union ibv_gid*))      \
  X(alloc_pd, "ibv_alloc_pd", "IBVERBS_1.1", ibv_pd*, (ibv_context*))                                       \
  X(dealloc_pd, "ibv_dealloc_pd", "IBVERBS_1.1", int, (ibv_pd*))                                            \
  X(reg_mr, "ibv_reg_mr", "IBVERBS_1.1", ibv_mr*, (ibv_pd*, void*, std::size_t, int))                       \
  X(dereg_mr, "ibv_dereg_mr", "IBVERBS_1.1", int, (ibv_mr*))                                                \
  X(create_comp_channel, "ibv_create_comp_channel", "IBVERBS_1.0", ibv_comp_channel*, (ibv_context*))       \
  X(destroy_comp_channel, "ibv_destroy_comp_channel", "IBVERBS_1.0", int, (ibv_comp_channel*))              \
  X(create_cq, "ibv_create_cq", "IBVERBS_1.1", ibv_cq*, (ibv_context*, int, void*, ibv_comp_channel*, int)) \
  X(destroy_cq, "ibv_destroy_cq", "IBVERBS_1.1", int, (ibv_cq*))                                            \
  X(get_cq_event, "ibv_get_cq_event", "IBVERBS_1.1", int, (ibv_comp_channel*, ibv_cq**, void**))            \
  X(ack_cq_events, "ibv_ack_cq_events", "IBVERBS_1.1", void, (ibv_cq*, unsigned int))                       \
  X(create_qp, "ibv_create_qp", "IBVERBS_1.1", ibv_qp*, (ibv_pd*, ibv_qp_init_attr*))                       \
  X(modify_qp, "ibv_modify_qp", "IBVERBS_1.1", int, (ibv_qp*, ibv_qp_attr*, int))                           \
  X(destroy_qp, "ibv_destroy_qp", "IBVERBS_1.1", int, (ibv_qp*))

/// Functions of newer versions of the library; null if it lacks them.
#define CKPT_VERBS_OPTIONAL_FUNCTIONS(X)                                                                                  \
  X(reg_mr_iova2, "ibv_reg_mr_iova2", "IBVERBS_1.8", ibv_mr*, (ibv_pd*, void*, std::size_t, std::uint64_t, unsigned int)) \
  X(reg_dmabuf_mr, "ibv_reg_dmabuf_mr", "IBVERBS_1.12", ibv_mr*, (ibv_pd*, std::uint64_t, std::size_t, std::uint64_t, int, int))

struct VerbsApi {
#define CKPT_MEMBER(member, symbol, version, result, parameters) result(*member) parameters = nullptr;
  CKPT_VERBS_FUNCTIONS(CKPT_MEMBER)
  CKPT_VERBS_OPTIONAL_FUNCTIONS(CKPT_MEMBER)
#undef CKPT_MEMBER
};

/// libibverbs, loaded at its first use. Posting and polling are inline functions of its header and need no symbol.
class Verbs {
 public:
  /// Loads the library once; never throws.
  static const Verbs& Get();
  /// Returns the functions. @throws Error ADDON_UNAVAILABLE with what is missing.
  static const VerbsApi& Api();

  /// Empty if the library can be used; otherwise what is missing, with a remedy.
  const std::string& problem() const { return problem_; }
  const Library& library() const { return library_; }
  bool can_register_dmabuf() const { return api_.reg_dmabuf_mr != nullptr; }
  /// Fills all of `attributes`, by the provider's own function if it has one. Returns 0 or an error number.
  int QueryPort(ibv_context* context, std::uint8_t port, ibv_port_attr* attributes) const;

 private:
  Verbs();

  Library library_;
  VerbsApi api_;
  std::string problem_;
};

}  // namespace ckpt::rdma
