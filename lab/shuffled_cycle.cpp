#include "lab/shuffled_cycle.h"

#include "lab/checkpoint.h"

namespace sparsum::lab {

ShuffledCycle::ShuffledCycle(at::Tensor indices, at::Generator generator)
    : indices_(std::move(indices)), place_(indices_.size(0)), generator_(std::move(generator)) {
  TORCH_CHECK(indices_.size(0) > 0, "ShuffledCycle: expected at least one index, got none");
  order_ = indices_;
}

at::Tensor ShuffledCycle::next(int64_t count) {
  std::vector<at::Tensor> pieces;
  while (count > 0) {
    if (place_ == order_.size(0)) {
      order_ = indices_.index_select(0, at::randperm(indices_.size(0), generator_, at::kLong));
      place_ = 0;
    }
    const int64_t taken = std::min(count, order_.size(0) - place_);
    pieces.push_back(order_.narrow(0, place_, taken));
    place_ += taken;
    count -= taken;
  }
  return pieces.size() == 1 ? pieces.front() : at::cat(pieces);
}

void ShuffledCycle::save(Checkpoint& checkpoint, const std::string& name) const {
  checkpoint.put("order/" + name, order_);
  checkpoint.put("place/" + name, at::scalar_tensor(place_, at::kLong));
  checkpoint.put_generator("order/" + name, generator_);
}

void ShuffledCycle::load(const Checkpoint& checkpoint, const std::string& name) {
  at::Tensor order = at::empty_like(indices_), place = at::empty({}, at::kLong);
  checkpoint.copy_to("order/" + name, order);
  checkpoint.copy_to("place/" + name, place);
  checkpoint.load_generator("order/" + name, generator_);
  order_ = order;
  place_ = place.item<int64_t>();
}

}  // namespace sparsum::lab
