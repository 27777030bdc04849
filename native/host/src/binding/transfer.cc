#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "../engine/copy.h"
#include "../engine/digest.h"
#include "../engine/open_file.h"
#include "../engine/reader.h"
#include "cancellation.h"
#include "ckpt/napi/columns.h"
#include "ckpt/napi/copies.h"
#include "ckpt/napi/environment.h"
#include "memory.h"
#include "register.h"

namespace ckpt::host {
namespace {

/// Maximum of sums requested at once: one gibibyte.
constexpr std::size_t kMostOutputs = std::size_t{1} << 27;

Napi::Value ToBigUint64Array(Napi::Env env, std::vector<std::uint64_t>& values) {
  auto result = Napi::BigUint64Array::New(env, values.size());
  for (std::size_t i = 0; i < values.size(); i++) result[i] = values[i];
  return result;
}

constexpr std::size_t kIdentityColumns = 5;

/// Paths, descriptors (-1 for none) and, if there is a path without a descriptor that must be a certain file, identities: all
/// by file.
std::vector<FileToRead> ToFiles(const Napi::Value& paths, const Napi::Value& descriptors, const Napi::Value& identities) {
  if (!paths.IsArray()) throw Error(code::kInvalidArgument, "files must be an array").WithField("files");
  const auto array = paths.As<Napi::Array>();
  const std::size_t count = array.Length();
  std::vector<FileToRead> files;
  for (std::uint32_t i = 0; i < count; i++) files.push_back({ToText(array.Get(i), "files"), -1, std::nullopt});
  if (!descriptors.IsUndefined()) {
    if (!descriptors.IsTypedArray() || descriptors.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array ||
        descriptors.As<Napi::Int32Array>().ElementLength() != count) {
      throw Error(code::kInvalidArgument, "descriptors must be an Int32Array, one a file").WithField("descriptors");
    }
    const auto numbers = descriptors.As<Napi::Int32Array>();
    for (std::size_t i = 0; i < count; i++) files[i].descriptor = numbers[i];
  }
  if (!identities.IsUndefined()) {
    if (!identities.IsTypedArray() || identities.As<Napi::TypedArray>().TypedArrayType() != napi_biguint64_array ||
        identities.As<Napi::BigUint64Array>().ElementLength() != count * kIdentityColumns) {
      throw Error(code::kInvalidArgument, "identities must be a BigUint64Array, five numbers a file").WithField("identities");
    }
    const auto numbers = identities.As<Napi::BigUint64Array>();
    for (std::size_t i = 0; i < count; i++) {
      const std::size_t at = i * kIdentityColumns;
      // No file has the inode 0.
      if (numbers[at + 1] == 0) continue;
      files[i].identity = FileIdentity{numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3], numbers[at + 4]};
    }
  }
  return files;
}

Napi::Value ToNumber(Napi::Env env, std::uint64_t& value) { return Napi::Number::New(env, static_cast<double>(value)); }

std::vector<MemoryRange> ToRanges(const Napi::Value& value, const char* field) {
  return ToRows(value, 3, field, [](const double* row) {
    return MemoryRange{ToUnsigned(row[0], "memory"), ToUnsigned(row[1], "offset"), ToUnsigned(row[2], "bytes")};
  });
}

/// read(files, memories, reads, threads, onProgress, cancellation, descriptors, identities, digested):
/// Promise<{ bytes: number, digests: BigUint64Array }>
Napi::Value Read(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    auto files = ToFiles(info[0], info[6], info[7]);
    auto memories = Memory::FromArray(info[1]);
    auto reads = ToContiguousCopies(info[2], "reads");
    auto digested = info[8].IsUndefined() ? std::vector<MemoryRange>() : ToRanges(info[8], "digested");
    const unsigned threads = ToThreads(info[3]);
    Environment::Options options;
    if (info[4].IsFunction()) options.progress = info[4].As<Napi::Function>();
    options.cancellation = CancellationObject::From(info[5]);
    return Environment::Of(info.Env())
        .Run(
            [files = std::move(files), memories = std::move(memories), reads = std::move(reads), digested = std::move(digested),
             threads](const Task& task) {
              const auto progress = [&task](std::uint64_t bytes) { task.Report(static_cast<double>(bytes)); };
              return ReadFiles(task.pool(), threads, files, memories, reads, digested, progress, task.cancellation());
            },
            [](Napi::Env env, FilesRead& read) -> Napi::Value {
              auto result = Napi::Object::New(env);
              result.Set("bytes", ToNumber(env, read.bytes));
              result.Set("digests", ToBigUint64Array(env, read.digests));
              return result;
            },
            std::move(options));
  });
}

/// openBeneath(directory, path): Promise<number>, a descriptor that the caller closes
Napi::Value OpenFileBeneath(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const int directory = static_cast<int>(ToUnsigned(info[0], "directory"));
    std::string path = ToText(info[1], "path");
    return Environment::Of(info.Env())
        .Run([directory, path = std::move(path)](const Task&) { return OpenBeneath(directory, path); },
             [](Napi::Env env, ScopedFd& fd) -> Napi::Value { return Napi::Number::New(env, fd.Release()); });
  });
}

/// copy(memories, copies, threads): Promise<number>
Napi::Value Copy(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    auto memories = Memory::FromArray(info[0]);
    auto copies = ToStridedCopies(info[1], "copies");
    const unsigned threads = ToThreads(info[2]);
    return Environment::Of(info.Env())
        .Run([memories = std::move(memories), copies = std::move(copies),
              threads](const Task& task) { return CopyStrided(task.pool(), threads, memories, copies, task.cancellation()); },
             ToNumber);
  });
}

/// digest(memories, ranges, threads): Promise<BigUint64Array>
Napi::Value Digest(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    auto memories = Memory::FromArray(info[0]);
    auto ranges = ToRanges(info[1], "ranges");
    const unsigned threads = ToThreads(info[2]);
    return Environment::Of(info.Env())
        .Run([memories = std::move(memories), ranges = std::move(ranges),
              threads](const Task& task) { return DigestRanges(task.pool(), threads, memories, ranges, task.cancellation()); },
             ToBigUint64Array);
  });
}

/// sums(memories, rows, outputs, threads): Promise<BigUint64Array>
Napi::Value Sums(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    auto memories = Memory::FromArray(info[0]);
    auto rows = ToRows(info[1], 9, "rows", [](const double* row) {
      return SummedRows{ToUnsigned(row[0], "output"),   ToUnsigned(row[1], "memory"),        ToUnsigned(row[2], "offset"),
                        ToUnsigned(row[3], "pitch"),    ToUnsigned(row[4], "rowBytes"),      ToUnsigned(row[5], "rows"),
                        ToUnsigned(row[6], "position"), ToUnsigned(row[7], "positionPitch"), ToUnsigned(row[8], "unit")};
    });
    const std::size_t outputs = ToUnsigned(info[2], "outputs");
    if (outputs > kMostOutputs) throw Error(code::kInvalidArgument, "more outputs than rows can have").WithField("outputs");
    const unsigned threads = ToThreads(info[3]);
    return Environment::Of(info.Env())
        .Run([memories = std::move(memories), rows = std::move(rows), outputs, threads](
                 const Task& task) { return SumRows(task.pool(), threads, memories, rows, outputs, task.cancellation()); },
             ToBigUint64Array);
  });
}

/// fill(memory, offset, bytes, seed, threads): Promise<void>
Napi::Value Fill(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    auto memory = Memory::From(info[0]);
    const std::uint64_t offset = ToUnsigned(info[1], "offset");
    const std::uint64_t bytes = ToUnsigned(info[2], "bytes");
    if (!info[3].IsBigInt()) throw Error(code::kInvalidArgument, "seed must be a bigint").WithField("seed");
    bool lossless = true;
    const std::uint64_t seed = info[3].As<Napi::BigInt>().Uint64Value(&lossless);
    const unsigned threads = ToThreads(info[4]);
    return Environment::Of(info.Env())
        .Run(
            [memory = std::move(memory), offset, bytes, seed, threads](const Task& task) {
              FillRandom(task.pool(), threads, *memory, offset, bytes, seed, task.cancellation());
              return std::monostate{};
            },
            [](Napi::Env env, std::monostate&) -> Napi::Value { return env.Undefined(); });
  });
}

}  // namespace

void RegisterTransfer(Napi::Env env, Napi::Object exports) {
  CancellationObject::Register(env, exports);
  exports.Set("read", Napi::Function::New(env, Read, "read"));
  exports.Set("openBeneath", Napi::Function::New(env, OpenFileBeneath, "openBeneath"));
  exports.Set("copy", Napi::Function::New(env, Copy, "copy"));
  exports.Set("digest", Napi::Function::New(env, Digest, "digest"));
  exports.Set("sums", Napi::Function::New(env, Sums, "sums"));
  exports.Set("fill", Napi::Function::New(env, Fill, "fill"));
}

}  // namespace ckpt::host
