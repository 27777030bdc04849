// Compiled, never run: compares cuda_abi.h with the installed cuda.h.
#include <cuda.h>

#include <type_traits>

#include "cuda_abi.h"

namespace abi = ckpt::cuda::abi;

static_assert(sizeof(CUdevice) == sizeof(abi::Device));
static_assert(sizeof(CUdeviceptr) == sizeof(abi::DevicePointer));
static_assert(sizeof(CUuuid) == sizeof(abi::Uuid));
static_assert(sizeof(CUipcMemHandle) == sizeof(abi::IpcMemHandle) && alignof(CUipcMemHandle) == alignof(abi::IpcMemHandle));
static_assert(sizeof(CUresult) == sizeof(abi::Result));
static_assert(CUDA_ERROR_INVALID_VALUE == abi::kErrorInvalidValue);
static_assert(CUDA_SUCCESS == abi::kSuccess && CUDA_ERROR_OUT_OF_MEMORY == abi::kErrorOutOfMemory);
static_assert(CUDA_ERROR_NOT_READY == abi::kErrorNotReady);
static_assert(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT == abi::kAttributeMultiprocessorCount);
static_assert(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR == abi::kAttributeComputeCapabilityMajor);
static_assert(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR == abi::kAttributeComputeCapabilityMinor);
static_assert(CU_STREAM_NON_BLOCKING == abi::kStreamNonBlocking);
static_assert(CU_MEMHOSTREGISTER_PORTABLE == abi::kMemHostRegisterPortable);
static_assert(CU_MEMHOSTREGISTER_DEVICEMAP == abi::kMemHostRegisterDeviceMap);
static_assert(CU_MEMHOSTREGISTER_READ_ONLY == abi::kMemHostRegisterReadOnly);
static_assert(sizeof(CUDA_MEMCPY2D) == sizeof(abi::Memcpy2d));
static_assert(offsetof(CUDA_MEMCPY2D, srcPitch) == offsetof(abi::Memcpy2d, srcPitch));
static_assert(offsetof(CUDA_MEMCPY2D, dstDevice) == offsetof(abi::Memcpy2d, dstDevice));
static_assert(offsetof(CUDA_MEMCPY2D, Height) == offsetof(abi::Memcpy2d, height));
static_assert(CU_MEMORYTYPE_HOST == abi::kMemoryTypeHost && CU_MEMORYTYPE_DEVICE == abi::kMemoryTypeDevice);

#if CUDA_VERSION >= 13000
static_assert(sizeof(CUmemcpyAttributes) == sizeof(abi::MemcpyAttributes));
static_assert(offsetof(CUmemcpyAttributes, flags) == offsetof(abi::MemcpyAttributes, flags));
static_assert(CU_MEMCPY_SRC_ACCESS_ORDER_STREAM == abi::kSrcAccessOrderStream);
static_assert(std::is_same_v<decltype(&cuMemcpyBatchAsync), CUresult (*)(CUdeviceptr*, CUdeviceptr*, size_t*, size_t,
                                                                         CUmemcpyAttributes*, size_t*, size_t, CUstream)>);
#endif
