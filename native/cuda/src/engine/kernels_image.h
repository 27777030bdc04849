#pragma once

namespace ckpt::cuda {

/// The fat binary with the kernels of kernels.cu; null if the addon was built without nvcc.
const void* KernelsImage();

}  // namespace ckpt::cuda
