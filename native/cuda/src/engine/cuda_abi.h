// The part of the CUDA driver's binary interface that this addon uses, declared here so that it builds without CUDA.
// test/abi_check.cc compares these declarations with cuda.h if it is installed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ckpt::cuda::abi {

using Result = int;
using Device = int;
using DevicePointer = unsigned long long;
using Context = struct ContextTag*;
using Stream = struct StreamTag*;
using Event = struct EventTag*;
using Module = struct ModuleTag*;
using Function = struct FunctionTag*;

struct Uuid {
  char bytes[16];
};

struct IpcMemHandle {
  char reserved[64];
};

struct MemLocation {
  int type;
  int id;
};

struct MemcpyAttributes {
  int srcAccessOrder;
  MemLocation srcLocHint;
  MemLocation dstLocHint;
  unsigned int flags;
};

struct Memcpy2d {
  size_t srcXInBytes, srcY;
  unsigned int srcMemoryType;
  const void* srcHost;
  DevicePointer srcDevice;
  void* srcArray;
  size_t srcPitch;
  size_t dstXInBytes, dstY;
  unsigned int dstMemoryType;
  void* dstHost;
  DevicePointer dstDevice;
  void* dstArray;
  size_t dstPitch;
  size_t widthInBytes, height;
};

constexpr Result kSuccess = 0;
constexpr Result kErrorInvalidValue = 1;
constexpr Result kErrorOutOfMemory = 2;
constexpr Result kErrorNoDevice = 100;
constexpr Result kErrorNotReady = 600;

constexpr int kAttributeMultiprocessorCount = 16;
constexpr int kAttributeComputeCapabilityMajor = 75;
constexpr int kAttributeComputeCapabilityMinor = 76;

constexpr unsigned int kStreamNonBlocking = 1;
constexpr unsigned int kEventDefault = 0;
constexpr unsigned int kEventDisableTiming = 2;
constexpr unsigned int kMemHostRegisterPortable = 1;
constexpr unsigned int kMemHostRegisterDeviceMap = 2;
constexpr unsigned int kMemHostRegisterReadOnly = 8;
constexpr unsigned int kIpcLazyEnablePeerAccess = 1;
constexpr int kSrcAccessOrderStream = 1;
constexpr unsigned int kMemoryTypeHost = 1;
constexpr unsigned int kMemoryTypeDevice = 2;

/**
 * Every driver function used: X(member, exported symbol, parameters). Symbols carry their version suffix, so that newer drivers
 * provide the interface declared here.
 */
#define CKPT_CUDA_FUNCTIONS(X)                                                                                                \
  X(init, "cuInit", (unsigned int flags))                                                                                     \
  X(driverGetVersion, "cuDriverGetVersion", (int* version))                                                                   \
  X(getErrorName, "cuGetErrorName", (Result error, const char** text))                                                        \
  X(getErrorString, "cuGetErrorString", (Result error, const char** text))                                                    \
  X(deviceGetCount, "cuDeviceGetCount", (int* count))                                                                         \
  X(deviceGet, "cuDeviceGet", (Device * device, int ordinal))                                                                 \
  X(deviceGetName, "cuDeviceGetName", (char* name, int length, Device device))                                                \
  X(deviceGetUuid, "cuDeviceGetUuid_v2", (Uuid * uuid, Device device))                                                        \
  X(deviceGetAttribute, "cuDeviceGetAttribute", (int* value, int attribute, Device device))                                   \
  X(deviceGetPciBusId, "cuDeviceGetPCIBusId", (char* text, int length, Device device))                                        \
  X(deviceTotalMem, "cuDeviceTotalMem_v2", (size_t* bytes, Device device))                                                    \
  X(deviceCanAccessPeer, "cuDeviceCanAccessPeer", (int* can, Device device, Device peer))                                     \
  X(primaryCtxRetain, "cuDevicePrimaryCtxRetain", (Context * context, Device device))                                         \
  X(primaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (Device device))                                                       \
  X(ctxSetCurrent, "cuCtxSetCurrent", (Context context))                                                                      \
  X(ctxSynchronize, "cuCtxSynchronize", (void))                                                                               \
  X(memGetInfo, "cuMemGetInfo_v2", (size_t* free, size_t* total))                                                             \
  X(memAlloc, "cuMemAlloc_v2", (DevicePointer * pointer, size_t bytes))                                                       \
  X(memFree, "cuMemFree_v2", (DevicePointer pointer))                                                                         \
  X(memGetAddressRange, "cuMemGetAddressRange_v2", (DevicePointer * base, size_t* bytes, DevicePointer pointer))              \
  X(memHostRegister, "cuMemHostRegister_v2", (void* address, size_t bytes, unsigned int flags))                               \
  X(memHostUnregister, "cuMemHostUnregister", (void* address))                                                                \
  X(memHostGetDevicePointer, "cuMemHostGetDevicePointer_v2", (DevicePointer * pointer, void* address, unsigned int flags))    \
  X(memcpyHtoDAsync, "cuMemcpyHtoDAsync_v2", (DevicePointer to, const void* from, size_t bytes, Stream stream))               \
  X(memcpyDtoHAsync, "cuMemcpyDtoHAsync_v2", (void* to, DevicePointer from, size_t bytes, Stream stream))                     \
  X(memcpyDtoDAsync, "cuMemcpyDtoDAsync_v2", (DevicePointer to, DevicePointer from, size_t bytes, Stream stream))             \
  X(memcpy2dAsync, "cuMemcpy2DAsync_v2", (const Memcpy2d* copy, Stream stream))                                               \
  X(memsetD8Async, "cuMemsetD8Async", (DevicePointer to, unsigned char value, size_t bytes, Stream stream))                   \
  X(ipcGetMemHandle, "cuIpcGetMemHandle", (IpcMemHandle * handle, DevicePointer pointer))                                     \
  X(ipcOpenMemHandle, "cuIpcOpenMemHandle_v2", (DevicePointer * pointer, IpcMemHandle handle, unsigned int flags))            \
  X(ipcCloseMemHandle, "cuIpcCloseMemHandle", (DevicePointer pointer))                                                        \
  X(streamCreate, "cuStreamCreateWithPriority", (Stream * stream, unsigned int flags, int priority))                          \
  X(streamDestroy, "cuStreamDestroy_v2", (Stream stream))                                                                     \
  X(streamQuery, "cuStreamQuery", (Stream stream))                                                                            \
  X(streamSynchronize, "cuStreamSynchronize", (Stream stream))                                                                \
  X(streamWaitEvent, "cuStreamWaitEvent", (Stream stream, Event event, unsigned int flags))                                   \
  X(eventCreate, "cuEventCreate", (Event * event, unsigned int flags))                                                        \
  X(eventDestroy, "cuEventDestroy_v2", (Event event))                                                                         \
  X(eventRecord, "cuEventRecord", (Event event, Stream stream))                                                               \
  X(eventQuery, "cuEventQuery", (Event event))                                                                                \
  X(eventSynchronize, "cuEventSynchronize", (Event event))                                                                    \
  X(eventElapsedTime, "cuEventElapsedTime", (float* milliseconds, Event start, Event end))                                    \
  X(moduleLoadData, "cuModuleLoadData", (Module * module, const void* image))                                                 \
  X(moduleUnload, "cuModuleUnload", (Module module))                                                                          \
  X(moduleGetFunction, "cuModuleGetFunction", (Function * function, Module module, const char* name))                         \
  X(launchKernel, "cuLaunchKernel",                                                                                           \
    (Function function, unsigned int gridX, unsigned int gridY, unsigned int gridZ, unsigned int blockX, unsigned int blockY, \
     unsigned int blockZ, unsigned int sharedBytes, Stream stream, void** parameters, void** extra))

/** Functions that older drivers lack; null then. The batch copy is the interface of CUDA 13 (without a failure index). */
#define CKPT_CUDA_OPTIONAL_FUNCTIONS(X)                                                                   \
  X(memcpyBatchAsync, "cuMemcpyBatchAsync_v2",                                                            \
    (DevicePointer * to, DevicePointer * from, size_t* bytes, size_t count, MemcpyAttributes* attributes, \
     size_t* attributeIndices, size_t attributeCount, Stream stream))

/** The driver's functions, filled in when the library is loaded. */
struct Api {
#define CKPT_DECLARE(member, symbol, parameters) Result(*member) parameters = nullptr;
  CKPT_CUDA_FUNCTIONS(CKPT_DECLARE)
  CKPT_CUDA_OPTIONAL_FUNCTIONS(CKPT_DECLARE)
#undef CKPT_DECLARE
};

}  // namespace ckpt::cuda::abi
