// What a kernel may include for CUDA itself, which is there without.
#pragma once
#include "cuda_emulator.h"
