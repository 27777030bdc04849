#include <charconv>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <variant>

#include "../engine/foreign.h"
#include "ckpt/napi/environment.h"
#include "ckpt/napi/numbers.h"
#include "memory.h"
#include "register.h"

namespace ckpt::host {
namespace {

using MappingPtr = std::shared_ptr<Mapping>;

Napi::Value ToMemory(Napi::Env env, MappingPtr& mapping) { return Memory::Wrap(env, std::move(mapping)); }

bool ToFlag(const Napi::Value& value, bool fallback) { return value.IsUndefined() ? fallback : value.ToBoolean().Value(); }

struct AllocateOptions {
  std::size_t bytes;
  bool lock;
  bool prefault;
  bool shareable;
  bool huge_pages;
  unsigned threads;
  std::optional<int> numa_node;

  explicit AllocateOptions(const Napi::Value& value) {
    if (!value.IsObject()) throw Error(code::kInvalidArgument, "options must be an object").WithField("options");
    const auto options = value.As<Napi::Object>();
    bytes = ToUnsigned(options.Get("bytes"), "bytes");
    if (bytes == 0) throw Error(code::kInvalidArgument, "bytes must be above 0").WithField("bytes");
    lock = ToFlag(options.Get("lock"), true);
    prefault = ToFlag(options.Get("prefault"), true);
    shareable = ToFlag(options.Get("shareable"), false);
    huge_pages = ToFlag(options.Get("hugePages"), false);
    threads = ToThreads(options.Get("threads"));
    if (const Napi::Value node = options.Get("numaNode"); !node.IsUndefined()) {
      const std::uint64_t number = ToUnsigned(node, "numaNode");
      if (number > 0xffff) throw Error(code::kInvalidArgument, "there is no such memory node").WithField("numaNode");
      numa_node = static_cast<int>(number);
    }
  }
};

/// allocate(options): Promise<Memory>
Napi::Value Allocate(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const AllocateOptions options(info[0]);
    return Environment::Of(info.Env())
        .Run(
            [options](const Task& task) {
              auto mapping = options.shareable ? Mapping::Shareable(options.bytes) : Mapping::Anonymous(options.bytes);
              if (options.numa_node) mapping->PreferNode(*options.numa_node);
              if (options.shareable && options.huge_pages) mapping->UseHugePages();
              if (options.prefault) mapping->Populate(task.pool(), options.threads, task.cancellation());
              if (options.lock) mapping->Lock();
              return mapping;
            },
            ToMemory);
  });
}

/// createShared(name, options): Promise<Memory>
Napi::Value CreateShared(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const std::string name = ToText(info[0], "name");
    const AllocateOptions options(info[1]);
    return Environment::Of(info.Env())
        .Run(
            [name, options](const Task& task) {
              auto mapping = Mapping::CreateShared(name, options.bytes);
              if (options.numa_node) mapping->PreferNode(*options.numa_node);
              if (options.huge_pages) mapping->UseHugePages();
              try {
                if (options.prefault) {
                  mapping->Populate(task.pool(), options.threads, task.cancellation());
                } else {
                  mapping->Reserve(task.cancellation());
                }
              } catch (...) {
                mapping->Unlink();
                throw;
              }
              if (options.lock) mapping->Lock();
              return mapping;
            },
            ToMemory);
  });
}

/// Locks all existing pages.
void LockPages(Mapping& mapping, const Task& task) {
  // Pages are locked when they are mapped, so the limits are checked before anything is read in.
  mapping.Lock();
  if (mapping.locked()) mapping.PopulateRead(0, mapping.size(), task.pool(), DefaultThreads(), task.cancellation());
}

/// openShared(name, writable, lock): Promise<Memory>
Napi::Value OpenSharedOf(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const std::string name = ToText(info[0], "name");
    const bool writable = ToFlag(info[1], false);
    const bool lock = ToFlag(info[2], false);
    return Environment::Of(info.Env())
        .Run(
            [name, writable, lock](const Task& task) {
              auto mapping = OpenShared(name, writable);
              if (lock) LockPages(*mapping, task);
              return mapping;
            },
            ToMemory);
  });
}

/// Reads a number from decimal text, which may have more bits than JavaScript's numbers.
std::uint64_t ToDecimal(const Napi::Value& value, const char* field, const std::string& what) {
  const std::string text = ToText(value, field);
  std::uint64_t number = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (problem != std::errc{} || end != text.data() + text.size() || text.empty()) {
    throw Error(code::kMemoryRefused, what + ": " + field + " '" + text + "' is not a whole number").WithField(field);
  }
  return number;
}

ForeignPlace ToPlace(const Napi::Object& place) {
  if (const Napi::Value path = place.Get("path"); !path.IsUndefined()) return ShmPlace{ToText(path, "path")};
  return DescriptorPlace{ToUnsigned(place.Get("pid"), "pid"), ToText(place.Get("namespace"), "namespace"),
                         ToText(place.Get("start"), "start"), ToUnsigned(place.Get("descriptor"), "descriptor")};
}

/// openForeign(place, identity, what, writable, lock): Promise<Memory>
Napi::Value OpenForeignOf(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    if (!info[0].IsObject() || !info[1].IsObject()) {
      throw Error(code::kInvalidArgument, "place and identity must be objects").WithField("place");
    }
    const ForeignPlace place = ToPlace(info[0].As<Napi::Object>());
    const auto identity = info[1].As<Napi::Object>();
    const std::string what = ToText(info[2], "what");
    ForeignIdentity offered{ToDecimal(identity.Get("device"), "device", what), ToDecimal(identity.Get("inode"), "inode", what),
                            ToUnsigned(identity.Get("bytes"), "bytes"), std::nullopt};
    if (const Napi::Value modified = identity.Get("modified"); !modified.IsUndefined()) {
      offered.modified = static_cast<std::int64_t>(ToDecimal(modified, "modified", what));
    }
    const bool writable = ToFlag(info[3], false);
    const bool lock = ToFlag(info[4], false);
    return Environment::Of(info.Env())
        .Run(
            [place, offered, what, writable, lock](const Task& task) {
              auto mapping = OpenForeign(place, offered, writable, what);
              if (lock) LockPages(*mapping, task);
              return mapping;
            },
            ToMemory);
  });
}

/// mapFile(path, lock, writable): Promise<Memory>
Napi::Value MapFile(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    const std::string path = ToText(info[0], "path");
    const bool lock = ToFlag(info[1], true);
    const bool writable = ToFlag(info[2], false);
    return Environment::Of(info.Env())
        .Run(
            [path, lock, writable](const Task& task) {
              auto mapping = Mapping::File(path, writable);
              if (lock) LockPages(*mapping, task);
              return mapping;
            },
            ToMemory);
  });
}

/// populateRead(memory, offset, bytes, threads): Promise<void>
Napi::Value PopulateRead(const Napi::CallbackInfo& info) {
  return Guard(info.Env(), [&]() -> Napi::Value {
    auto memory = Memory::From(info[0]);
    const std::uint64_t offset = ToUnsigned(info[1], "offset");
    const std::uint64_t bytes = ToUnsigned(info[2], "bytes");
    const unsigned threads = ToThreads(info[3]);
    return Environment::Of(info.Env())
        .Run(
            [memory = std::move(memory), offset, bytes, threads](const Task& task) {
              memory->PopulateRead(offset, bytes, task.pool(), threads, task.cancellation());
              return std::monostate{};
            },
            [](Napi::Env env, std::monostate&) -> Napi::Value { return env.Undefined(); });
  });
}

}  // namespace

void RegisterMemory(Napi::Env env, Napi::Object exports) {
  Memory::Register(env, exports);
  exports.Set("allocate", Napi::Function::New(env, Allocate, "allocate"));
  exports.Set("createShared", Napi::Function::New(env, CreateShared, "createShared"));
  exports.Set("openShared", Napi::Function::New(env, OpenSharedOf, "openShared"));
  exports.Set("openForeign", Napi::Function::New(env, OpenForeignOf, "openForeign"));
  exports.Set("mapFile", Napi::Function::New(env, MapFile, "mapFile"));
  exports.Set("populateRead", Napi::Function::New(env, PopulateRead, "populateRead"));
}

}  // namespace ckpt::host
