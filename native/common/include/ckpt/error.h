#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

namespace ckpt {

/// Codes that native code uses; the same words as ERROR_CODES of @ckpt/contract.
namespace code {
inline constexpr const char* kInvalidArgument = "INVALID_ARGUMENT";
inline constexpr const char* kInvalidState = "INVALID_STATE";
inline constexpr const char* kAborted = "ABORTED";
inline constexpr const char* kTimeout = "TIMEOUT";
inline constexpr const char* kUnsupported = "UNSUPPORTED";
inline constexpr const char* kOutOfMemory = "OUT_OF_MEMORY";
inline constexpr const char* kNativeFailure = "NATIVE_FAILURE";
inline constexpr const char* kRankLost = "RANK_LOST";
inline constexpr const char* kPeerLost = "PEER_LOST";
inline constexpr const char* kPeerUnauthorized = "PEER_UNAUTHORIZED";
inline constexpr const char* kPeerProtocol = "PEER_PROTOCOL";
inline constexpr const char* kRegionRefused = "REGION_REFUSED";
inline constexpr const char* kAddonUnavailable = "ADDON_UNAVAILABLE";
inline constexpr const char* kMemoryRefused = "MEMORY_REFUSED";
inline constexpr const char* kMemoryChanged = "MEMORY_CHANGED";
inline constexpr const char* kCheckpointUnreadable = "CHECKPOINT_UNREADABLE";
inline constexpr const char* kCheckpointChanged = "CHECKPOINT_CHANGED";
}  // namespace code

/// A failure with a stable code and fields that locate it. It arrives in JavaScript as an Error with the same properties; empty
/// fields are left out.
class Error : public std::runtime_error {
 public:
  Error(const char* code, const std::string& message) : std::runtime_error(message), code_(code) {}

  /// Returns an error with `what`, followed by the text of the error number, which is also kept as a field.
  static Error System(const char* code, const std::string& what, int number) {
    Error error(code, what + ": " + Describe(number));
    error.errno_ = number;
    return error;
  }

  Error&& WithFile(std::string path) && {
    file_ = std::move(path);
    return std::move(*this);
  }
  Error&& WithField(std::string field) && {
    field_ = std::move(field);
    return std::move(*this);
  }
  Error&& WithPeer(std::string peer) && {
    peer_ = std::move(peer);
    return std::move(*this);
  }

  /// Sets the number of a failing library that describes its errors itself (a CUDA or NCCL result).
  Error&& WithNumber(int number) && {
    errno_ = number;
    return std::move(*this);
  }

  /// Sets the index, if the field has several elements.
  Error&& WithIndex(std::int64_t index) && {
    index_ = index;
    return std::move(*this);
  }

  /// Sets the position of the group's member that caused it.
  Error&& WithMember(std::int64_t member) && {
    member_ = member;
    return std::move(*this);
  }

  const std::string& code() const { return code_; }
  /// 0 if no system call or library returned one.
  int error_number() const { return errno_; }
  const std::string& file() const { return file_; }
  const std::string& field() const { return field_; }
  const std::string& peer() const { return peer_; }
  /// -1 if there is none.
  std::int64_t index() const { return index_; }
  /// -1 if there is none.
  std::int64_t member() const { return member_; }

  /// Returns the system's text for an error number (thread-safe).
  static std::string Describe(int number) {
    char buffer[256] = "";
    return std::string(strerror_r(number, buffer, sizeof buffer));
  }

 private:
  std::string code_;
  int errno_ = 0;
  std::string file_;
  std::string field_;
  std::string peer_;
  std::int64_t index_ = -1;
  std::int64_t member_ = -1;
};

}  // namespace ckpt
