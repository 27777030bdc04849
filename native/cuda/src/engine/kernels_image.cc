// Contains the compiled kernels inside the library. Without nvcc there is no image.
#include "kernels_image.h"

#ifdef CKPT_KERNELS_IMAGE
__asm__(
    ".section .rodata\n"
    ".balign 64\n"
    ".local ckpt_kernels_begin\n"
    "ckpt_kernels_begin:\n"
    ".incbin \"" CKPT_KERNELS_IMAGE
    "\"\n"
    ".byte 0\n"
    ".previous\n");
extern "C" const unsigned char ckpt_kernels_begin[];
#endif

namespace ckpt::cuda {

const void* KernelsImage() {
#ifdef CKPT_KERNELS_IMAGE
  return ckpt_kernels_begin;
#else
  return nullptr;
#endif
}

}  // namespace ckpt::cuda
