#include "queue_pair.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>

#include "ckpt/error.h"
#include "completion_loop.h"

namespace ckpt::rdma {
namespace {

constexpr std::uint32_t kSequenceMask = 0xffffff;
constexpr int kMostReads = 16;
constexpr int kHopLimit = 255;
/// 0.64 ms between retries of a peer that is not ready; one-sided requests never meet one.
constexpr int kNotReadyTimer = 12;

ibv_mtu MtuOf(int bytes) {
  for (int mtu = IBV_MTU_4096; mtu > IBV_MTU_256; mtu--) {
    if (bytes >= 128 << mtu) return static_cast<ibv_mtu>(mtu);
  }
  return IBV_MTU_256;
}

void CheckRange(int value, int least, int most, const char* field) {
  if (value >= least && value <= most) return;
  throw Error(ckpt::code::kInvalidArgument,
              std::string(field) + " must be from " + std::to_string(least) + " to " + std::to_string(most))
      .WithField(field);
}

}  // namespace

QueuePair::QueuePair(std::shared_ptr<Context> context, std::shared_ptr<CompletionLoop> loop, const QueuePairOptions& options)
    : context_(std::move(context)), loop_(std::move(loop)), options_(options) {
  CheckRange(options_.depth, 1, std::min(context_->attributes().max_qp_wr, 1 << 15), "depth");
  const ibv_port_attr port = context_->Port(options_.port);
  if (port.state != IBV_PORT_ACTIVE) {
    throw Error(ckpt::code::kInvalidState, context_->name() + " port " + std::to_string(options_.port) + " is not active")
        .WithField("port");
  }
  local_.lid = port.lid;
  local_.gid = context_->GidAt(options_.port, options_.gid_index);
  local_.mtu = 128 << port.active_mtu;
  local_.reads_in = std::clamp(context_->attributes().max_qp_rd_atom, 1, kMostReads);
  local_.packet_sequence = std::random_device()() & kSequenceMask;

  context_->Reserve(options_.depth);
  ibv_qp_init_attr init{};
  init.send_cq = context_->cq();
  init.recv_cq = context_->cq();
  init.qp_type = IBV_QPT_RC;
  init.sq_sig_all = 1;
  init.cap.max_send_wr = static_cast<std::uint32_t>(options_.depth);
  init.cap.max_recv_wr = 1;
  init.cap.max_send_sge = 1;
  init.cap.max_recv_sge = 1;
  errno = 0;
  qp_ = Verbs::Api().create_qp(context_->pd(), &init);
  if (qp_ == nullptr) {
    context_->Release(options_.depth);
    throw Error::System(ckpt::code::kNativeFailure, context_->name() + ": ibv_create_qp", errno);
  }
  local_.queue_pair = qp_->qp_num;
}

QueuePair::~QueuePair() {
  if (qp_ != nullptr) Verbs::Api().destroy_qp(qp_);
  context_->Release(options_.depth);
}

std::string QueuePair::Describe() const {
  return context_->name() + " queue pair " + std::to_string(local_.queue_pair) + " to " + std::to_string(remote_number_);
}

void QueuePair::Modify(ibv_qp_attr& attributes, int mask, const char* state) {
  if (const int result = Verbs::Api().modify_qp(qp_, &attributes, mask | IBV_QP_STATE); result != 0) {
    throw Error::System(ckpt::code::kNativeFailure,
                        context_->name() + ": a queue pair cannot be made " + state + " (is the peer's address reachable?)",
                        result);
  }
}

void QueuePair::Connect(const Endpoint& remote, const ConnectOptions& options) {
  CheckRange(options.timeout, 1, 31, "timeout");
  CheckRange(options.retries, 0, 6, "retries");
  CheckRange(options.traffic_class, 0, 255, "trafficClass");
  CheckRange(options.service_level, 0, 15, "serviceLevel");
  if (connected_) throw Error(ckpt::code::kInvalidState, "the queue pair is already connected");
  remote_number_ = remote.queue_pair;
  const ibv_port_attr port = context_->Port(options_.port);

  ibv_qp_attr init{};
  init.qp_state = IBV_QPS_INIT;
  init.port_num = static_cast<std::uint8_t>(options_.port);
  init.qp_access_flags = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
  Modify(init, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS, "initialised");

  ibv_qp_attr receive{};
  receive.qp_state = IBV_QPS_RTR;
  receive.path_mtu = MtuOf(std::min(local_.mtu, remote.mtu));
  receive.dest_qp_num = remote.queue_pair;
  receive.rq_psn = remote.packet_sequence & kSequenceMask;
  receive.max_dest_rd_atomic = static_cast<std::uint8_t>(local_.reads_in);
  receive.min_rnr_timer = kNotReadyTimer;
  receive.ah_attr.dlid = static_cast<std::uint16_t>(remote.lid);
  receive.ah_attr.sl = static_cast<std::uint8_t>(options.service_level);
  receive.ah_attr.port_num = static_cast<std::uint8_t>(options_.port);
  // RoCE has no other address; on InfiniBand the global one is needed only between subnets, whose prefixes are the first half.
  const bool other_subnet = !std::equal(local_.gid.begin(), local_.gid.begin() + 8, remote.gid.begin());
  if (port.link_layer == IBV_LINK_LAYER_ETHERNET || other_subnet || remote.lid == 0) {
    receive.ah_attr.is_global = 1;
    std::copy(remote.gid.begin(), remote.gid.end(), receive.ah_attr.grh.dgid.raw);
    receive.ah_attr.grh.sgid_index = static_cast<std::uint8_t>(options_.gid_index);
    receive.ah_attr.grh.hop_limit = kHopLimit;
    receive.ah_attr.grh.traffic_class = static_cast<std::uint8_t>(options.traffic_class);
  }
  Modify(receive,
         IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER,
         "ready to receive");

  ibv_qp_attr send{};
  send.qp_state = IBV_QPS_RTS;
  send.timeout = static_cast<std::uint8_t>(options.timeout);
  send.retry_cnt = static_cast<std::uint8_t>(options.retries);
  send.rnr_retry = static_cast<std::uint8_t>(options.retries);
  send.sq_psn = local_.packet_sequence;
  const int reads_out = std::clamp(context_->attributes().max_qp_init_rd_atom, 1, kMostReads);
  send.max_rd_atomic = static_cast<std::uint8_t>(std::clamp(remote.reads_in, 1, reads_out));
  Modify(send, IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC, "ready to send");
  connected_ = true;
}

}  // namespace ckpt::rdma
