# Compiler flags, ccache and the linker, for the targets of this project only.

find_program(SPARSUM_CCACHE ccache)
if(SPARSUM_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # pch_defines,time_macros: what ccache asks for to cache files that use a precompiled header.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      "${CMAKE_COMMAND};-E;env;CCACHE_SLOPPINESS=pch_defines,time_macros;${SPARSUM_CCACHE}")
endif()

find_program(SPARSUM_MOLD mold)

# Position-independent code everywhere, asked for in the same words for libraries and programs, so that
# all share one precompiled header.
add_library(sparsum_flags INTERFACE)
target_compile_options(
  sparsum_flags
  INTERFACE -fPIC
            -Wall
            -Wextra
            -Wshadow
            -Wnon-virtual-dtor
            # GCC 12 reports maybe-uninitialized inside std::optional and c10 smart pointers of LibTorch's headers.
            -Wno-maybe-uninitialized
            # Highway's vector types carry attributes that GCC drops, harmlessly, in template arguments.
            -Wno-ignored-attributes
            $<$<BOOL:${SPARSUM_WERROR}>:-Werror>
            $<$<BOOL:${SPARSUM_CCACHE}>:-fpch-preprocess>)
if(SPARSUM_MOLD)
  target_link_options(sparsum_flags INTERFACE -fuse-ld=mold)
endif()
if(SPARSUM_SANITIZE)
  target_compile_options(sparsum_flags INTERFACE -fsanitize=${SPARSUM_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(sparsum_flags INTERFACE -fsanitize=${SPARSUM_SANITIZE})
  if(SPARSUM_SANITIZE MATCHES thread AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # LibTorch's intrusive pointers use fences, which GCC's thread sanitizer does not model.
    target_compile_options(sparsum_flags INTERFACE -Wno-tsan)
  endif()
endif()

# sparsum_torch_target(<target>): flags, LibTorch and the shared precompiled header.
function(sparsum_torch_target target)
  target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:sparsum_flags>)
  target_precompile_headers(${target} REUSE_FROM sparsum_pch)
  set_target_properties(${target} PROPERTIES DEFINE_SYMBOL "")
endfunction()
