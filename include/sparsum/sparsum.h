#pragma once

/// Everything in one include.
#include <sparsum/assignments.h>
#include <sparsum/bits.h>
#include <sparsum/budget_sparsemax.h>
#include <sparsum/categorical.h>
#include <sparsum/custom_structure.h>
#include <sparsum/distribution.h>
#include <sparsum/entmax.h>
#include <sparsum/entmax_loss.h>
#include <sparsum/estimator.h>
#include <sparsum/expectation.h>
#include <sparsum/linear_cross_entropy.h>
#include <sparsum/normmax.h>
#include <sparsum/scalar_perceptron.h>
#include <sparsum/sparse_distribution.h>
#include <sparsum/sparsemap.h>
#include <sparsum/sparsemax.h>
#include <sparsum/structure.h>
#include <sparsum/support.h>
#include <sparsum/top_k_sparsemax.h>
