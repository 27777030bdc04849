# libaegis, the AEGIS ciphers by one of their authors, from the source that `npm run setup` brings (scripts/lib/libaegis.mjs), pinned by a
# digest. Without it the engine has AES-256-GCM alone. Sets CKPT_INPUTS, for ckpt_addon.

option(CKPT_WITHOUT_AEGIS "Build without AEGIS even where libaegis is found" OFF)

find_path(CKPT_AEGIS_SOURCE c_src/include/aegis128x4.h NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH
          PATHS ${CMAKE_CURRENT_SOURCE_DIR}/../../.cache/libaegis)
if(NOT CKPT_AEGIS_SOURCE OR CKPT_WITHOUT_AEGIS)
  set(CKPT_INPUTS WITHOUT libaegis)
  return()
endif()
set(CKPT_INPUTS WITH libaegis)

file(STRINGS ${CKPT_AEGIS_SOURCE}/PKG-INFO version REGEX "^Version: [0-9.]+$" LIMIT_COUNT 1)
string(REPLACE "Version: " "" version "${version}")
file(GLOB sources ${CKPT_AEGIS_SOURCE}/c_src/aegis*/*.c ${CKPT_AEGIS_SOURCE}/c_src/common/*.c)
add_library(ckpt_aegis STATIC ${sources})
set_target_properties(ckpt_aegis PROPERTIES C_STANDARD 11 C_VISIBILITY_PRESET hidden)
target_compile_options(ckpt_aegis PRIVATE -O3 -w)
# Warnings in its headers are not ours.
target_include_directories(ckpt_aegis SYSTEM PUBLIC ${CKPT_AEGIS_SOURCE}/c_src/include)
target_compile_definitions(ckpt_host_engine PRIVATE CKPT_AEGIS_VERSION="${version}")
target_link_libraries(ckpt_host_engine PRIVATE ckpt_aegis)
