# What the CMakeLists of every addon share. Included after project(); defines CKPT_COMMON (the directory of the shared headers).

option(CKPT_ENGINE_ONLY "Build the engine library and its test programs without Node (for sanitizer runs, fuzzers and checks on devices)" OFF)
set(CKPT_SANITIZE "" CACHE STRING "Sanitizers for -fsanitize=, for example address,undefined or thread")

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
find_package(Threads REQUIRED)
set(CKPT_COMMON ${CMAKE_CURRENT_LIST_DIR}/include)

# The flags of everything in one addon, as an interface library. No -march: wider instruction sets are chosen at run time, in the
# functions that use them.
function(ckpt_flags name)
  add_library(${name} INTERFACE)
  target_compile_options(${name} INTERFACE -O3 -Wall -Wextra)
  # Not for an installed package: a compiler that warns of more than ours must not keep it from being built.
  if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/../common/include)
    target_compile_options(${name} INTERFACE -Werror)
  endif()
  target_link_libraries(${name} INTERFACE Threads::Threads)
  if(CKPT_SANITIZE)
    target_compile_options(${name} INTERFACE -g -O1 -fno-omit-frame-pointer -fsanitize=${CKPT_SANITIZE} -fno-sanitize-recover=all)
    target_link_options(${name} INTERFACE -fsanitize=${CKPT_SANITIZE})
  endif()
endfunction()

# The engine library from src/engine; further arguments are what it links with.
function(ckpt_engine name)
  file(GLOB sources CONFIGURE_DEPENDS src/engine/*.cc)
  add_library(${name} STATIC ${sources})
  target_include_directories(${name} PUBLIC ${CKPT_COMMON} PUBLIC src/engine)
  target_link_libraries(${name} PUBLIC ${ARGN})
endfunction()

# A program for each test/engine/*_test.cc, and a test of CTest for each of its cases. None where doctest is missing.
function(ckpt_engine_tests engine)
  find_path(CKPT_DOCTEST doctest/doctest.h)
  if(NOT CKPT_DOCTEST)
    message(STATUS "Without the engine's tests: doctest/doctest.h was not found (Debian and Ubuntu: apt-get install doctest-dev)")
    return()
  endif()
  find_package(doctest REQUIRED)
  include(doctest)
  file(GLOB sources CONFIGURE_DEPENDS test/engine/*_test.cc)
  foreach(source ${sources})
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    target_compile_definitions(${name} PRIVATE DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN)
    target_include_directories(${name} SYSTEM PRIVATE ${CKPT_DOCTEST})
    target_include_directories(${name} PRIVATE ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/test)
    target_link_libraries(${name} PRIVATE ${engine})
    # A report of a sanitizer fails a test, even one from a process that the test started.
    doctest_discover_tests(${name} PROPERTIES FAIL_REGULAR_EXPRESSION "ERROR: |WARNING: ThreadSanitizer|runtime error:")
  endforeach()
endfunction()

# The addon itself; SOURCES, LINK what it links with, and by name the optional inputs that were found (WITH) and that were not
# (WITHOUT): its `buildInfo`.
function(ckpt_addon name)
  cmake_parse_arguments(addon "" "" "SOURCES;LINK;WITH;WITHOUT" ${ARGN})
  string(REPLACE ";" " " with "${addon_WITH}")
  string(REPLACE ";" " " without "${addon_WITHOUT}")
  add_library(${name} SHARED ${addon_SOURCES} ${CMAKE_JS_SRC})
  set_target_properties(${name} PROPERTIES PREFIX "" SUFFIX ".node")
  # System headers: warnings in Node's own are not ours.
  target_include_directories(${name} SYSTEM PRIVATE ${CMAKE_JS_INC})
  target_include_directories(${name} PRIVATE ${CKPT_COMMON})
  target_compile_definitions(${name} PRIVATE NAPI_VERSION=8 NAPI_CPP_EXCEPTIONS NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
                                             "CKPT_BUILT_WITH=\"${with}\"" "CKPT_BUILT_WITHOUT=\"${without}\"")
  target_link_libraries(${name} PRIVATE ${addon_LINK} ${CMAKE_JS_LIB})
endfunction()
