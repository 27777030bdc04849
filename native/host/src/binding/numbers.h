#pragma once

// Argument checks are shared by all addons.
#include "ckpt/napi/numbers.h"
