#pragma once

/// Everything in one include.
#include <sparsum/assignments.h>
#include <sparsum/categorical.h>
#include <sparsum/distribution.h>
#include <sparsum/entmax.h>
#include <sparsum/entmax_loss.h>
#include <sparsum/estimator.h>
#include <sparsum/expectation.h>
#include <sparsum/sparse_distribution.h>
#include <sparsum/sparsemax.h>
#include <sparsum/structure.h>
#include <sparsum/support.h>
#include <sparsum/top_k_sparsemax.h>
