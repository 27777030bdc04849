#pragma once

#include <napi.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../engine/mapping.h"

namespace ckpt::host {

/// The JavaScript side of a Mapping. Views are external ArrayBuffers over the mapping, which they hold. Close() detaches them
/// and releases the mapping, which is unmapped after the last native user has released it. Instances are created only by Wrap()
/// and are type-tagged, so that no other object is accepted as one.
class Memory : public Napi::ObjectWrap<Memory> {
 public:
  static void Register(Napi::Env env, Napi::Object exports);
  /// A new JavaScript object that holds `mapping`.
  static Napi::Object Wrap(Napi::Env env, std::shared_ptr<Mapping> mapping);
  /// The mapping of a JavaScript value. @throws Error INVALID_ARGUMENT if it is not a Memory, INVALID_STATE if it is closed.
  static std::shared_ptr<Mapping> From(const Napi::Value& value);
  /// The same for an array of values.
  static std::vector<std::shared_ptr<Mapping>> FromArray(const Napi::Value& value);

  explicit Memory(const Napi::CallbackInfo& info);

 private:
  /// What an ArrayBuffer holds; emptied by Close(), so that the mapping does not wait for garbage collection.
  struct Hold {
    std::shared_ptr<Mapping> mapping;
  };
  struct View {
    Napi::Reference<Napi::ArrayBuffer> buffer;
    std::shared_ptr<Hold> hold;
  };

  Napi::Value GetBytes(const Napi::CallbackInfo& info);
  Napi::Value GetAddress(const Napi::CallbackInfo& info);
  Napi::Value GetKind(const Napi::CallbackInfo& info);
  Napi::Value GetName(const Napi::CallbackInfo& info);
  Napi::Value GetLocked(const Napi::CallbackInfo& info);
  Napi::Value GetLockError(const Napi::CallbackInfo& info);
  /// Identity of the memory (NativeIdentity), or undefined for private memory.
  Napi::Value GetIdentity(const Napi::CallbackInfo& info);
  /// checkIntact(): void. @throws MEMORY_CHANGED naming the file.
  void CheckIntact(const Napi::CallbackInfo& info);
  /// window(offset, length): [ArrayBuffer, offset in it] that contains the range.
  Napi::Value Window(const Napi::CallbackInfo& info);
  void Unlink(const Napi::CallbackInfo& info);
  void Close(const Napi::CallbackInfo& info);

  Napi::ArrayBuffer BufferOver(Napi::Env env, std::size_t offset, std::size_t length);

  std::shared_ptr<Mapping> mapping_;
  std::size_t bytes_ = 0;
  Mapping::Kind kind_ = Mapping::Kind::kAnonymous;
  std::string name_;
  std::map<std::pair<std::size_t, std::size_t>, View> views_;
};

}  // namespace ckpt::host
