#include "memory.h"

#include "ckpt/napi/environment.h"
#include "ckpt/napi/numbers.h"

namespace ckpt::host {
namespace {

constexpr napi_type_tag kMemoryTag = {0x636b70742d686f73, 0x742d6d656d6f7279};
constexpr const char* kConstructor = "Memory";
// Views share ArrayBuffers over windows of this stride and twice its size, so that thousands of small views need few of them.
constexpr std::size_t kWindowBytes = std::size_t{1} << 30;
// Unmapping more than this takes so long that it is done on another thread than JavaScript's.
constexpr std::size_t kUnmapElsewhereBytes = std::size_t{256} << 20;

// The only access to the constructor: set by Wrap() around its call.
thread_local std::shared_ptr<Mapping> next_mapping;

const char* KindName(Mapping::Kind kind) {
  switch (kind) {
    case Mapping::Kind::kAnonymous:
      return "anonymous";
    case Mapping::Kind::kShared:
      return "shared";
    case Mapping::Kind::kFile:
      return "file";
  }
  return "";
}

}  // namespace

void Memory::Register(Napi::Env env, Napi::Object) {
  const Napi::Function constructor =
      DefineClass(env, kConstructor,
                  {InstanceAccessor<&Memory::GetBytes>("bytes"), InstanceAccessor<&Memory::GetAddress>("address"),
                   InstanceAccessor<&Memory::GetKind>("kind"), InstanceAccessor<&Memory::GetName>("name"),
                   InstanceAccessor<&Memory::GetLocked>("locked"), InstanceAccessor<&Memory::GetLockError>("lockError"),
                   InstanceAccessor<&Memory::GetIdentity>("identity"), InstanceMethod<&Memory::CheckIntact>("checkIntact"),
                   InstanceMethod<&Memory::Window>("window"), InstanceMethod<&Memory::Unlink>("unlink"),
                   InstanceMethod<&Memory::Close>("close")});
  Environment::Of(env).Keep(kConstructor, constructor);
}

Napi::Object Memory::Wrap(Napi::Env env, std::shared_ptr<Mapping> mapping) {
  next_mapping = std::move(mapping);
  return Environment::Of(env).Kept(kConstructor).New({});
}

std::shared_ptr<Mapping> Memory::From(const Napi::Value& value) {
  bool tagged = false;
  if (value.IsObject() && napi_check_object_type_tag(value.Env(), value, &kMemoryTag, &tagged) == napi_ok && tagged) {
    const auto& mapping = Unwrap(value.As<Napi::Object>())->mapping_;
    if (!mapping) throw Error(code::kInvalidState, "the memory is closed");
    return mapping;
  }
  throw Error(code::kInvalidArgument, "not a memory of this addon").WithField("memory");
}

std::vector<std::shared_ptr<Mapping>> Memory::FromArray(const Napi::Value& value) {
  if (!value.IsArray()) throw Error(code::kInvalidArgument, "not an array of memories").WithField("memories");
  const auto array = value.As<Napi::Array>();
  std::vector<std::shared_ptr<Mapping>> mappings;
  mappings.reserve(array.Length());
  for (std::uint32_t i = 0; i < array.Length(); i++) mappings.push_back(From(array.Get(i)));
  return mappings;
}

Memory::Memory(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Memory>(info), mapping_(std::move(next_mapping)) {
  next_mapping = nullptr;
  if (!mapping_) throw Napi::TypeError::New(info.Env(), "memory is made by allocate, createShared, openShared and mapFile");
  bytes_ = mapping_->size();
  kind_ = mapping_->kind();
  name_ = mapping_->name();
  napi_type_tag_object(info.Env(), info.This(), &kMemoryTag);
}

Napi::Value Memory::GetBytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(bytes_));
}

Napi::Value Memory::GetAddress(const Napi::CallbackInfo& info) {
  // An address of a user's memory has 47 bits.
  return Napi::Number::New(info.Env(), mapping_ ? static_cast<double>(reinterpret_cast<std::uintptr_t>(mapping_->data())) : 0);
}

Napi::Value Memory::GetKind(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), KindName(kind_)); }

Napi::Value Memory::GetName(const Napi::CallbackInfo& info) {
  if (name_.empty()) return info.Env().Undefined();
  return Napi::String::New(info.Env(), name_);
}

Napi::Value Memory::GetLocked(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), mapping_ && mapping_->locked());
}

Napi::Value Memory::GetLockError(const Napi::CallbackInfo& info) {
  const std::string error = mapping_ ? mapping_->lock_error() : std::string();
  if (error.empty()) return info.Env().Undefined();
  return Napi::String::New(info.Env(), error);
}

Napi::Value Memory::GetIdentity(const Napi::CallbackInfo& info) {
  if (!mapping_ || !mapping_->identity()) return info.Env().Undefined();
  const Identity& identity = *mapping_->identity();
  Napi::Object result = Napi::Object::New(info.Env());
  // As text: inodes may have more bits than a number can hold.
  result.Set("device", std::to_string(identity.device));
  result.Set("inode", std::to_string(identity.inode));
  result.Set("bytes", static_cast<double>(identity.bytes));
  result.Set("modified", std::to_string(identity.modified));
  if (mapping_->descriptor() >= 0) result.Set("descriptor", mapping_->descriptor());
  return result;
}

void Memory::CheckIntact(const Napi::CallbackInfo& info) {
  Guard(info.Env(), [&] {
    if (mapping_) mapping_->CheckIntact();
  });
}

Napi::ArrayBuffer Memory::BufferOver(Napi::Env env, std::size_t offset, std::size_t length) {
  auto& view = views_[{offset, length}];
  if (!view.buffer.IsEmpty()) {
    const Napi::ArrayBuffer existing = view.buffer.Value();
    if (!existing.IsEmpty()) return existing;
  }
  view.hold = std::make_shared<Hold>(Hold{mapping_});
  auto buffer = Napi::ArrayBuffer::New(
      env, mapping_->data() + offset, length, [](Napi::Env, void*, std::shared_ptr<Hold>* hold) { delete hold; },
      new std::shared_ptr<Hold>(view.hold));
  view.buffer = Napi::Reference<Napi::ArrayBuffer>::New(buffer, 0);
  return buffer;
}

Napi::Value Memory::Window(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return Guard(env, [&]() -> Napi::Value {
    if (!mapping_) throw Error(code::kInvalidState, "the memory is closed");
    const std::uint64_t offset = ToUnsigned(info[0], "offset");
    const std::uint64_t length = ToUnsigned(info[1], "length");
    if (offset > mapping_->size() || length > mapping_->size() - offset) {
      throw Napi::RangeError::New(env, "bytes " + std::to_string(offset) + " + " + std::to_string(length) +
                                           " are outside a memory of " + std::to_string(mapping_->size()) + " bytes");
    }
    std::size_t start = offset, bytes = length;
    if (length <= kWindowBytes && offset < mapping_->size()) {
      start = offset / kWindowBytes * kWindowBytes;
      bytes = std::min(2 * kWindowBytes, mapping_->size() - start);
    }
    Napi::Array result = Napi::Array::New(env, 2);
    result.Set(0u, bytes == 0 ? Napi::ArrayBuffer::New(env, 0) : BufferOver(env, start, bytes));
    result.Set(1u, Napi::Number::New(env, static_cast<double>(offset - start)));
    return result;
  });
}

void Memory::Unlink(const Napi::CallbackInfo& info) {
  Guard(info.Env(), [&] {
    if (!mapping_) throw Error(code::kInvalidState, "the memory is closed");
    mapping_->Unlink();
  });
}

void Memory::Close(const Napi::CallbackInfo& info) {
  for (auto& [range, view] : views_) {
    const Napi::ArrayBuffer buffer = view.buffer.IsEmpty() ? Napi::ArrayBuffer() : view.buffer.Value();
    // A buffer that cannot be detached keeps its hold, and thus the mapping, until it is garbage-collected.
    if (buffer.IsEmpty() || napi_detach_arraybuffer(info.Env(), buffer) == napi_ok) view.hold->mapping = nullptr;
  }
  views_.clear();
  if (mapping_ && mapping_->size() > kUnmapElsewhereBytes) {
    Guard(info.Env(),
          [&] { Environment::Of(info.Env()).pool().Post([last = std::move(mapping_)]() mutable { last = nullptr; }); });
  }
  mapping_ = nullptr;
}

}  // namespace ckpt::host
