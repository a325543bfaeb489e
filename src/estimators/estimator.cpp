#include "estimators/estimators.h"

#include <sparsum/estimator.h>
#include <torch/torch.h>

#include <algorithm>
#include <numeric>

namespace sparsum {
namespace {

struct Entry {
  const char* name;
  std::shared_ptr<Estimator> (*make)(const Making&);
};

/// In the order of docs/estimators.md.
constexpr Entry kEstimators[] = {
    {"dense", make_dense},
    {"sparsemax", make_sparsemax},
    {"entmax", make_entmax},
    {"top-k", make_top_k},
    {"top-k-adaptive", make_top_k_adaptive},
    {"sparsemap", make_sparsemap},
    {"sparsemap-budget", make_sparsemap_budget},
    {"sfe", make_sfe},
    {"sfe-plus", make_sfe_plus},
    {"sfe-loo", make_sfe_loo},
    {"nvil", make_nvil},
    {"sum-and-sample", make_sum_and_sample},
    {"unordered-set", make_unordered_set},
    {"rebar", make_rebar},
    {"relax", make_relax},
    {"arm", make_arm},
    {"disarm", make_disarm},
    {"muprop", make_muprop},
    {"vimco", make_vimco},
    {"gumbel", make_gumbel},
    {"st-gumbel", make_st_gumbel},
    {"straight-through", make_straight_through},
    {"imle", make_imle},
};

/// Levenshtein's distance: insertions, deletions and replacements that turn one word into another.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

}  // namespace

int64_t own_k(const char* name, int64_t k, int64_t own) {
  TORCH_CHECK(k >= 0, "estimator '", name, "': expected k >= 1, or 0 for ", own, ", got ", k);
  return k == 0 ? own : k;
}

at::Tensor Estimator::supervised_loss(const at::Tensor& scores, const at::Tensor& target) const {
  return at::cross_entropy_loss(scores, target, /*weight=*/{}, at::Reduction::None);
}

at::Tensor Estimator::evaluations(const Structure& structure, const at::Tensor& scores) const {
  const at::NoGradGuard no_grad;
  return distribution(structure, scores)->enumerate().evaluations();
}

std::vector<std::string> estimator_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kEstimators) names.emplace_back(entry.name);
  return names;
}

std::shared_ptr<Estimator> make_estimator(const std::string& name, const EstimatorOptions& options,
                                          std::optional<at::Generator> generator) {
  std::string known;
  const Entry* nearest = nullptr;
  for (const Entry& entry : kEstimators) {
    if (name == entry.name) return entry.make({options, generator});
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
    if (!nearest || edit_distance(name, entry.name) < edit_distance(name, nearest->name)) {
      nearest = &entry;
    }
  }
  TORCH_CHECK(false, "unknown estimator '", name, "'; did you mean '", nearest->name,
              "'? Known are: ", known);
}

}  // namespace sparsum
