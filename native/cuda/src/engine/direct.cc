#include "direct.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <string>

#include "ckpt/error.h"

namespace ckpt::cuda {
namespace {

/// Amount passed to the driver at once, and how much of it may be in progress: enough for the link, little enough to stop soon.
constexpr std::uint64_t kBatchBytes = std::uint64_t{128} << 20;
constexpr std::size_t kBatchCopies = 512;
constexpr std::uint64_t kGatherBytes = std::uint64_t{256} << 20;
constexpr std::size_t kAhead = 4;

/// Lists of at most this many bytes each, so that a job can be stopped between them.
std::vector<std::unique_ptr<CopyList>> Lists(const std::shared_ptr<const Kernels>& kernels,
                                             const std::vector<DeviceCopy>& copies, const Stream& stream) {
  std::vector<std::unique_ptr<CopyList>> lists;
  std::vector<DeviceCopy> part;
  std::uint64_t bytes = 0;
  const auto flush = [&] {
    if (part.empty()) return;
    lists.push_back(std::make_unique<CopyList>(kernels, part, stream));
    part.clear();
    bytes = 0;
  };
  for (const DeviceCopy& copy : copies) {
    const std::uint64_t size = copy.rows * copy.row_bytes;
    if (!part.empty() && bytes + size > kGatherBytes) flush();
    part.push_back(copy);
    bytes += size;
  }
  flush();
  return lists;
}

/// The kernel reads host memory in lines of this many bytes: for a row that does not begin at a line it reads one line more.
constexpr std::uint64_t kLineBytes = 128;
/// Rows and copies of at least these sizes are worth a call of the copy engine. Two H200s at the same time, rows of 768 bytes:
/// engine 50 to 54 GB/s wherever they begin; kernel 51 if they begin at a line, otherwise 43 to 48.
constexpr std::uint64_t kLeastEngineRow = 256;
constexpr std::uint64_t kLeastEngineRows = std::uint64_t{256} << 10;
constexpr std::uint64_t kLargestPitch = (std::uint64_t{1} << 31) - 1;

bool Flat(const DeviceCopy& copy) {
  return copy.rows == 1 || (copy.source_pitch == copy.row_bytes && copy.destination_pitch == copy.row_bytes);
}

/// One kind of work of a job: pieces on a stream, a few of them enqueued ahead.
class Lane {
 public:
  Lane(ContextPtr context, const Stream& stream, int stage, std::size_t count)
      : context_(std::move(context)), stream_(stream), stage_(stage), count_(count) {}

  bool over() const { return next_ == count_ && under_way_.empty(); }
  bool may_enqueue() const { return next_ < count_ && under_way_.size() < kAhead; }

  template <typename Work>
  void Enqueue(Work&& work) {
    InFlight one{next_, Event(context_), Event(context_)};
    one.begin.Record(stream_);
    work(next_);
    one.end.Record(stream_);
    under_way_.push_back(std::move(one));
    next_++;
  }

  /// Records what has ended; waits for the oldest if `wait`.
  void Collect(bool wait, const Event& zero, DirectStats& stats) {
    while (!under_way_.empty()) {
      const InFlight& one = under_way_.front();
      if (wait) {
        Driver::Get().Check(Driver::Get().api().eventSynchronize(one.end.get()), "cuEventSynchronize");
        wait = false;
      } else if (!one.end.Done()) {
        return;
      }
      stats.spans.push_back(
          {stage_, static_cast<std::uint32_t>(one.index), one.begin.MillisecondsSince(zero), one.end.MillisecondsSince(zero)});
      under_way_.pop_front();
    }
  }

 private:
  struct InFlight {
    std::size_t index;
    Event begin, end;
  };
  ContextPtr context_;
  const Stream& stream_;
  int stage_;
  std::size_t count_;
  std::size_t next_ = 0;
  std::deque<InFlight> under_way_;
};

void WaitFor(const Event& event, const Stream& stream) {
  const Driver& driver = Driver::Get();
  driver.Check(driver.api().streamWaitEvent(stream.get(), event.get(), 0), "cuStreamWaitEvent");
}

/// Time during which at least one span of a stage was in progress.
double Busy(const std::vector<DirectStats::Span>& spans, int stage) {
  std::vector<std::pair<double, double>> times;
  for (const auto& span : spans)
    if (span.stage == stage) times.emplace_back(span.begin, span.end);
  std::sort(times.begin(), times.end());
  double busy = 0, end = 0;
  for (const auto& [from, to] : times) {
    if (to <= end) continue;
    busy += to - std::max(from, end);
    end = to;
  }
  return busy;
}

}  // namespace

bool SuitsEngine(const DeviceCopy& copy) {
  const bool off_lines = ((copy.source | copy.source_pitch) % kLineBytes) != 0;
  const bool large = copy.row_bytes >= kLeastEngineRow && copy.rows * copy.row_bytes >= kLeastEngineRows;
  // The driver does not accept rows that overlap or are identical, like those of an expanded tensor.
  const bool apart = copy.source_pitch >= copy.row_bytes && copy.destination_pitch >= copy.row_bytes;
  return off_lines && large && apart && copy.source_pitch <= kLargestPitch && copy.destination_pitch <= kLargestPitch;
}

DirectJob::DirectJob(ContextPtr context, std::shared_ptr<const Kernels> kernels, const std::vector<Source>& sources,
                     const std::vector<DeviceCopy>& copies, const std::vector<DeviceCopy>& forwards, const Options& options)
    : context_(std::move(context)), options_(options), sources_(sources), engine_(context_, false), kernel_(context_, false) {
  std::sort(sources_.begin(), sources_.end(), [](const Source& a, const Source& b) { return a.address < b.address; });
  std::vector<DeviceCopy> gather;
  for (const DeviceCopy& copy : copies) {
    if (copy.rows == 0 || copy.row_bytes == 0) continue;
    if (copy.rows > 1 && copy.destination_pitch < copy.row_bytes) {
      throw Error(code::kInvalidArgument, "rows of a copy overlap in its destination").WithField("destinationPitch");
    }
    const bool flat = Flat(copy);
    const std::uint64_t run = flat ? copy.rows * copy.row_bytes : copy.row_bytes;
    if (run < options_.engine_bytes) {
      if (!flat && SuitsEngine(copy)) {
        AddRows(copy, gather);
      } else {
        gather.push_back(copy);
      }
      continue;
    }
    if (flat) {
      AddRun(copy.source, copy.destination, run);
    } else {
      for (std::uint64_t row = 0; row < copy.rows; row++)
        AddRun(copy.source + row * copy.source_pitch, copy.destination + row * copy.destination_pitch, run);
    }
  }
  gathers_ = Lists(kernels, gather, kernel_);
  forwards_ = Lists(kernels, forwards, kernel_);
}

std::uint64_t DirectJob::SliceLeft(std::uint64_t address) const {
  if (options_.slice_bytes == 0) return std::numeric_limits<std::uint64_t>::max();
  const auto next = std::upper_bound(sources_.begin(), sources_.end(), address,
                                     [](std::uint64_t at, const Source& source) { return at < source.address; });
  const std::uint64_t base = next == sources_.begin() ? address : std::prev(next)->address;
  return options_.slice_bytes - (address - base) % options_.slice_bytes;
}

CopyBatch& DirectJob::OpenBatch() {
  if (batches_.empty() || batches_.back().bytes() >= kBatchBytes || batches_.back().count() >= kBatchCopies) {
    batches_.emplace_back(CopyBatch::Direction::kToDevice);
  }
  return batches_.back();
}

void DirectJob::AddRun(std::uint64_t from, std::uint64_t to, std::uint64_t bytes) {
  while (bytes > 0) {
    CopyBatch& batch = OpenBatch();
    const std::uint64_t length = std::min({bytes, SliceLeft(from), kBatchBytes - batch.bytes()});
    batch.Add(to, from, length);
    from += length;
    to += length;
    bytes -= length;
  }
}

void DirectJob::AddRows(DeviceCopy copy, std::vector<DeviceCopy>& gather) {
  while (copy.rows > 0) {
    CopyBatch& batch = OpenBatch();
    const std::uint64_t left = SliceLeft(copy.source);
    const std::uint64_t whole = left < copy.row_bytes ? 0 : (left - copy.row_bytes) / copy.source_pitch + 1;
    DeviceCopy part = copy;
    // The kernel does not depend on slices: it copies a row that is in two of them.
    part.rows = whole == 0
                    ? 1
                    : std::min({copy.rows, whole, std::max<std::uint64_t>(1, (kBatchBytes - batch.bytes()) / copy.row_bytes)});
    if (whole == 0) {
      gather.push_back(part);
    } else {
      batch.AddRows(part);
    }
    copy.rows -= part.rows;
    copy.source += part.rows * copy.source_pitch;
    copy.destination += part.rows * copy.destination_pitch;
  }
}

DirectStats DirectJob::Run(const Cancellation& cancellation) const {
  context_->MakeCurrent();
  DirectStats stats;
  for (const CopyBatch& batch : batches_) stats.h2d_bytes += batch.bytes();
  for (const auto& list : gathers_) stats.h2d_bytes += list->bytes();
  for (const auto& list : forwards_) stats.forward_bytes += list->bytes();
  const Event zero(context_);
  try {
    zero.Record(engine_);
    WaitFor(zero, kernel_);
    Lane batches(context_, engine_, 0, batches_.size());
    Lane gathers(context_, kernel_, 0, gathers_.size());
    while (!batches.over() || !gathers.over()) {
      cancellation.Check();
      while (batches.may_enqueue()) batches.Enqueue([&](std::size_t index) { batches_[index].Enqueue(engine_); });
      const bool gather = options_.together || batches.over();
      while (gather && gathers.may_enqueue()) gathers.Enqueue([&](std::size_t index) { gathers_[index]->Run(kernel_); });
      batches.Collect(!batches.over(), zero, stats);
      gathers.Collect(batches.over(), zero, stats);
    }
    Lane forwards(context_, kernel_, 1, forwards_.size());
    while (!forwards.over()) {
      cancellation.Check();
      while (forwards.may_enqueue()) forwards.Enqueue([&](std::size_t index) { forwards_[index]->Run(kernel_); });
      forwards.Collect(true, zero, stats);
    }
  } catch (...) {
    const abi::Api& api = Driver::Get().api();
    api.streamSynchronize(engine_.get());
    api.streamSynchronize(kernel_.get());
    throw;
  }
  stats.h2d_ms = Busy(stats.spans, 0);
  stats.forward_ms = Busy(stats.spans, 1);
  return stats;
}

}  // namespace ckpt::cuda
