#pragma once

namespace sparsum::lab {

/// The version of this project, e.g. "0.1.0".
const char* version();
/// The version of LibTorch that was compiled against, e.g. "2.13.0".
const char* torch_version();

}  // namespace sparsum::lab
